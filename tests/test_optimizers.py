"""Learning rates are compared with closed forms, for one optimizer and for two. So is a variant of Adam."""

import math

import pytest
import torch
from conftest import compose, start, trained
from lightning.pytorch.callbacks import Callback

from aelab.composition.instantiate import build
from aelab.errors import UserError
from aelab.training.fit import fit

LR = 1e-3
STEPS = 13  # per epoch


class Rates(Callback):
    """Keeps the rate of every optimizer at every step."""

    def __init__(self):
        self.rates: list[set[float]] = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append({group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups})


def rates(folder, *overrides: str) -> list[float]:
    """Return the rate of each step as a multiple of LR. Two optimizers of a model must have the same rate."""
    probe = Rates()
    fit(start(folder, "data.batch_size=100", "logger=[]", "~callbacks.pictures", *overrides), callbacks=[probe])
    assert all(len(rates) == 1 for rates in probe.rates)
    return [rates.pop() / LR for rates in probe.rates]


def cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


CASES = {
    "none": ([], lambda step: 1.0, 2 * STEPS),
    "none, warmed up by epoch": (["scheduler.warmup=1"], lambda step: 0.5 if step < STEPS else 1.0, 2 * STEPS),
    "cosine": (["trainer.max_epochs=4"], lambda step: cosine(step // STEPS / 4), 4 * STEPS),
    "cosine by step": (["scheduler.interval=step"], lambda step: cosine(step / (2 * STEPS)), 2 * STEPS),
    "cosine, max_steps": (["trainer.max_epochs=9", "trainer.max_steps=20"], lambda step: cosine(step // STEPS / 2), 20),
    "cosine, no epochs": (
        ["trainer.max_epochs=-1", "trainer.max_steps=20"],
        lambda step: cosine(step // STEPS / 2),
        20,
    ),
    "cosine, warmed up": (
        ["scheduler.interval=step", "scheduler.warmup=5", "trainer.max_steps=20"],
        lambda step: (step + 1) / 6 if step < 5 else cosine((step - 5) / 15),
        20,
    ),
    "cosine, total": (["scheduler.interval=step", "scheduler.total=40"], lambda step: cosine(step / 40), 2 * STEPS),
    "multistep": (
        ["scheduler.interval=step", "scheduler.warmup=3", "scheduler.milestones=[6,9]"],
        lambda step: (step + 1) / 4 if step < 3 else 0.1 ** ((step >= 6) + (step >= 9)),
        2 * STEPS,
    ),
    # There is a validation every second epoch, and the loss does not improve after the first one.
    "plateau": (
        ["scheduler.patience=0", "optimizer.lr=1e-7", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=7"],
        lambda step: 1e-4 * 0.5 ** max(step // STEPS // 2 - 1, 0),
        7 * STEPS,
    ),
}


@pytest.mark.parametrize("model", ["ae", "aae"])
@pytest.mark.parametrize("case", CASES)
def test_the_rate_is_that_of_the_formula(case, model, tmp_path):
    words, formula, steps = CASES[case]
    name = case.split()[0].strip(",")
    found = rates(tmp_path / "run", "trainer.max_epochs=2", f"model={model}", f"scheduler={name}", *words)
    assert found == pytest.approx([formula(step) for step in range(steps)], rel=1e-6, abs=1e-18)


def test_accumulated_batches_are_one_step(tmp_path):
    """An epoch of thirteen batches has five steps if three batches make a step."""
    words = ["trainer.accumulate_grad_batches=3", "scheduler=cosine", "scheduler.interval=step", "trainer.max_epochs=2"]
    found = rates(tmp_path / "run", *words)
    assert found[0] == 1
    assert found[3] == pytest.approx(cosine(1 / 10))
    assert found[-1] == pytest.approx(cosine(9 / 10))


def test_a_cosine_without_an_end(tmp_path):
    with pytest.raises(UserError, match="scheduler.total="):
        rates(tmp_path / "run", "trainer.max_epochs=-1", "scheduler=cosine")


def test_a_scheduler_of_torch_steps_once_per_epoch(tmp_path):
    words = ["scheduler._target_=torch.optim.lr_scheduler.ExponentialLR", "+scheduler._partial_=true"]
    words += ["~scheduler.interval", "~scheduler.warmup", "+scheduler.gamma=0.5", "trainer.max_epochs=3"]
    found = rates(tmp_path / "run", *words)
    assert found == pytest.approx([0.5 ** (step // STEPS) for step in range(3 * STEPS)])


def test_max_steps_end_with_a_validation(tmp_path):
    """The best weights are those after the last step, also if that step is in the middle of an epoch."""
    run = trained(tmp_path / "run", "data.batch_size=100", "trainer.max_steps=5", "trainer.max_epochs=9")
    states = [torch.load(run.checkpoint(which), weights_only=True) for which in ("best", "last")]
    assert [state["global_step"] for state in states] == [5, 5]
    assert all(torch.equal(a, b) for a, b in zip(*(s["state_dict"].values() for s in states), strict=True))


def test_a_run_that_never_validates_is_evaluated_with_its_last_weights(tmp_path):
    run = trained(tmp_path / "never", "trainer.check_val_every_n_epoch=3", "trainer.max_epochs=2")
    assert not run.checkpoint("best").exists()
    assert run.metrics["test/images"] == 360
    assert run.metrics["test/loss"] < 40, "it was trained"


def test_adam_ones_is_adam_with_a_second_moment_that_begins_at_one():
    """The expected weights follow algorithm 1 of Kingma & Ba with v_0 = 1."""
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = build(compose("train", ["optimizer=adam_ones", "optimizer.lr=0.1"])[0].optimizer)([w])
    m, v, expected = torch.zeros(2), torch.ones(2), w.detach().clone()
    for t in range(1, 6):
        optimizer.zero_grad()
        (w**3).sum().backward()
        optimizer.step()
        gradient = 3 * expected**2
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected = expected - 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(w.detach(), expected)
