"""Scores of disentanglement against closed forms, data of known factors, and the losses of the models for them."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import data, model, names, trained
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from aelab import randomness
from aelab.composition.trained import Trained
from aelab.data import factors_files
from aelab.data.loader import Batch
from aelab.errors import Unsupported, UserError
from aelab.figures import codes as figures
from aelab.metrics.disentanglement import (
    Disentanglement,
    concentration,
    mig,
    modularity,
    mutual_information,
    sap,
    sharing,
)
from aelab.models.beta_tcvae import log_aggregate
from aelab.models.factor_vae import shuffled
from aelab.training.prediction import known

SMALL = Disentanglement(samples=2000, bins=20, trees=10, group=64, votes=500, prune=0.0)


def score(z, y):
    """All scores of codes (N, D) for factors (N, F). Half are to learn from, and half are scored."""
    half = len(z) // 2
    z, y = np.asarray(z, dtype=np.float64), np.asarray(y)
    information = mutual_information(z[half:], y[half:], 20)
    importance, accuracy = SMALL.importance(z[:half], y[:half], z[half:], y[half:])
    return {
        "mig": mig(information, y[half:]),
        "modularity": modularity(information),
        "sap": sap(z[half:], y[half:]),
        "disentanglement": concentration(importance),
        "completeness": concentration(importance.T),
        "informativeness": accuracy,
        "beta_vae": SMALL.beta_vae(z[:half], y[:half], z[half:], y[half:]),
        "factor_vae": SMALL.factor_vae(z[:half], y[:half], z[half:], y[half:]),
    }


@pytest.fixture
def factors():
    return np.random.default_rng(0).integers(10, size=(4000, 4))


# The scores


def test_codes_that_are_the_factors_have_full_scores(factors):
    found = score(factors[:, [2, 0, 3, 1]], factors)
    assert all(value > 0.97 for value in found.values()), found


def test_duplicated_codes_have_no_gap(factors):
    """Each factor is in two units. A gap is lost, while each unit still says one thing."""
    found = score(np.hstack([factors, factors]), factors)
    assert found["mig"] < 0.01
    assert found["sap"] < 0.01
    assert found["modularity"] > 0.97
    assert found["disentanglement"] > 0.97
    # Of 8 units two carry a factor, in shares that the forest chooses: at best 1, at worst 1 - ln 2 / ln 8.
    assert found["completeness"] >= 1 - math.log(2) / math.log(8) - 0.01


def test_codes_that_know_nothing_score_near_chance(factors):
    permuted = np.random.default_rng(1).permuted(factors, axis=0)
    found = score(permuted, factors)
    for name in ("mig", "sap"):
        assert abs(found[name]) < 0.02
    assert found["informativeness"] < 0.2
    assert found["disentanglement"] < 0.1
    assert found["beta_vae"] < 0.4
    assert found["factor_vae"] < 0.4


def test_rotated_codes_know_all_and_untangle_nothing(factors):
    a = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
    found = score((factors - 4.5) @ a, factors)
    assert found["mig"] < 0.3
    assert found["disentanglement"] < 0.5


def test_dci_of_importances_with_a_closed_form():
    assert concentration(np.eye(5)) == pytest.approx(1)
    assert concentration(np.zeros((5, 3))) == 0
    assert concentration(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)
    two_of_ten = np.zeros((9, 10))  # the first unit says two factors, the others one each
    two_of_ten[0, :2] = 0.5
    assert concentration(two_of_ten) == pytest.approx(1 - math.log(2) / math.log(10))
    assert concentration(two_of_ten.T) == pytest.approx(1)
    two_units = two_of_ten.T  # two units say one factor
    assert concentration(two_units) == pytest.approx(1)
    assert concentration(two_units.T) == pytest.approx(1 - math.log(2) / math.log(10))
    weighed = np.array([[3.0, 0], [0.5, 0.5]])
    assert concentration(weighed) == pytest.approx(3 / 4)


def test_mutual_information_of_a_noisy_channel():
    """A unit that is right with probability 1 - e has information ln 2 - H(e) on a fair bit."""
    g = np.random.default_rng(0)
    bit = g.integers(2, size=200_000)
    e = 0.1
    unit = np.where(g.random(len(bit)) < e, 1 - bit, bit).astype(float)
    expected = math.log(2) + e * math.log(e) + (1 - e) * math.log(1 - e)
    found = mutual_information(unit[:, None], bit[:, None], 20)
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(expected, abs=2e-3)


def test_gap_and_modularity_by_hand():
    y = np.array(list(itertools.product(range(2), range(4))))
    information = np.array([[math.log(2), 0.0], [0.2, math.log(4)], [0.0, 0.0]])
    assert mig(information, y) == pytest.approx(((math.log(2) - 0.2) / math.log(2) + 1) / 2)
    assert modularity(information) == pytest.approx((1 + (1 - 0.04 / math.log(4) ** 2) + 0) / 3)


def test_the_squared_correlation_of_sap(factors):
    z = factors + np.random.default_rng(3).normal(size=factors.shape)
    expected = []
    for factor in factors.T:
        r = sorted(np.corrcoef(unit, factor)[0, 1] ** 2 for unit in z.T)
        expected.append(r[-1] - r[-2])
    assert sap(z, factors) == pytest.approx(np.mean(expected))


def test_rows_that_share_a_factor():
    factor = np.random.default_rng(0).integers(5, size=1000)
    rows = np.random.default_rng(1).integers(1000, size=(50, 7))
    drawn = sharing(factor, rows, np.random.default_rng(2))
    assert drawn.shape == rows.shape
    assert np.array_equal(factor[drawn], factor[rows])
    assert len(np.unique(drawn)) > 200, "many different rows must be drawn"


# The data


@pytest.fixture
def sprites():
    return data("data=sprites", "data.positions=4", "data.rotations=3", "data.scales=2")


def test_sprites_are_every_combination_once(sprites):
    assert sprites.factor_names == ["shape", "scale", "rotation", "x", "y"]
    images, y, _ = sprites.splits["train"]
    test, y_test, _ = sprites.splits["test"]
    together = torch.cat([y, y_test])
    assert len(together) == len(together.unique(dim=0)) == 3 * 2 * 3 * 4 * 4
    pictures = torch.cat([images, test]).flatten(1)
    assert len(pictures.unique(dim=0)) == len(pictures), "no two images may be the same"
    assert data("data=sprites", "data.positions=4", "data.rotations=3", "data.scales=2").fingerprint == (
        sprites.fingerprint
    )


def test_the_area_and_the_place_of_a_sprite(sprites):
    images, y, _ = sprites.splits["train"]
    images = images[:, 0].double() / 255
    area = images.sum((1, 2))
    rows = torch.arange(32).double() + 0.5
    x = (images.sum(1) * rows).sum(1) / area
    radius = torch.where(y[:, 1] == 0, 4.0, 8.0)
    square, ellipse = y[:, 0] == 0, y[:, 0] == 1
    torch.testing.assert_close(area[square], (2 * radius**2).double()[square], rtol=0.07, atol=0)
    torch.testing.assert_close(area[ellipse], (math.pi / 2 * radius**2).double()[ellipse], rtol=0.07, atol=0)
    centres = torch.linspace(8, 24, 4).double()[y[:, 3].long()]
    whole = square | ellipse  # the centre of a heart's area lies elsewhere
    torch.testing.assert_close(x[whole], centres[whole], atol=0.15, rtol=0)
    edges = (images > 0.01) & (images < 0.99)
    assert edges.any(), "edges must be antialiased"


@pytest.mark.parametrize("shape", ["[3,16,16]", "[1,20,31]"])
def test_sprites_of_another_shape(shape):
    it = data("data=sprites", f"data.shape={shape}", "data.positions=2", "data.rotations=1", "data.scales=2")
    assert list(it.splits["train"][0].shape[1:]) == list(it.shape)
    assert (it.splits["train"][0].flatten(1).amax(1) == 255).all()


def test_squares_do_not_overlap_and_say_where_they_are():
    it = data("data=squares")
    images, y, _ = it.splits["train"]
    assert it.factor_names == ["x_0", "y_0", "x_1", "y_1", "x_2", "y_2"]
    for image, factors in zip(images[::97], y[::97].long(), strict=True):
        for channel in range(3):
            column, row = factors[2 * channel : 2 * channel + 2].tolist()
            expected = torch.zeros(32, 32, dtype=torch.uint8)
            expected[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 255
            assert torch.equal(image[channel], expected)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return ("data=factors", f"data.root={path}")


def test_a_file_of_images_and_factors(tmp_path, caplog):
    """The second names, and a factor of one value, are those of dSprites' own file."""
    g = np.random.default_rng(0)
    images = g.integers(0, 2, size=(50, 9, 8), dtype=np.uint8)
    factors = np.stack([np.zeros(50, int), np.arange(50) % 5 * 3, np.arange(50) // 5], axis=1)
    it = data(*npz(tmp_path / "a.npz", imgs=images, latents_classes=factors))
    assert it.shape == [1, 9, 8]
    assert it.factor_names == ["factor_1", "factor_2"]
    assert "factor_0" in caplog.text
    x, y, _ = it.splits["train"]
    assert set(y[:, 0].tolist()) == {0, 1, 2, 3, 4}, "a factor is the place of its value"
    row = int(((factors[:, 1] == 3 * y[7, 0].item()) & (factors[:, 2] == y[7, 1].item())).nonzero()[0][0])
    assert np.array_equal(x[7, 0].numpy(), images[row] * 255)
    colour = g.random((50, 9, 8, 3)).astype(np.float32)
    it = data(*npz(tmp_path / "b.npz", images=colour, factors=factors[:, 1:], names=["size", "place"]))
    assert it.shape == [3, 9, 8]
    assert it.factor_names == ["size", "place"]


def test_the_shape_of_a_file_needs_no_images(tmp_path, monkeypatch):
    """dSprites' images are 3 GB, and a config asks for their shape."""
    for name, stored, expected in (
        ("a", (5, 9, 8), [1, 9, 8]),
        ("b", (5, 9, 8, 3), [3, 9, 8]),
        ("c", (5, 3, 9, 8), [3, 9, 8]),
    ):
        np.savez_compressed(tmp_path / f"{name}.npz", imgs=np.zeros(stored, np.uint8), factors=np.arange(5))
        monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("an array was read"))
        assert factors_files.shape(str(tmp_path / f"{name}.npz")) == expected
        monkeypatch.undo()
        assert list(factors_files.read(str(tmp_path / f"{name}.npz"))[0].shape) == [5, *expected]


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"images": np.zeros((9, 8, 8))}, "has no array 'factors'"),
        ({"factors": np.zeros((9, 2))}, "has no array 'images'"),
        ({"images": np.zeros((9, 8, 8)), "factors": np.zeros((8, 2))}, "9 images and 8 rows"),
        ({"images": np.zeros((9, 8, 8)), "factors": np.zeros((9, 2))}, "each factor has one value"),
        ({"images": np.full((9, 8, 8), -1.0), "factors": np.arange(9)}, "from -1 to -1"),
        ({"images": np.zeros((9, 8)), "factors": np.arange(9)}, "shape"),
        ({"images": np.zeros((9, 8, 8)), "factors": np.full((9, 1), np.nan)}, "no numbers"),
        ({"images": np.zeros((9, 8, 8)), "factors": np.arange(9), "names": ["a", "b"]}, "1 factors and 2 names"),
    ],
)
def test_a_file_that_is_none_gets_one_line(arrays, line, tmp_path):
    with pytest.raises(UserError, match=line):
        data(*npz(tmp_path / "a.npz", **arrays), "data.shape=[1,8,8]")


def test_mistakes_about_squares():
    for words, line in ((["data.side=40"], "leaves one place"), (["data.side=2", "data.step=2"], "images")):
        with pytest.raises(UserError, match=line):
            data("data=squares", *words)


# The models


def test_the_aggregate_posterior_of_a_whole_set_is_exact():
    torch.manual_seed(0)
    mu, logvar = torch.randn(7, 3), torch.randn(7, 3)
    z = mu + (logvar / 2).exp() * torch.randn(7, 3)
    joint, units = log_aggregate(z, mu, logvar, 7)
    mixture = MixtureSameFamily(Categorical(torch.ones(7)), Independent(Normal(mu, (logvar / 2).exp()), 1))
    torch.testing.assert_close(joint, mixture.log_prob(z))
    each = MixtureSameFamily(Categorical(torch.ones(3, 7)), Normal(mu.T, (logvar / 2).exp().T))
    torch.testing.assert_close(units, each.log_prob(z).sum(1))


def test_the_estimate_from_a_batch_has_no_bias():
    """Over all batches of 3 of 6 data that hold datum 0, the mean estimate of q(z_0) is q(z_0)."""
    torch.manual_seed(0)
    mu, logvar = torch.randn(6, 2, dtype=torch.double), torch.randn(6, 2, dtype=torch.double)
    z = mu[0] + 0.3
    exact = Normal(mu, (logvar / 2).exp()).log_prob(z).sum(1).exp().mean()
    found = []
    for others in itertools.combinations(range(1, 6), 2):
        rows = [0, *others]
        codes = torch.stack([z, *mu[list(others)]])
        found.append(log_aggregate(codes, mu[rows], logvar[rows], 6)[0][0].exp())
    torch.testing.assert_close(torch.stack(found).mean(), exact)


def terms(built, x):
    randomness.seed(torch.device("cpu"), "test")
    return built.loss(Batch(x, x, torch.zeros(len(x), dtype=torch.long)))


@pytest.fixture
def x():
    return torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_parts_of_beta_tcvae_add_up_to_the_kl_of_the_draws(x):
    built = model("model=beta_tcvae", "model.beta=1")
    found = terms(built, x)
    randomness.seed(torch.device("cpu"), "test")
    mu, logvar = built.posterior(x)
    z = built.draw(mu, logvar)
    draws = (Normal(mu, (logvar / 2).exp()).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1).mean()
    torch.testing.assert_close(found["mi"] + found["tc"] + found["dim"], draws, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + draws, rtol=1e-4, atol=1e-5)
    weighed = terms(model("model=beta_tcvae", "model.alpha=2", "model.beta=5", "model.gamma=0.5"), x)
    total = weighed["reconstruction"] + 2 * weighed["mi"] + 5 * weighed["tc"] + 0.5 * weighed["dim"]
    torch.testing.assert_close(weighed["loss"], total)


@pytest.mark.parametrize("by", ["mean", "code"])
def test_dip_vae_asks_for_the_covariance_of_the_prior(x, by):
    built = model("model=dip_vae", f"model.by={by}", "model.off_diagonal=2", "model.diagonal=3")
    found = terms(built, x)
    mu, logvar = (t.detach().double() for t in built.posterior(x))
    covariance = np.cov(mu.numpy().T, bias=True)
    if by == "code":
        covariance += np.diag(logvar.exp().mean(0).numpy())
    off = sum(covariance[i, j] ** 2 for i in range(10) for j in range(10) if i != j)
    on = ((np.diag(covariance) - 1) ** 2).sum()
    assert float(found["off_diagonal"]) == pytest.approx(off, rel=1e-3)
    assert float(found["diagonal"]) == pytest.approx(on, rel=1e-4)
    expected = float(found["reconstruction"] + found["kl"]) + 2 * off + 3 * on
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_discriminator_measures_total_correlation():
    """Codes of two units with correlation r have total correlation -1/2 ln(1 - r²)."""
    torch.manual_seed(0)
    built = model("model=factor_vae", "model.latent_dim=2", "model.discriminator_dims=[64,64]")
    r = 0.8
    optimizer = torch.optim.Adam(built.discriminator.parameters(), 2e-3)

    def codes(n):
        a = torch.randn(n, 2)
        return torch.stack([a[:, 0], r * a[:, 0] + math.sqrt(1 - r * r) * a[:, 1]], 1)

    built.posterior = lambda x, y=None: (x, torch.full_like(x, -100.0))  # codes are the data
    for _ in range(600):
        optimizer.zero_grad()
        built.critic_loss(Batch(codes(1000), None, None)).backward()
        optimizer.step()
    with torch.no_grad():
        tc = float(built.discriminator(codes(20_000)).mean())
    assert tc == pytest.approx(-math.log(1 - r * r) / 2, abs=0.08)


def test_shuffled_codes_keep_each_unit_and_lose_their_ties():
    z = torch.arange(2000.0)[:, None].repeat(1, 3)
    found = shuffled(z)
    assert torch.equal(found.sort(0).values, z)
    assert torch.corrcoef(found.T)[0, 1].abs() < 0.1


# Runs


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "beta_tcvae" else pytest.mark.slow)
                                  for n in ("beta_tcvae", "factor_vae", "dip_vae")])  # fmt: skip
def test_a_run_on_sprites_has_scores_and_pictures(name, tmp_path):
    tiny = ["data.positions=4", "data.rotations=2", "data.scales=2", "net.hidden_dims=[32]", "trainer.max_epochs=2"]
    quick = ["metrics.disentanglement.trees=5", "metrics.disentanglement.votes=100", "logger=[]"]
    run = trained(tmp_path / "run", f"model={name}", "data=sprites", "metrics=[disentanglement]", *tiny, *quick)
    names_ = {"mig", "modularity", "sap", "beta_vae", "factor_vae"} | {
        f"dci/{one}" for one in ("disentanglement", "completeness", "informativeness")
    }
    scores = {key.removeprefix("disentanglement/"): v for key, v in run.metrics.items() if "disentangl" in key}
    assert scores.keys() == names_
    assert all(0 <= value <= 1 for value in scores.values())
    subject = Trained.of(run)
    assert figures.information(subject, run).axes[0].get_xticklabels()[3].get_text() == "x"
    source = known(run, run.config.data, "test", [])
    assert set(source.labels) == {""}, "factors are no class"
    rows = [label.get_text() for label in figures.traversals(subject, run).axes[0].get_yticklabels()]
    assert all(any(factor in row for factor in subject.data.factor_names) for row in rows)


def test_scores_need_factors(vae_run):
    with pytest.raises(Unsupported, match="data=sprites"):
        SMALL(Trained.of(vae_run))
    assert "disentanglement" in names("metrics")
