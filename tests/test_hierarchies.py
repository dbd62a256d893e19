"""Models of several levels, against the normal distribution that they are if every net is linear."""

import pytest
import torch
from conftest import compose, data, model, trained
from torch.distributions import MultivariateNormal

from aelab.composition import build
from aelab.data.loader import Batch

LINEAR = ["data=breast_cancer", "net.hidden_dims=[]", "model.above.hidden_dims=[]", "model.between=Identity"]
SMALL = ["model.latent_dims=[3,2]", "model.widths=[4,3]", "reconstruction=gaussian"]
MODELS = {
    "hvae": ["model=hvae"],
    "ladder": ["model=ladder_vae"],
    "bottom_up": ["model=ladder_vae", "model.inference=bottom_up"],
}
SPATIAL = ["net=spatial", "net.channels=[8]", "net@model.above=spatial", "model.above.channels=[8]"]


def linear_gaussian(*words: str):
    """A model of which each variance is constant, so that all its distributions are normal."""
    torch.manual_seed(0)
    built = model(*words, *LINEAR, *SMALL)
    heads = [*built.priors, *(built.posteriors if hasattr(built, "posteriors") else built.heads)]
    with torch.no_grad():
        for p in built.parameters():
            p.mul_(0.7)  # so that the posteriors are not far from the exact ones
        for head in heads:
            head.weight[len(head.weight) // 2 :] = 0
            head.bias[len(head.bias) // 2 :] = torch.rand(len(head.bias) // 2) - 0.5
    return built.eval()


def of_noise(built, e: torch.Tensor) -> torch.Tensor:
    """What the decoder gives if `e` (B, 5), the levels' noise, the lowest first, is turned into codes."""
    parts = e.split([3, 2], dim=1)
    return built.decoder(built.descend(lambda i, p, *_: p[0] + (p[1] / 2).exp() * parts[i], len(e)))


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_bounds_are_those_of_a_normal_distribution(name):
    built = linear_gaussian(*MODELS[name])
    eye = torch.eye(5)
    offset = of_noise(built, torch.zeros(1, 5))[0]
    factors = of_noise(built, eye) - offset
    sigma = float(built.reconstruction.log_sigma.exp())
    marginal = MultivariateNormal(offset, factors.T @ factors + sigma**2 * torch.eye(30))
    x = marginal.sample((3,))
    batch = Batch(x, x, torch.zeros(3))
    log_w = built.log_weights(batch, 400_000)
    found = log_w.logsumexp(0) - torch.tensor(400_000.0).log()
    torch.testing.assert_close(found, marginal.log_prob(x), atol=0.15, rtol=0)
    rows = batch.map(lambda t: t.repeat(100_000, *[1] * (t.ndim - 1)))
    assert float(built.loss(rows)["loss"]) == pytest.approx(-float(log_w.mean()), abs=0.1), "it is minus the bound"


@torch.no_grad()
def test_a_ladder_whose_evidence_is_right_has_the_exact_posterior():
    """If the columns of W are orthogonal and the levels are scaled by numbers, merging precisions is Bayes' rule."""
    built = model(
        "model=ladder_vae", *LINEAR, "model.latent_dims=[2,2]", "model.widths=[2,2]", "reconstruction=gaussian"
    )
    for p in built.parameters():
        p.zero_()
    w, a, s, sigma = torch.linalg.qr(torch.randn(30, 2))[0] * 2, 0.7, 0.5, float(built.reconstruction.log_sigma.exp())
    eye, noise = torch.eye(2), sigma**2 / 4  # of z_1 as the datum says it: wᵀ x / 4 = z_1 + N(0, sigma² / 4)
    decoder, encoder = built.decoder[0], built.encoder[1]
    decoder.weight.copy_(w), encoder.weight.copy_(w.T / 4)
    built.fall[0][0].weight.copy_(a * eye), built.rise[0][1].weight.copy_(eye)
    built.priors[0].weight[:2], built.priors[0].bias[2:] = eye, torch.tensor(s**2).log()
    built.heads[0].weight[:2], built.heads[0].bias[2:] = eye, torch.tensor(noise).log()
    variance = 1 / (1 + a**2 / (s**2 + noise))  # of z_2 given x, of which z_1 as it is said is a z_2 + N(0, s² + noise)
    built.heads[1].weight[:2], built.heads[1].bias[2:] = (
        eye * variance * a / (s**2 + noise),
        torch.tensor(variance).log(),
    )
    marginal = MultivariateNormal(torch.zeros(30), (a**2 + s**2) * w @ w.T + sigma**2 * torch.eye(30))
    x = marginal.sample((5,))
    log_w = built.log_weights(Batch(x, x, torch.zeros(5)), 3)
    torch.testing.assert_close(log_w, marginal.log_prob(x).expand(3, 5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_codes_are_all_levels_and_give_the_same_decoding(name):
    for words in ([], SPATIAL, ["net=conv", "net.channels=[8]"]):
        built = model(*MODELS[name], "data=digits", *words).eval()
        x = torch.rand(4, 1, 8, 8)
        h, levels = built.levels(x, 1, False)
        z = built.encode(x)
        assert z.shape == (4, *built.code_shape)
        torch.testing.assert_close(built.split(z), [level.z for level in levels])
        torch.testing.assert_close(built.out(z), built.decoder(h))
        assert built.sample(3).shape == (3, 1, 8, 8)
        if words == SPATIAL:
            assert [len(shape) for shape in built.shapes] == [3, 3, 3]
            assert built.shapes[0][1:] == (4, 4)
            assert built.shapes[1][1:] == (2, 2)


def test_free_bits_are_free_for_each_level():
    built, x = model("model=hvae", "data=digits", "model.free_bits=2", "model.beta=3"), torch.rand(5, 1, 8, 8)
    found = built.loss(Batch(x, x, torch.zeros(5)))
    price = sum(max(2, float(found[f"kl_{i}"])) for i in (1, 2, 3))
    assert float(found["loss"]) == pytest.approx(float(found["reconstruction"]) + 3 * price, rel=1e-5)
    assert float(found["kl"]) == pytest.approx(sum(float(found[f"kl_{i}"]) for i in (1, 2, 3)), rel=1e-5)


@pytest.mark.slow
def test_a_level_that_dies_is_named_and_drawn(tmp_path):
    words = ["data=digits", "net.hidden_dims=[32]", "logger=[]", "metrics=[likelihood]", "metrics.likelihood.k=[5]"]
    run = trained(tmp_path / "run", *MODELS["bottom_up"], *words, "trainer.max_epochs=5", "data.batch_size=10")
    assert (run.folder / "train.log").read_text(encoding="utf-8").count(
        "the lowest first, 2, 3 died: their KL is below 0.1"
    ) == 1
    assert (run.folder / "figures" / "kl_per_level.png").is_file()
    assert run.metrics["likelihood/log_p_5"] >= run.metrics["likelihood/elbo"]
    built = build.trained(run)
    with torch.no_grad():
        kl = torch.cat([built.code(batch)["kl_per_level"] for batch in data("data=digits").batches("test")])
    assert kl.sum(1).mean() == pytest.approx(run.metrics["test/kl"], rel=0.1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("model=hvae net=unet", "net=unet has skips that lead around a code"),
        ("model=ladder_vae model.latent_dims=[4]", "for each of two levels or more: got [4] and"),
        ("model=hvae model.latent_dims=[4,0,2]", "model.latent_dims=[4,0,2] holds a number that is not at least 1"),
        ("model=hvae net@model.above=conv", "model.above takes no level of 0 sizes: type net@model.above=mlp"),
        ("model=hvae net=tokens", "net=tokens takes tokens"),
    ],
)
def test_what_is_no_hierarchy_is_refused(run_ae, line, says):
    code, said = run_ae("train", *line.split())
    assert code == 1
    assert says in said
    assert "\n" not in said.strip()


def test_a_batch_is_encoded_once_in_evaluation():
    built, it = model("model=hvae"), data("data=digits")
    built.attach(it)
    calls = []
    built.encoder.register_forward_hook(lambda *_: calls.append(1))
    built.eval().validation_step(next(iter(it.batches("val"))), 0)
    assert len(calls) == 1
    assert compose("train", ["model=hvae"])[0].model.free_bits == 0
