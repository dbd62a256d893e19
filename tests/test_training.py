"""Training is compared with a hand-written loop, with other ways to run it, and with several processes."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from conftest import Probe, but_slow, compose, model, names, quick, start, trained, under_noise
from lightning.pytorch.callbacks import Callback

from aelab import randomness
from aelab.composition import build
from aelab.composition.trained import load
from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.training.fast_loop import OPTIMIZATION_HOOKS, STEP_HOOKS, TRANSFER_HOOKS, Steps
from aelab.training.fit import fit


def fitted(folder, *overrides):
    """Fit a run without evaluating it. Return the model, and the loss at every step."""
    run = start(folder, *overrides)
    probe = Probe()
    trainer = fit(run, callbacks=[probe])
    return trainer.lightning_module, probe.losses


def equal(a, b) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", but_slow(names("model"), "vae", "vqvae", "topk", "iwae"))
def test_training_is_a_hand_written_loop_bit_for_bit(name, tmp_path):
    if not model(f"model={name}").automatic_optimization:
        pytest.skip("steps several optimizers in its own way, and has a test of its own")
    overrides = [
        f"model={name}",
        *quick(name),
        under_noise(name),
        "trainer.max_epochs=2",
        "seed=3",
        "data.batch_size=100",
    ]
    by_template, losses = fitted(tmp_path / "run", *overrides)

    config, _ = compose("train", overrides)
    built, data = build.model(config), build.data(config)
    data.setup()
    built.attach(data)
    optimizer = torch.optim.Adam(built.parameters(), lr=1e-3, fused=True)
    loader, expected = data.batches("train"), []
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        for step, batch in enumerate(loader):
            randomness.seed(torch.device("cpu"), "train", 3, epoch, step, 0)
            loss = built.loss(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(float(loss))
    assert losses == expected
    assert equal(built, by_template)


HOOKS = (*STEP_HOOKS, *TRANSFER_HOOKS, *OPTIMIZATION_HOOKS)


@pytest.fixture(scope="module")
def without_hooks(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("hooks") / "plain", "trainer.max_epochs=1")


@pytest.mark.parametrize("written", HOOKS)
def test_a_hook_that_somebody_wrote_is_called_at_every_step(written, without_hooks, tmp_path, monkeypatch):
    """`fast_loop` skips only hooks that nobody wrote.

    The hook here adds nothing to Lightning's own, so the weights are those without it.
    """
    from aelab.models.vae import VAE

    reference, losses = without_hooks
    calls = []

    def hooked(base):
        def hook(self, *args, **kwargs):
            calls.append(written)
            return getattr(super(owner, self), written)(*args, **kwargs)

        owner = type(base.__name__, (base,), {written: hook, "__module__": base.__module__})
        return owner

    if hasattr(VAE, written):
        monkeypatch.setattr("aelab.models.vae.VAE", hooked(VAE))
        assert equal(reference, fitted(tmp_path / "model", "trainer.max_epochs=1")[0])
        assert len(calls) >= len(losses), "the model's hook was not called at every step"
        monkeypatch.undo()
    if hasattr(Callback, written):
        calls.clear()
        run = start(tmp_path / "callback", "trainer.max_epochs=1")
        assert equal(reference, fit(run, callbacks=[hooked(Callback)()]).lightning_module)
        assert len(calls) >= len(losses), "the callback's hook was not called at every step"


@pytest.mark.parametrize(
    "overrides",
    but_slow(
        [
            "trainer.max_epochs=3",
            "trainer.max_epochs=2 +trainer.val_check_interval=0.5",
            "trainer.max_epochs=3 +trainer.val_check_interval=10 trainer.check_val_every_n_epoch=null",
            "trainer.max_epochs=3 trainer.limit_train_batches=5",
            "trainer.max_epochs=3 trainer.max_steps=17",
            "trainer.max_epochs=3 scheduler=cosine scheduler.interval=step",
            "trainer.max_epochs=4 scheduler=plateau scheduler.patience=0 scheduler.factor=0.1",
            "trainer.max_epochs=2 optimizer=lbfgs trainer.limit_train_batches=3",
        ],
        "trainer.max_epochs=2 +trainer.val_check_interval=0.5",
        "trainer.max_epochs=3 scheduler=cosine scheduler.interval=step",
    ),
)
def test_the_fast_loop_logs_what_lightnings_own_loop_logs(overrides, tmp_path, monkeypatch):
    """A model that calls `self.log` at every step, and a callback that does."""
    from aelab.models.vae import VAE

    original = VAE.training_step

    def training_step(self, batch, batch_idx):
        outputs = original(self, batch, batch_idx)
        self.log("own/loss", outputs["loss"], on_step=True, on_epoch=True)
        return outputs

    class Logs(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            pl_module.log("own/index", float(batch_idx), on_step=True, on_epoch=True)

    class Slow(Logs):
        def on_train_batch_start(self, *_):
            """`fast_loop` leaves the loop to Lightning if a callback has this hook."""

    monkeypatch.setattr(VAE, "training_step", training_step)
    logged = []
    for name, callback in (("fast", Logs()), ("slow", Slow())):
        run = start(tmp_path / name, *overrides.split(), "data.batch_size=100", "trainer.log_every_n_steps=3")
        trainer = fit(run, callbacks=[callback])
        assert isinstance(getattr(trainer.fit_loop.epoch_loop.advance, "__self__", None), Steps) == (name == "fast")
        with (run.folder / "metrics.csv").open() as file:
            logged.append([{k: v for k, v in row.items() if v} for row in csv.DictReader(file)])
        if name == "fast":
            model = trainer.lightning_module
    assert any("own/loss_step" in row for row in logged[0])
    assert any("own/index_epoch" in row for row in logged[0])
    assert logged[0] == logged[1]
    assert equal(model, trainer.lightning_module)


def test_nothing_depends_on_what_was_drawn_before(tmp_path):
    """Validation, pictures, checkpoints and workers change no weight. The seed does."""
    base = ("trainer.max_epochs=2", "noise=gaussian")
    reference, _ = fitted(tmp_path / "a", *base)
    variants = {
        "b": ("trainer.limit_val_batches=0", "~callbacks.pictures", "~callbacks.checkpoint"),
        "c": ("data.loader=stream", "data.num_workers=2"),
    }
    for name, overrides in variants.items():
        assert equal(reference, fitted(tmp_path / name, *base, *overrides)[0]), name
    assert not equal(reference, fitted(tmp_path / "d", *base, "seed=1")[0])


def test_a_broken_loss_stops_the_run_and_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train/\w+ became (nan|inf) at step \d+ of epoch 0") as error:
        trained(tmp_path / "run", "optimizer.lr=1e38")
    assert "train/loss" not in str(error.value), "the message must name the term that broke, not the sum"
    run = Run(tmp_path / "run")
    assert run.manifest["status"] == "failed"
    assert run.manifest["error"] == str(error.value)
    assert not run.checkpoint("best").exists()


def test_the_broken_step_is_the_one_that_is_named(tmp_path, monkeypatch):
    from aelab.models.vae import VAE

    original = VAE.loss

    def loss(self, batch):
        terms = original(self, batch)
        if self.training and self.global_step == 13:
            terms["kl"] = terms["kl"] * float("nan")
            terms["loss"] = terms["loss"] + terms["kl"]
        return terms

    monkeypatch.setattr(VAE, "loss", loss)
    with pytest.raises(UserError, match="train/kl became nan at step 3 of epoch 1"):
        fitted(tmp_path / "run", "data.batch_size=128")  # ten steps per epoch


@pytest.mark.parametrize("name", names("optimizer"))
def test_every_optimizer_lowers_the_loss(name, tmp_path):
    whole = ["data.batch_size=1257"] if name == "lbfgs" else []
    _, losses = fitted(tmp_path / "run", f"optimizer={name}", "model=ae", "trainer.max_epochs=3", *whole)
    assert losses[-1] < losses[0]


def test_clipping_and_accumulation_are_the_trainers(tmp_path):
    model, losses = fitted(
        tmp_path / "run",
        "data.batch_size=128",
        "trainer.accumulate_grad_batches=5",
        "trainer.gradient_clip_val=0.1",
        "trainer.max_epochs=1",
    )
    assert len(losses) == 10
    assert model.trainer.global_step == 2


def test_early_stopping(tmp_path):
    more = ("callbacks=[early_stopping]", "callbacks.early_stopping.patience=2", "optimizer.lr=0.0")
    run = trained(tmp_path / "run", *more)
    log = (run.folder / "train.log").read_text(encoding="utf-8")
    assert "epoch 3/" in log
    assert "epoch 4/" not in log


def test_averaged_weights_are_what_is_saved_and_evaluated(tmp_path):
    """The average is that of a hand-written loop over the weights of every step, whose decay rises to 0.7."""
    overrides = ("callbacks=[ema]", "callbacks.ema.decay=0.7", "trainer.max_epochs=1", "model=ae")
    run = trained(tmp_path / "run", *overrides)

    config, _ = compose("train", overrides)
    model, data = build.model(config), build.data(config)
    optimizer = model.optimizer(model.parameters())
    average: list[torch.Tensor] = []
    for n, batch in enumerate(data.batches("train")):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
        now = [p.detach().clone() for p in model.parameters()]
        d = min(0.7, (1 + n) / (10 + n))
        average = [d * a + (1 - d) * b for a, b in zip(average, now, strict=True)] if average else now
    for saved, expected in zip(load(run.folder, "last").parameters(), average, strict=True):
        torch.testing.assert_close(saved, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", names("debug"))
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_what_looks_for_mistakes_goes_with_any_trainer(preset, trainer):
    config, _ = compose("train", [f"debug='{preset}'", f"trainer={trainer}"])
    assert config.trainer.devices == {"cpu": 1, "ddp_cpu": 2}[trainer]
    expected = {"fast": ("fast_dev_run", 2), "overfit": ("overfit_batches", 2), "nan": ("detect_anomaly", True)}
    if preset in expected:
        key, value = expected[preset]
        assert config.trainer[key] == value


class Seen(Callback):
    """Keeps the images of every training batch, by epoch, and the noise on them."""

    def __init__(self) -> None:
        self.epochs: list[list[torch.Tensor]] = []
        self.noise: list[torch.Tensor] = []

    def on_train_epoch_start(self, *_) -> None:
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.epochs[-1].append(batch.x)
        self.noise.append(batch.seen - batch.x)


def test_overfitting_repeats_the_same_batches(tmp_path):
    """Every epoch has the same two batches of 32 images. The noise on them is drawn anew."""
    seen = Seen()
    words = ["debug=overfit", "trainer.max_epochs=3", "noise=gaussian", "logger=[]", "~callbacks.pictures"]
    fit(start(tmp_path / "run", *words), callbacks=[seen])
    assert [[len(x) for x in epoch] for epoch in seen.epochs] == [[32, 32]] * 3
    for epoch in seen.epochs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(epoch, seen.epochs[0], strict=True))
    images = {tuple(image.flatten().tolist()) for epoch in seen.epochs for x in epoch for image in x}
    assert len(images) == 64
    assert not torch.equal(seen.noise[0], seen.noise[2])


def test_a_profile_is_written_and_named(tmp_path):
    run = trained(tmp_path / "run", "debug=profile", "~callbacks.pictures")
    assert "run_training_batch" in (run.folder / "fit-profile.txt").read_text(encoding="utf-8")
    assert "fit-profile.txt" in (run.folder / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", ["fast", "nan"])
def test_a_run_that_looks_for_mistakes_is_done(preset, tmp_path):
    run = trained(tmp_path / "run", f"debug='{preset}'", *(["trainer.max_epochs=1"] if preset == "nan" else []))
    assert run.manifest["status"] == "done"
    assert run.metrics["test/images"] == 360


@pytest.mark.parametrize("precision", but_slow(["bf16-mixed", "bf16-true", "64-true"], "bf16-mixed"))
@pytest.mark.parametrize("name", but_slow(names("model"), "vae", "vqvae", "aae"))
def test_every_precision_of_the_cpu(name, precision, tmp_path):
    _, losses = fitted(
        tmp_path / "run", f"model={name}", *quick(name), f"trainer.precision={precision}", "trainer.max_epochs=1"
    )
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("callbacks", ["", "ema"])
def test_two_processes_are_one(tmp_path, callbacks):
    """Two processes share the batches of one, also in uneven parts.

    The losses are the same, and every image is evaluated once.
    """
    overrides = [
        "model=ae",
        "trainer.max_epochs=3",
        "data.batch_size=101",
        f"callbacks=[{callbacks}]",
        "data.val_size=179",
    ]
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    one, two = (trained(tmp_path / kind, *overrides, f"trainer={kind}") for kind in ("cpu", "ddp_cpu"))

    def curve(run):
        lines = (run.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
        keys = lines[0].split(",")
        rows = [dict(zip(keys, line.split(","), strict=True)) for line in lines[1:]]
        return [float(row[key]) for key in ("train/loss", "val/loss") for row in rows if row.get(key)]

    assert len(curve(one)) == 6
    assert curve(two) == pytest.approx(curve(one), rel=1e-5)
    assert two.metrics["test/images"] == 360
    assert two.metrics == pytest.approx(one.metrics, rel=1e-4)
    assert len(list(tmp_path.iterdir())) == 2
    assert [signal.getsignal(number) for number in signal.valid_signals()] == handlers, "they must be restored"


def _workers(folder) -> list[int]:
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if f"aelab.training.processes {folder}" in line]


def _gone(folder, seconds: float) -> bool:
    end = time.time() + seconds
    while time.time() < end and _workers(folder):
        time.sleep(0.2)
    return not _workers(folder)


@pytest.mark.slow
def test_two_machines_are_two_processes(tmp_path):
    """Two command lines with one process each give the numbers of one line with two processes."""
    words = ["noise=gaussian", "data.batch_size=100", "trainer.max_epochs=2", "trainer=ddp_cpu"]
    reference = trained(tmp_path / "processes", *words)
    folder = tmp_path / "machines"
    more = ["trainer.devices=1", "trainer.num_nodes=2", f"hydra.run.dir={folder}"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "aelab", "train", *words, *more],
            env={**os.environ, "NODE_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
            cwd=tmp_path,
        )
        for rank in (0, 1)
    ]
    assert [machine.wait(timeout=120) for machine in machines] == [0, 0]
    assert Run(folder).metrics == pytest.approx(reference.metrics, rel=1e-5)
    assert not (tmp_path / "logs").exists(), "both lines must write into one folder"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["rank", "parent", "terminated"])
def test_no_process_is_left_behind(tmp_path, victim):
    command = [sys.executable, "-m", "aelab", "train", "trainer=ddp_cpu", "trainer.max_epochs=100000"]
    command += ["name=ddp", f"paths.log_dir={tmp_path}", "~callbacks.pictures"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert parent.stdout is not None
        for line in parent.stdout:
            if line.startswith("epoch"):
                break
        folder = next((tmp_path / "ddp").iterdir())
        ranks = _workers(folder)
        assert len(ranks) == 2
        if victim == "rank":
            os.kill(ranks[1], signal.SIGKILL)
        else:
            parent.send_signal(signal.SIGKILL if victim == "parent" else signal.SIGTERM)
        parent.communicate(timeout=60)
        assert _gone(folder, 20)
        assert parent.returncode != 0
        if victim != "parent":
            assert Run(folder).manifest["status"] == {"rank": "failed", "terminated": "interrupted"}[victim]
    finally:
        parent.kill()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("name", "key", "limit"), [("ae", "test/mse", 0.022), ("vae", "test/loss", 130.0)])
def test_mnist_is_learnt(name, key, limit, mnist_root, tmp_path):
    reconstruction = {"ae": "mse", "vae": "bce"}[name]
    run = trained(
        tmp_path / "run",
        *("data=mnist", f"data.root={mnist_root}", f"model={name}", f"reconstruction={reconstruction}"),
        "trainer.max_epochs=2",
    )
    assert run.metrics[key] < limit
    assert run.metrics["test/images"] == 10_000


@pytest.mark.parametrize("net", ["mlp", "conv"])
@pytest.mark.parametrize("data", ["digits", "digits_rows", "breast_cancer", "moving_digits"])
def test_a_decoder_begins_with_the_mean_datum(net, data, tmp_path):
    if (net, data) == ("conv", "breast_cancer"):
        pytest.skip("a convolution does not take vectors")
    overrides = [f"data={data}", f"net={net}", "model=ae", "callbacks=[output_bias]", "trainer.max_epochs=1"]
    overrides += ["optimizer.lr=0", "trainer.limit_train_batches=1"]
    run = trained(tmp_path / net, *overrides)
    bias = [m.bias for m in build.trained_autoencoder(run).decoder.modules() if getattr(m, "bias", None) is not None][
        -1
    ]
    train = build.data(run.config)
    x = torch.cat([batch.x for batch in train.in_order("train", torch.device("cpu"), train.noise)])
    mean = x.mean(0).flatten() if net == "mlp" else x.transpose(0, 1).flatten(1).mean(1)
    if run.config.reconstruction.get("link") == "identity":
        torch.testing.assert_close(bias.detach(), mean, atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(bias.detach().sigmoid(), mean.clamp(0.001, 0.999), atol=1e-5, rtol=1e-4)


def test_a_decoder_without_such_a_bias_is_refused(tmp_path):
    with pytest.raises(UserError, match="callbacks.output_bias needs a decoder"):
        trained(tmp_path / "run", "callbacks=[output_bias]", "reconstruction=categorical", "trainer.max_epochs=1")
