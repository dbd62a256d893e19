"""The diffusion autoencoder, against data whose best step net is known in closed form."""

import pytest
import torch
from conftest import data, model, trained

from aelab.composition.trained import Trained
from aelab.data.loader import Batch
from aelab.metrics.diffusion import Diffusion
from aelab.nets.ddim import DDIM, kept

TINY = ["model=diffusion_ae", "model.step.channels=[8]", "model.condition_dim=8", "model.steps=50"]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_what_is_kept_falls_from_all_to_nearly_nothing(schedule):
    a = kept(1000, schedule)
    assert a[0] == 1
    assert (a.diff() <= 0).all()
    assert 1e-4 <= a[-1] < 1e-3
    few = kept(100, schedule)
    torch.testing.assert_close(few[10:90], a[100:900:10], atol=0.01, rtol=0)
    if schedule == "linear":  # Ho et al., 2020, section 4
        torch.testing.assert_close(
            a[1:], (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0).clamp_min(1e-4), rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("predicts", ["epsilon", "v"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_ddim_of_a_normal_distribution_is_its_closed_form(schedule, predicts):
    """Of x ~ N(m, s²), E[e | x_t] is linear. DDIM then carries quantiles of N(0, 1) to quantiles of N(m, s²)."""
    ddim, m, s = DDIM(1000, 500, schedule, predicts), 0.4, 0.3

    def predict(x_t, t):
        a = ddim.a[t][:, None]
        e = (1 - a).sqrt() * (x_t - a.sqrt() * m) / (a * s**2 + 1 - a)
        x = (x_t - (1 - a).sqrt() * e) / a.sqrt()
        return e if predicts == "epsilon" else a.sqrt() * e - (1 - a).sqrt() * x

    x_T = torch.linspace(-2, 2, 9)[:, None]
    a = ddim.a[-1]
    expected = m + s * (x_T - a.sqrt() * m) / (a * s**2 + 1 - a).sqrt()
    x = ddim.down(predict, x_T)
    torch.testing.assert_close(x, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(ddim.up(predict, expected), x_T, atol=0.02, rtol=0)


@pytest.mark.parametrize("predicts", ["epsilon", "v"])
def test_noise_and_target_give_the_datum_back(predicts):
    ddim, x, t = DDIM(100, 10, "cosine", predicts), torch.rand(5, 1, 4, 4), torch.tensor([1, 20, 50, 80, 99])
    x_t, target, _ = ddim.noised(x, t)
    a = ddim.a[t].view(-1, 1, 1, 1)
    found = (
        (x_t - (1 - a).sqrt() * target) / a.sqrt()
        if predicts == "epsilon"
        else a.sqrt() * x_t - (1 - a).sqrt() * target
    )
    torch.testing.assert_close(found, x, atol=1e-3, rtol=0)


def test_the_loss_is_the_squared_error_of_the_target(monkeypatch):
    built, x = model(*TINY, "model.drop_code=0"), torch.rand(6, 1, 8, 8)
    batch = Batch(x, x, torch.zeros(6))
    torch.manual_seed(3)
    found = built.loss(batch)["loss"]
    torch.manual_seed(3)
    t = torch.randint(1, 51, (6,))
    e = torch.randn_like(x)
    total = 0.0
    for i in range(6):
        a = built.ddim.a[t[i]]
        x_t = a.sqrt() * (2 * x[i] - 1) + (1 - a).sqrt() * e[i]
        told = built.told(torch.cat([built.ddim.embedding(t[i : i + 1]), built.encode(x[i : i + 1])], dim=1))
        total = total + (e[i] - built.decoder(x_t[None], condition=told)[0]).square().sum()
    torch.testing.assert_close(found, total / 6, rtol=1e-4, atol=1e-3)


def test_codes_are_dropped_in_training_only(monkeypatch):
    built, x = model(*TINY, "model.drop_code=0.5"), torch.rand(400, 1, 8, 8)
    codes = []
    monkeypatch.setattr(type(built), "error", lambda self, z, batch: codes.append(z) or z.sum(1))
    for train in (True, False):
        built.train(train).loss(Batch(x, x, torch.zeros(400)))
    assert float((codes[0] == 0).all(1).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert not (codes[1] == 0).all(1).any()


def test_what_is_missing_adds_nothing_to_the_loss():
    built, x = model(*TINY, "data=digits_rows", "net=conv", "net.channels=[8]").eval(), torch.randn(4, 8, 8)
    holed = x.clone()
    holed[:, 2] = torch.nan
    z = built.encode(x)
    torch.manual_seed(0)
    found = built.error(z, Batch(x, holed, torch.zeros(4)))
    assert found.isfinite().all()
    found.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())


@pytest.mark.slow
def test_a_trained_one_needs_its_code_and_gives_data_back(tmp_path):
    words = [
        "model.drop_code=0.1",
        "model.step.channels=[16,32]",
        "model.condition_dim=64",
        "model.latent_dim=8",
        "data.batch_size=32",
    ]
    run = trained(tmp_path / "run", "model=diffusion_ae", "data=digits", *words, "trainer.max_epochs=12", "logger=[]")
    subject = Trained.of(run)
    found = Diffusion(300, 10)(subject)
    assert found["loss/code"] < found["loss/no_code"]
    assert found["loss/code"] < found["loss/other_code"]
    assert found["sse/drawn"] > 3 * found["sse/inverted"]
    batch = next(iter(subject.batches("test", limit=20)))
    with torch.no_grad():
        z = subject.model.encode(batch.x)
        torch.testing.assert_close(subject.model.decode(z), subject.model.decode(z), msg="it starts from one x_T")
        assert not torch.equal(subject.model.generate(z), subject.model.generate(z))
    assert {"test/loss"} <= set(run.metrics)
    assert not any("sse" in name for name in run.metrics), "no evaluation step walks"


def test_under_noise_the_noise_is_not_given_back():
    built, it = model(*TINY, "noise=gaussian"), data("noise=gaussian")
    assert not built.inverts
    assert model(*TINY).inverts
    assert built.reconstruct(next(iter(it.batches("val")))).shape[1:] == (1, 8, 8)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("model.sampling_steps=60 model.steps=50", "model.sampling_steps=60 must be from 1 to model.steps=50"),
        ("reconstruction=bce", "type reconstruction=mse"),
        ("data=breast_cancer", "model=diffusion_ae is for signals, images and volumes"),
        ("data=descriptions", "model=diffusion_ae takes numbers in [0, 1] and real numbers, and these are tokens"),
        ("net@model.step=mlp", "net=mlp leads through a code: type net=unet"),
        ("model.drop_code=1.0", "must be from 0 to below 1"),
    ],
)
def test_what_cannot_be_diffused_is_refused(run_ae, line, says):
    code, said = run_ae("train", "model=diffusion_ae", *line.split())
    assert code == 1
    assert says in said
    assert "\n" not in said.strip()
