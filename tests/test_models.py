"""Every model × net × shape × noise × reconstruction that can be composed."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import composed, data, model, names
from torch.distributions import Normal, kl_divergence

from aelab import randomness
from aelab.data.loader import Batch
from aelab.errors import UserError

SHAPES = {"digits": [1, 8, 8], "mnist": [1, 28, 28], "cifar10": [3, 32, 32], "odd": [2, 11, 17]}
GRID = list(itertools.product(names("model"), names("net"), SHAPES))


def small(name: str, net: str, shape: str, *overrides: str):
    nets = [f"net={net}"] if net else []
    return composed(f"model={name}", *nets, "data=digits", f"data.shape={SHAPES[shape]}", *overrides)


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
    assert z.shape[:2] == (6, built.latent_dim)
    assert (z.ndim == 4) == built.spatial
    for image in (built.decode(z, y), built(x, y)):
        assert image.shape == x.shape
        assert image.min() >= 0
        assert image.max() <= 1
    if built.generative:
        for labels in (None, torch.arange(5)):
            assert built.sample(5, labels).shape == (5, *x.shape[1:])
    else:
        with pytest.raises(UserError, match="cannot sample"):
            built.sample(5)
    loss = terms(built, x, y, seen=0.9 * x)
    assert all(value.ndim == 0 and value.isfinite() for value in loss.values())
    loss["loss"].backward()
    for key, parameter in built.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("reconstruction", names("reconstruction"))
@pytest.mark.parametrize("name", names("model"))
def test_every_noise_and_reconstruction(name, reconstruction):
    """Every reconstruction term, and every noise beside some of them: noise and term do not know of each other."""
    noises, turn = names("noise"), names("model").index(name) + names("reconstruction").index(reconstruction)
    noise = noises[turn % len(noises)]
    overrides = (f"model={name}", f"noise={noise}", f"reconstruction={reconstruction}", "data.batch_size=8")
    built, first = composed(*overrides), next(iter(data(*overrides).batches("train")))
    loss = terms(built, first.x, first.y, first.seen)
    assert all(value.isfinite() for value in loss.values())
    loss["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())
    assert built(first.seen, first.y).shape == first.x.shape


@pytest.mark.parametrize("name", names("model"))
def test_a_loss_is_one_function_in_every_split(name, monkeypatch):
    built, (x, y) = small(name, "", "digits"), batch("digits")
    if name == "vqvae":
        built.codebook.revive_after = 0  # which moves entries, in training only
    monkeypatch.setattr(randomness, "seed", lambda *place: torch.manual_seed(3))  # the splits draw from other places
    evaluated = [step(Batch(x, x, y), 0)["terms"] for step in (built.eval().validation_step, built.test_step)]
    torch.manual_seed(3)
    train = built.train().loss(x, x, y)
    for key, value in train.items():
        for other in evaluated:
            torch.testing.assert_close(value, other[key], msg=key)


@pytest.mark.parametrize("name", names("model"))
def test_sums_over_pixels_and_means_over_the_batch(name, monkeypatch):
    """The same images twice in a batch change no term: what is drawn is made the same for both copies. A statistic of
    the whole batch, and the loss that holds it, are left out."""
    of_the_batch = {"mmd", "loss"} if name == "wae_mmd" else set()
    built, (x, y) = small(name, "", "digits"), batch("digits")
    if name == "vqvae":
        built.eval()  # no entry moves
    monkeypatch.setattr(torch, "randn_like", lambda t: t.new_full(t.shape, 0.7))
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.full(shape, 0.7, **options))
    once, twice = terms(built, x, y), terms(built, torch.cat([x, x]), torch.cat([y, y]))
    for key in set(once) - of_the_batch:
        torch.testing.assert_close(once[key], twice[key], msg=key)


@pytest.mark.parametrize(("name", "net"), itertools.product(names("model"), names("net")))
def test_images_of_a_batch_do_not_see_each_other(name, net):
    built, (x, y) = small(name, net, "digits").eval(), batch("digits")
    alone = torch.cat([built(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(built(x, y), alone)


@pytest.mark.parametrize(
    ("name", "net"), [*((name, "") for name in names("model")), *(("ae", net) for net in names("net"))]
)
def test_the_loss_falls_on_one_batch(name, net):
    built, (x, y) = small(name, net, "digits"), batch("digits")
    x = x.round()  # of greys, the error never falls below their entropy
    optimizer = torch.optim.Adam(built.parameters(), 3e-3)
    before = float(terms(built, x, y)["loss"])
    for _ in range(60):
        optimizer.zero_grad()
        terms(built, x, y)["loss"].backward()
        optimizer.step()
    assert float(terms(built, x, y)["loss"]) < 0.95 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", names("model"))
def test_eager_and_compiled_are_one_model(name, tmp_path, monkeypatch):
    """The four pairs of saved and loaded: no key changes, and neither does a number, nor a gradient. One model goes
    through the whole compiler; for the others its first half, which is where a model can break it."""
    compiler = torch.nn.Module.compile
    if name != "vae":
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiler(self, backend="aot_eager"))
    x, y = batch("digits")
    nets = {compiled: small(name, "", "digits", f"compile={compiled}") for compiled in (False, True)}
    for saved, loaded in itertools.product(nets, nets):
        torch.save(nets[saved].state_dict(), tmp_path / "weights")
        nets[loaded].load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
        torch.testing.assert_close(nets[saved](x, y), nets[loaded](x, y))
        for key, value in terms(nets[saved].eval(), x, y).items():
            torch.testing.assert_close(value, terms(nets[loaded].eval(), x, y)[key], msg=key)
    for net in nets.values():
        terms(net.train(), x, y)["loss"].backward()
    for (key, eager), compiled in zip(nets[False].named_parameters(), nets[True].parameters(), strict=True):
        torch.testing.assert_close(eager.grad, compiled.grad, msg=key)


@pytest.mark.slow
def test_a_new_variant_is_tested_without_editing_a_test(tmp_path):
    """Two files more in a copy of the tree, and the tests of this file run for them: one is sound, one is broken."""
    root = Path(__file__).parents[1]
    for folder in ("configs", "tests"):
        shutil.copytree(root / folder, tmp_path / folder)
    shutil.copytree(root / "src", tmp_path / "src")
    shutil.copy(root / "pyproject.toml", tmp_path)
    for name, returned in {"toy": "e", "broken": "e.detach()"}.items():
        (tmp_path / f"src/aelab/models/{name}.py").write_text(
            "from aelab.models.ae import AE\n\nclass Toy(AE):\n    def loss(self, seen, x, y):\n"
            "        e = self.reconstruction.error(self.decoder(self.encoder(seen)), x).mean()\n"
            f"        return {{'loss': {returned}, 'reconstruction': e}}\n"
        )
        yaml = (root / "configs/model/ae.yaml").read_text().replace("ae.AE", f"{name}.Toy")
        (tmp_path / f"configs/model/{name}.yaml").write_text(yaml)
    outcomes = {}
    for name in ("toy", "broken"):
        command = [sys.executable, "-m", "pytest", "-n", "0", "tests/test_models.py", "-k", f"gradients and {name}-mlp"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        outcomes[name] = done.returncode
        assert "4 passed" in done.stdout or "4 failed" in done.stdout, done.stdout + done.stderr
    assert outcomes == {"toy": 0, "broken": 1}


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
