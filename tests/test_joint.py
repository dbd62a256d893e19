"""Models of two modalities, against normal distributions whose posteriors are known, and torch.distributions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import data, model, trained
from PIL import Image
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from aelab.composition.trained import Trained
from aelab.data.loader import Batch
from aelab.metrics.joint import Joint as JointMetrics
from aelab.noise import NoNoise

LINEAR = ["data=breast_cancer", "net.hidden_dims=[]", "model.y_net.hidden_dims=[]", "reconstruction=gaussian"]


@torch.no_grad()
def test_a_product_of_exact_experts_is_the_exact_posterior():
    """x = W z + e and y = V z + e, with orthogonal columns. All three importance weights are then constant."""
    built = model("model=mvae", *LINEAR, "model.latent_dim=2", "model.y_shape=[5]")
    sigma = built.reconstruction.log_sigma.exp()
    tau = built.y_reconstruction.log_sigma.exp()
    w, v = torch.linalg.qr(torch.randn(30, 2))[0] * 0.5, torch.linalg.qr(torch.randn(5, 2))[0] * 0.4
    for p in [*built.encoder.parameters(), *built.y_encoder.parameters(), *built.decoder.parameters()]:
        p.zero_()
    built.y_decoder[0].bias.zero_()
    for encoder, decoder, m, noise in (
        (built.encoder[1], built.decoder[0], w, sigma),
        (built.y_encoder[1], built.y_decoder[0], v, tau),
    ):
        squared = m.square().sum(0)
        decoder.weight.copy_(m)
        encoder.weight[:2] = m.T / squared[:, None]
        encoder.bias[2:] = (noise**2 / squared).log()
    both = torch.cat([w, v])
    noise = torch.diag(torch.cat([sigma.expand(30), tau.expand(5)]) ** 2)
    marginal = MultivariateNormal(torch.zeros(35), both @ both.T + noise)
    rows = marginal.sample((4,))
    x, y = rows[:, :30], rows[:, 30:]
    batch = Batch(x, x, y)
    of_x = MultivariateNormal(torch.zeros(30), w @ w.T + noise[:30, :30]).log_prob(x)
    of_y = MultivariateNormal(torch.zeros(5), v @ v.T + noise[30:, 30:]).log_prob(y)
    for found, expected in (
        (built.joint_log_weights(batch, 3), marginal.log_prob(rows)),
        (built.log_weights(batch, 3), of_x),
        (built.y_log_weights(batch, 3), of_y),
    ):
        # log_weights leaves nothing out: its constants cancel
        torch.testing.assert_close(found, expected.expand(3, 4), atol=2e-3, rtol=1e-4)
    loss = built.eval().loss(batch.map(lambda t: t.repeat(20_000, 1)))["loss"]
    assert float(loss) == pytest.approx(-float((marginal.log_prob(rows) + of_x + of_y).mean()), abs=0.05)


def terms(name: str, *words: str):
    built, x, y = model(f"model={name}", "model.y_weight=3", *words), torch.rand(6, 1, 8, 8), torch.arange(6)
    torch.manual_seed(1)
    found = built.loss(Batch(x, x, y))
    torch.manual_seed(1)
    return built, x, y, found


def test_mvae_takes_three_bounds():
    built, x, y, found = terms("mvae")
    prior, total = Normal(0.0, 1.0), 0.0
    for mu, logvar, of_x, of_y in (
        (*built.both(x, y), True, True),
        (*built.posterior(x), True, False),
        (*built.y_posterior(y), False, True),
    ):
        q = Normal(mu, (logvar / 2).exp())
        z = mu + q.scale * torch.randn_like(mu)
        bound = kl_divergence(q, prior).sum(1)
        if of_x:
            bound = bound + F.binary_cross_entropy_with_logits(built.decoder(z), x, reduction="none").flatten(1).sum(1)
        if of_y:
            bound = bound + 3 * F.cross_entropy(built.y_decoder(z), y, reduction="none")
        total = total + bound.mean()
    torch.testing.assert_close(found["loss"], total, rtol=1e-4, atol=1e-3)


def test_jmvae_draws_the_single_posteriors_to_the_joint_one():
    built, x, y, found = terms("jmvae", "model.alpha=0.5")
    q, of_x, of_y = (
        Normal(mu, (logvar / 2).exp()) for mu, logvar in (built.both(x, y), built.posterior(x), built.y_posterior(y))
    )
    z = q.loc + q.scale * torch.randn_like(q.loc)
    bce = F.binary_cross_entropy_with_logits(built.decoder(z), x, reduction="none").flatten(1).sum(1)
    ce = F.cross_entropy(built.y_decoder(z), y, reduction="none")
    unimodal = (kl_divergence(q, of_x) + kl_divergence(q, of_y)).sum(1)
    expected = (bce + 3 * ce + kl_divergence(q, Normal(0.0, 1.0)).sum(1) + 0.5 * unimodal).mean()
    torch.testing.assert_close(found["loss"], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["mvae", "jmvae"])
def test_codes_of_a_metric_are_told_no_label(name):
    built, x = model(f"model={name}").eval(), torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(built.encode(x, torch.zeros(4, dtype=torch.long)), built.encode(x, torch.arange(4)))
    a, b = (built.both(x, y)[0] for y in (torch.zeros(4, dtype=torch.long), torch.arange(4)))
    assert not torch.equal(a, b)
    torch.testing.assert_close(built.decode_y(torch.randn(3, 16)).sum(1), torch.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weight"), [("mvae", 10), ("jmvae", 1)])
def test_digits_and_labels_belong_together(name, weight, tmp_path):
    words = [f"model={name}", f"model.y_weight={weight}", "data.batch_size=32", "trainer.max_epochs=20", "logger=[]"]
    run = trained(tmp_path / "run", "data=digits", *words, "metrics=[joint]")
    found = {key.removeprefix("joint/"): value for key, value in run.metrics.items() if key.startswith("joint/")}
    assert found["log_p_y"] == pytest.approx(-math.log(10), abs=0.4)
    assert found["log_p_x_given_y"] == pytest.approx(found["log_p_xy"] - found["log_p_y"])
    assert found["log_p_xy"] > -27
    for way in ("x_to_y", "y_to_x", "prior"):
        assert found[f"coherence/{way}"] > 0.5, "chance is a tenth"
    assert found["coherence/classifier"] > 0.8


def test_a_second_view_is_any_tensor(tmp_path):
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "x.npz", x=x[..., :4].numpy(), y=(x[..., 4:] * 0.1 + x[..., :4]).numpy())
    words = [
        f"data.root={tmp_path / 'x.npz'}",
        "data.shape=[1,8,4]",
        "model.y_shape=[1,8,4]",
        "trainer.max_epochs=3",
        "reconstruction=gaussian",
    ]
    run = trained(tmp_path / "run", "data=arrays", "model=jmvae", *words, "logger=[]", "metrics=[joint]")
    assert {"joint/y_sse/x", "joint/y_sse/mean", "joint/log_p_xy"} <= set(run.metrics)
    subject = Trained.of(run)
    again = JointMetrics(50, 10_000, None)(subject)
    assert again["y_sse/mean"] == pytest.approx(run.metrics["joint/y_sse/mean"])
    batch = next(iter(subject.batches("test")))
    assert subject.model.sample(len(batch.y), batch.y).shape == batch.x.shape


def split_of(it, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(it.in_order(split, torch.device("cpu"), NoNoise()))
    return torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches])


def test_halves_are_those_of_the_images_and_stay_in_their_splits():
    whole, halves = data("data=digits"), data("data=pair")
    for split in ("train", "val", "test"):
        x, y = split_of(halves, split)
        torch.testing.assert_close(torch.cat([x, y], dim=3), split_of(whole, split)[0])


def test_colours_and_luminance_are_those_of_lab(tmp_path):
    g = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(g.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    of = ["data@data.of=folder", f"data.root={tmp_path}", "data.of.shape=[3,8,8]", "data.of.val_size=0.3"]
    it = data("data=pair", "data.by=colours", *of, "model=mvae", f"paths.cache_dir={tmp_path / 'cache'}")
    x, y = split_of(it, "train")
    assert x.shape[1:] == (1, 8, 8)
    assert y.shape[1:] == (2, 8, 8)
    whole = data(
        "data=folder",
        f"data.root={tmp_path}",
        "data.shape=[3,8,8]",
        "data.val_size=0.3",
        "data.colours=lab",
        f"paths.cache_dir={tmp_path / 'cache'}",
    )
    torch.testing.assert_close(torch.cat([x, y], dim=1), split_of(whole, "train")[0], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mvae", "jmvae"])
def test_one_half_gives_the_other(name, tmp_path):
    words = [f"model={name}", "data.batch_size=32", "trainer.max_epochs=60", "optimizer.lr=2e-3", "logger=[]"]
    run = trained(tmp_path / "run", "data=pair", *words, "metrics=[joint]")
    assert run.metrics["joint/y_sse/x"] < 0.9 * run.metrics["joint/y_sse/mean"]


def test_an_image_has_a_label_as_its_other_view():
    built, it = model("model=mvae", "data=digits"), data("data=digits")
    batch = next(iter(it.batches("val")))
    assert built.both(batch.seen, batch.y)[0].shape == (len(batch.y), 16)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("model=mvae data=arrays data.root=x.npy data.shape=[3]", "y is a label or a tensor: type data.num_classes"),
        (
            "model=jmvae model.y_shape=[1,8,4]",
            "y must be of shape [1, 8, 4], and it has the shape []: type model.y_shape=null",
        ),
        ("model=mvae data=pair data.by=colours", "it wants images of three channels: type data@data.of=cifar10"),
        ("model=mvae net@model.y_net=conv", "model.y_net takes no y of shape [10]: type net@model.y_net=mlp"),
    ],
)
def test_what_does_not_go_together_is_refused(run_ae, line, says, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 3)))
    code, said = run_ae("train", *line.split())
    assert code == 1
    assert says in said
    assert "\n" not in said.strip()
