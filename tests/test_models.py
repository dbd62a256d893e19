"""Every model with every net, every shape and every reconstruction term, and with some noises."""

import copy
import functools
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import compose, data, model, names, quick
from torch.distributions import Normal, kl_divergence

from aelab import randomness
from aelab.composition import build, fits
from aelab.data.loader import Batch
from aelab.errors import UserError

SHAPES = {"digits": [1, 8, 8], "mnist": [1, 28, 28], "cifar10": [3, 32, 32], "odd": [2, 11, 17]}


@functools.cache
def compatible(name: str, net: str) -> bool:
    """Return whether a model takes the codes of a net. A refusal must say what to type."""
    try:
        assembled(name, net)
    except UserError as refusal:
        if "net=" not in str(refusal):
            raise
        return False
    return True


def assembled(name: str, net: str = "", shape: str = "digits", reconstruction: str = "", **keys):
    """Build a model from parts of configs. Each part is composed once per test process."""
    config = compose("train", [f"model={name}", *quick(name)])[0]
    if net:
        config.net = compose("train", [f"net={net}"])[0].net
    if reconstruction:
        config.reconstruction = compose("train", [f"reconstruction={reconstruction}"])[0].reconstruction
    config.data.shape = SHAPES[shape]
    for key, value in keys.items():
        config[key] = value
    return build.model(config)


def in_pairs(firsts: list[str], seconds: list[str], thirds: list[str]) -> list[tuple[str, str, str]]:
    """Return every pair of a first and a second, each with a third. The thirds take turns.

    Every pair with a third occurs too if there are as many firsts and seconds as thirds, or more.
    """
    n, turn = len(thirds), {first: i for i, first in enumerate(firsts)}
    return [(a, b, thirds[(turn[a] + j + j // n) % n]) for a in firsts for j, b in enumerate(seconds)]


# There are more models and more nets than shapes, so each model and each net meets each shape.
GRID = in_pairs(names("model"), names("net"), list(SHAPES))


def third_of(rows: list) -> list:
    """Return rows as parameters of a test. Two of three run with `pytest -m slow`."""
    return [pytest.param(*row, marks=[pytest.mark.slow] if i % 3 else []) for i, row in enumerate(rows)]


def batch(shape: str, n: int = 6, seen: float = 1.0) -> Batch:
    x = torch.rand(n, *SHAPES[shape], generator=torch.Generator().manual_seed(1))
    hidden = torch.zeros(n, 1, *SHAPES[shape][1:], dtype=torch.bool)
    hidden[..., : x.shape[-1] // 8 * 4] = True  # whole patches
    return Batch(seen * x, x, torch.arange(n) % 10, hidden)


def terms(net, batch):
    randomness.seed(torch.device("cpu"), "test")
    return net.loss(batch)


def test_the_grid_has_every_pair():
    for i, j in itertools.combinations(range(3), 2):
        groups = (names("model"), names("net"), list(SHAPES))
        assert {(row[i], row[j]) for row in GRID} == set(itertools.product(groups[i], groups[j]))


@pytest.mark.parametrize(("name", "net", "shape"), third_of(GRID))
def test_shapes_and_gradients(name, net, shape):
    if not compatible(name, net):
        pytest.skip("their codes do not go together, and the refusal says what does")
    built, (x, y) = assembled(name, net, shape), batch(shape)[1:3]
    z = built.encode(x, y)
    assert z.shape == (6, *built.code_shape)
    if not built.decodes:
        with pytest.raises(UserError, match="decodes no codes"):
            built.decode(z, y)
    decoded = [built.decode(z, y)] if built.decodes else []
    for image in (*decoded, built(x, y), built.reconstruct(batch(shape))):
        assert image.shape == x.shape
        assert image.min() >= 0
        assert image.max() <= 1
    assert built.error(z, batch(shape)).shape == (6,)
    if built.generative:
        for labels in (None, torch.arange(5)):
            assert built.sample(5, labels).shape == (5, *x.shape[1:])
    else:
        with pytest.raises(UserError, match="cannot sample"):
            built.sample(5)
    loss = terms(built, batch(shape, seen=0.9))
    assert all(value.ndim == 0 and value.isfinite() for value in loss.values())
    loss["loss"].backward()
    for key, parameter in built.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@functools.cache
def first_batch(noise: str) -> Batch:
    return next(iter(data(f"noise={noise}", "data.batch_size=8").batches("train")))


def of_images(group: str) -> list[str]:
    """Return the choices of a group that take images in [0, 1]."""
    of_colours = {"luminance"}  # test_colours.py has data for it
    return [name for name in names(group) if name not in of_colours and fits.takes(group, name, 2, "unit")]


@pytest.mark.parametrize(
    ("name", "reconstruction", "noise"),
    third_of(in_pairs(names("model"), of_images("reconstruction"), of_images("noise"))),
)
def test_every_noise_and_reconstruction(name, reconstruction, noise):
    """Every model meets every term and some noises. That is enough, because noise and term do not interact."""
    noise = "patches" if name == "masked" else noise
    try:
        built = assembled(name, reconstruction=reconstruction)
    except UserError as refusal:
        if "reconstruction=" not in str(refusal):
            raise
        pytest.skip(str(refusal))
    first = first_batch(noise)
    loss = terms(built, first)
    assert all(value.isfinite() for value in loss.values())
    loss["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())
    assert built.reconstruct(first).shape == first.x.shape


class Calls:
    """Counts how often a module is called."""

    def __init__(self, module):
        self.number = 0
        module.register_forward_hook(self.count)

    def count(self, *_):
        self.number += 1


@pytest.mark.parametrize("name", names("model"))
def test_a_validation_batch_is_encoded_once(name):
    """The loss, the errors and the health of the code share one encoding.

    A contractive model encodes once more for its derivative. It does so through `forward`, which is not counted here.
    """
    built, images = assembled(name), data()
    built.attach(images)
    calls = Calls(built.encoder)
    output = built.eval().validation_step(batch("digits"), 0)
    assert calls.number == 1
    measured = set() if built.walks else {"mse", "psnr"}
    assert {"loss"} | measured <= set(output["terms"])
    assert output["code"]
    again = built.validation_step(batch("digits"), 0)
    assert calls.number == 2, "nothing may be remembered between batches"
    for key, value in output["terms"].items():
        torch.testing.assert_close(value, again["terms"][key])


@pytest.mark.parametrize("name", names("model"))
def test_a_loss_is_one_function_in_every_split(name, monkeypatch):
    if name in ("batch_topk", "matryoshka"):
        pytest.skip("in training the batch says which units are on")
    built, it = assembled(name), batch("digits")
    if name.startswith("vqvae"):
        pytest.skip("in training the entries of the codebook move")
    monkeypatch.setattr(randomness, "seed", lambda *place: torch.manual_seed(3))  # else each split has its own seed
    evaluated = [step(it, 0)["terms"] for step in (built.eval().validation_step, built.test_step)]
    torch.manual_seed(3)
    train = built.train().loss(it)
    for key, value in train.items():
        for other in evaluated:
            torch.testing.assert_close(value, other[key], msg=key)


@pytest.mark.parametrize("name", names("model"))
def test_sums_over_pixels_and_means_over_the_batch(name, monkeypatch):
    """A batch that holds its images twice gives the same terms.

    All random numbers are made equal, so that both copies draw the same. A term that is a statistic of the whole batch
    is left out, and so is the loss that contains it.
    """
    of_the_batch = {"wae_mmd": {"mmd", "loss"}, "beta_tcvae": {"mi", "tc", "dim", "loss"}}.get(name, set())
    built, it = assembled(name), batch("digits")
    if name.startswith("vqvae"):
        built.eval()  # in evaluation no entry of the codebook moves
    monkeypatch.setattr(torch, "randn_like", lambda t: t.new_full(t.shape, 0.7))
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: torch.full(shape, 0.7, **options))
    monkeypatch.setattr(torch, "randint", lambda low, high, shape, **more: torch.full(shape, high // 2, **more))
    once, twice = terms(built, it), terms(built, it.map(lambda t: torch.cat([t, t])))
    for key in set(once) - of_the_batch:
        torch.testing.assert_close(once[key], twice[key], msg=key)


@pytest.mark.parametrize(("name", "net"), third_of([*itertools.product(names("model"), names("net"))]))
def test_images_of_a_batch_do_not_see_each_other(name, net):
    if not compatible(name, net):
        pytest.skip("their codes do not go together")
    built, it = assembled(name, net).eval(), batch("digits")
    alone = torch.cat([built.reconstruct(it.map(lambda t, i=i: t[i : i + 1])) for i in range(len(it.x))])
    many = name == "diffusion_ae"  # steps, of which each multiplies the rounding of the last
    torch.testing.assert_close(built.reconstruct(it), alone, atol=1e-2 if many else 1e-5, rtol=0 if many else 1.3e-6)


@pytest.mark.parametrize(
    ("name", "net"),
    third_of([*((name, "") for name in names("model")), *(("ae", n) for n in names("net") if compatible("ae", n))]),
)
def test_the_loss_falls_on_one_batch(name, net):
    built, it = assembled(name, net), batch("digits")
    bits = it.x.round()  # the error of greys cannot fall below their entropy
    it = it._replace(seen=bits, x=bits)
    optimizer = torch.optim.Adam(built.parameters(), 3e-3)
    before = float(terms(built, it)["loss"])
    for _ in range(60):
        optimizer.zero_grad()
        terms(built, it)["loss"].backward()
        optimizer.step()
    assert float(terms(built, it)["loss"]) < 0.95 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", names("model"))
def test_eager_and_compiled_are_one_model(name, tmp_path, monkeypatch):
    """Either loads the weights of either. Reconstructions, loss terms and gradients are the same.

    The VAE goes through the whole compiler. The other models go only through its first half, because that is the
    half that a model can break.
    """
    compiler = torch.nn.Module.compile
    if name != "vae":
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiler(self, backend="aot_eager"))
    it = batch("digits")
    nets = {compiled: assembled(name, compile=compiled).eval() for compiled in (False, True)}
    for saved, loaded in itertools.product(nets, nets):
        torch.save(nets[saved].state_dict(), tmp_path / "weights")
        nets[loaded].load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
        torch.testing.assert_close(nets[saved].reconstruct(it), nets[loaded].reconstruct(it))
        for key, value in terms(nets[saved], it).items():
            torch.testing.assert_close(value, terms(nets[loaded], it)[key], msg=key)
    for net in nets.values():
        terms(net.train(), it)["loss"].backward()
    for (key, eager), compiled in zip(nets[False].named_parameters(), nets[True].parameters(), strict=True):
        torch.testing.assert_close(eager.grad, compiled.grad, msg=key)


@pytest.mark.slow
def test_a_new_variant_is_tested_without_editing_a_test(tmp_path):
    """A copy of the tree gets two models more, each with a config. The tests of this file then run for both.

    The sound model passes and the broken one fails.
    """
    root = Path(__file__).parents[1]
    for folder in ("configs", "tests"):
        shutil.copytree(root / folder, tmp_path / folder)
    shutil.copytree(root / "src", tmp_path / "src")
    shutil.copy(root / "pyproject.toml", tmp_path)
    for name, returned in {"toy": "e", "broken": "e.detach()"}.items():
        (tmp_path / f"src/aelab/models/{name}.py").write_text(
            "from aelab.models.ae import AE\n\nclass Toy(AE):\n    def loss(self, batch):\n"
            "        e = self.error(self.encode(batch.seen), batch).mean()\n"
            f"        return {{'loss': {returned}, 'reconstruction': e}}\n"
        )
        yaml = (root / "configs/model/ae.yaml").read_text(encoding="utf-8").replace("ae.AE", f"{name}.Toy")
        (tmp_path / f"configs/model/{name}.yaml").write_text(yaml)
    outcomes = {}
    for name in ("toy", "broken"):
        chosen = ["-m", "slow or not slow", "-k", f"gradients and {name}-mlp"]
        command = [sys.executable, "-m", "pytest", "-n", "0", "tests/test_models.py", *chosen]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        outcomes[name] = done.returncode
        assert "1 passed" in done.stdout or "1 failed" in done.stdout, done.stdout + done.stderr
    assert outcomes == {"toy": 0, "broken": 1}


def test_the_kl_of_a_vae_is_that_of_torch_distributions():
    built, it = assembled("vae", shape="mnist"), batch("mnist")
    mu, logvar = built.encoder(it.seen).chunk(2, dim=1)
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(terms(built, it)["kl"], expected)


def test_the_loss_of_a_vae_is_minus_its_bound():
    """Over many draws of z, the mean loss is -E log p(x, z) + E log q(z | x), computed by torch.distributions."""
    built, it = assembled("vae"), batch("digits", 2)
    x = it.x
    mu, logvar = built.encoder(x).chunk(2, dim=1)
    q, prior = Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)
    with torch.no_grad():
        bounds, losses = [], []
        for _ in range(3000):
            z = q.sample()
            p = torch.sigmoid(built.decoder(z)).flatten(1)
            log_likelihood = (x.flatten(1) * p.log() + (1 - x.flatten(1)) * (1 - p).log()).sum(1)
            bounds.append(-(log_likelihood + prior.log_prob(z).sum(1) - q.log_prob(z).sum(1)).mean())
            losses.append(built.loss(it)["loss"])
    torch.testing.assert_close(torch.stack(losses).mean(), torch.stack(bounds).mean(), rtol=5e-3, atol=0)


def test_a_schedule_moves_in_training_and_stands_at_its_end_in_evaluation():
    built = model("+schedule@model.beta=linear", "model.beta.start=0.25", "model.beta.end=4")
    assert built.train().at_step(built.beta) == 0.25
    assert built.eval().at_step(built.beta) == 4


@pytest.mark.parametrize("dim", [0, -3])
def test_a_code_has_at_least_one_dimension(dim):
    with pytest.raises(Exception, match=f"model.latent_dim={dim} must be at least 1"):
        model(f"model.latent_dim={dim}")


def test_a_copy_of_a_model_copies_no_data():
    """Averaged weights are a deep copy of the model. Such a copy must not hold the images again."""
    built, images = assembled("ae"), data()
    built.attach(images)
    copied = copy.deepcopy(built)
    assert copied._data() is images
    assert {"mse", "psnr"} <= set(copied.eval().validation_step(batch("digits"), 0)["terms"])
