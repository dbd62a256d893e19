"""Every model × net × shape × noise × reconstruction that can be composed."""

import itertools

import pytest
import torch
from conftest import data, model, names
from torch.distributions import Normal, kl_divergence

from autoencoders import randomness
from autoencoders.data.base import Batch

SHAPES = {"digits": [1, 8, 8], "mnist": [1, 28, 28], "cifar10": [3, 32, 32], "odd": [2, 11, 17]}
GRID = list(itertools.product(names("model"), names("net"), SHAPES))


def small(name: str, net: str, shape: str, *overrides: str):
    return model(f"model={name}", f"net={net}", "data=digits", f"data.shape={SHAPES[shape]}", *overrides)


def batch(shape: str, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, *SHAPES[shape], generator=g), torch.arange(n) % 10


def terms(net, x, y, seen=None):
    randomness.seed(torch.device("cpu"), "test")
    return net.loss(x if seen is None else seen, x, y)


@pytest.mark.parametrize(("name", "net", "shape"), GRID)
def test_shapes_and_gradients(name, net, shape):
    built, (x, y) = small(name, net, shape), batch(shape)
    z = built.encode(x, y)
    assert z.shape == (6, built.latent_dim)
    for image in (built.decode(z, y), built(x, y)):
        assert image.shape == x.shape
        assert image.min() >= 0
        assert image.max() <= 1
    if built.generative:
        assert built.sample(5, torch.arange(5)).shape == (5, *x.shape[1:])
    loss = terms(built, x, y)
    assert all(value.ndim == 0 and value.isfinite() for value in loss.values())
    loss["loss"].backward()
    for key, parameter in built.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(
    ("name", "noise", "reconstruction"),
    itertools.product(names("model"), names("noise"), names("reconstruction")),
)
def test_every_noise_and_reconstruction(name, noise, reconstruction):
    overrides = (f"noise={noise}", f"reconstruction={reconstruction}", f"model={name}", "data.batch_size=8")
    built, first = model(*overrides), next(iter(data(*overrides).batches("train")))
    loss = terms(built, first.x, first.y, first.seen)
    assert loss["loss"].isfinite()
    loss["loss"].backward()


@pytest.mark.parametrize("name", names("model"))
def test_a_loss_is_one_function_in_every_split(name, monkeypatch):
    built, (x, y) = small(name, "mlp", "digits"), batch("digits")
    monkeypatch.setattr(randomness, "seed", lambda *place: torch.manual_seed(3))  # the splits draw from other places
    train = built.train().training_step(Batch(x, x, y), 0)["terms"]
    for step in (built.validation_step, built.test_step):
        other = built.eval() and step(Batch(x, x, y), 0)["terms"]
        for key, value in train.items():
            assert torch.equal(value, other[key]), key


@pytest.mark.parametrize("name", names("model"))
def test_sums_over_pixels_and_means_over_the_batch(name, monkeypatch):
    """The same images twice in a batch change no term: what is drawn is made the same for both copies."""
    built, (x, y) = small(name, "mlp", "digits"), batch("digits")
    monkeypatch.setattr(torch, "randn_like", lambda t: t.new_full(t.shape, 0.7))
    once, twice = terms(built, x, y), terms(built, torch.cat([x, x]), torch.cat([y, y]))
    for key, value in once.items():
        torch.testing.assert_close(value, twice[key], msg=key)


@pytest.mark.parametrize(("name", "net"), itertools.product(names("model"), names("net")))
def test_images_of_a_batch_do_not_see_each_other(name, net):
    built, (x, y) = small(name, net, "digits").eval(), batch("digits")
    alone = torch.cat([built(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(built(x, y), alone)


@pytest.mark.parametrize(("name", "net"), itertools.product(names("model"), names("net")))
def test_the_loss_falls_on_one_batch(name, net):
    built, (x, y) = small(name, net, "digits"), batch("digits")
    optimizer = torch.optim.Adam(built.parameters(), 3e-3)
    before = float(terms(built, x, y)["loss"])
    for _ in range(60):
        optimizer.zero_grad()
        terms(built, x, y)["loss"].backward()
        optimizer.step()
    assert float(terms(built, x, y)["loss"]) < 0.9 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", names("model"))
def test_eager_and_compiled_are_one_model(name, tmp_path):
    """The four pairs of saved and loaded: no key changes, and neither does a number."""
    x, y = batch("digits")
    nets = {compiled: small(name, "mlp", "digits", f"compile={compiled}") for compiled in (False, True)}
    for saved, loaded in itertools.product(nets, nets):
        torch.save(nets[saved].state_dict(), tmp_path / "weights")
        nets[loaded].load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
        torch.testing.assert_close(nets[saved](x, y), nets[loaded](x, y))
        for key, value in terms(nets[saved], x, y).items():
            torch.testing.assert_close(value, terms(nets[loaded], x, y)[key], msg=key)


def test_the_kl_of_a_vae_is_that_of_torch_distributions():
    built, (x, y) = small("vae", "mlp", "mnist"), batch("mnist")
    mu, logvar = built.encoder(x).chunk(2, dim=1)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(terms(built, x, y)["kl"], expected)


def test_the_loss_of_a_vae_is_minus_its_bound():
    """In expectation over z: -E log p(x, z) + E log q(z | x), estimated by another road with many draws."""
    built, (x, y) = small("vae", "mlp", "digits"), batch("digits", 2)
    mu, logvar = built.encoder(x).chunk(2, dim=1)
    q, prior = Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)
    with torch.no_grad():
        bounds, losses = [], []
        for _ in range(3000):
            z = q.sample()
            p = torch.sigmoid(built.decoder(z)).flatten(1)
            log_likelihood = (x.flatten(1) * p.log() + (1 - x.flatten(1)) * (1 - p).log()).sum(1)
            bounds.append(-(log_likelihood + prior.log_prob(z).sum(1) - q.log_prob(z).sum(1)).mean())
            losses.append(built.loss(x, x, y)["loss"])
    torch.testing.assert_close(torch.stack(losses).mean(), torch.stack(bounds).mean(), rtol=5e-3, atol=0)


def test_a_schedule_moves_in_training_and_stands_at_its_end_in_evaluation():
    built = model("+schedule@model.beta=linear", "model.beta.start=0.25", "model.beta.end=4")
    assert built.train().now(built.beta) == 0.25
    assert built.eval().now(built.beta) == 4


@pytest.mark.parametrize("dim", [0, -3])
def test_a_code_has_at_least_one_dimension(dim):
    with pytest.raises(Exception, match="model.latent_dim must be at least 1"):
        model(f"model.latent_dim={dim}")
