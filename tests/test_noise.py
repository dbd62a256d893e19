import numpy as np
import pytest
import torch
from conftest import compose, names
from scipy.ndimage import gaussian_filter

from aelab import noise, randomness
from aelab.composition.instantiate import build as instantiate
from aelab.errors import UserError


def g(seed: int = 0) -> torch.Generator:
    return randomness.generator("cpu", "noise", seed)


def built(name: str) -> noise.Noise:
    return instantiate(compose("train", [f"noise={name}"])[0].noise)


# Data of each kind that a noise may take: rank and domain.
RNG = torch.Generator().manual_seed(0)
KINDS = {
    "vectors": torch.randn(6, 9, generator=RNG),
    "signals": torch.randn(6, 3, 20, generator=RNG),
    "images": torch.rand(6, 3, 12, 9, generator=RNG),
    "volumes": torch.rand(6, 1, 8, 12, 9, generator=RNG),
    "tokens": torch.randint(4, 30, (6, 1, 20), generator=RNG),
}


def takes(it: noise.Noise, kind: str) -> bool:
    domain = {"vectors": "real", "signals": "real", "tokens": "tokens"}.get(kind, "unit")
    return domain in it.domains and KINDS[kind].ndim - 2 in it.ranks


EVERY = [(name, kind) for name in names("noise") for kind in KINDS if takes(built(name), kind)]


def test_every_kind_of_data_has_noises():
    for kind in KINDS:
        assert len([name for name, other in EVERY if other == kind]) >= 4, kind


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_every_noise_keeps_the_shape_the_input_and_its_generator(name, kind):
    it, images = built(name), KINDS[kind]
    if name == "token_replacement":
        it = noise.TokenReplacement(0.5, 30)
    before, state = images.clone(), torch.get_rng_state()
    seen, hidden = it(images, g())
    assert seen.shape == images.shape
    assert seen.isfinite().all()
    if hidden is not None:
        assert hidden.dtype == torch.bool
        assert hidden.shape in ((6, 1, *images.shape[2:]), images.shape)
        if kind == "vectors":
            assert hidden.any(1).sum() > 1, "single numbers are hidden, not rows"
            assert not hidden.all(1).any()
        assert hidden.any()
        if name != "dropout":  # dropout divides the other pixels by 1 - p
            assert torch.equal(torch.where(hidden, images, seen), images), "pixels that are not hidden must not change"
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state), "a draw came from the global generator"
    assert torch.equal(seen, it(images, g())[0]), "equal generators must give equal noise"
    drawn, start = g(), g().get_state()
    it(images, drawn)
    if not torch.equal(drawn.get_state(), start):
        assert not torch.equal(seen, it(images, g(1))[0]), "another generator, other noise"
    assert (seen is images) == (name == "none")


def test_noise_that_chooses_no_pixels_hides_none(images):
    for it in (noise.NoNoise(), noise.Gaussian(0.1, clip=True), noise.Speckle(0.1), noise.GaussianBlur(1.0)):
        assert it(images, g())[1] is None
    for it in (noise.Masking(0.5), noise.SaltPepper(0.5), noise.Impulse(0.5), noise.Dropout(0.5), noise.Quadrants(1)):
        assert it(images, g())[1].any()


@pytest.fixture
def grey() -> torch.Tensor:
    return torch.full((64, 3, 20, 20), 0.5)


def test_gaussian(grey):
    e = noise.Gaussian(0.2, clip=False)(grey, g())[0] - grey
    assert float(e.mean()) == pytest.approx(0, abs=3e-3)
    assert float(e.std()) == pytest.approx(0.2, rel=0.02)
    clipped = noise.Gaussian(2.0, clip=True)(grey, g())[0]
    assert clipped.min() == 0
    assert clipped.max() == 1


def test_salt_pepper_masking_and_impulse(grey):
    salted = noise.SaltPepper(0.3)(grey, g())[0]
    for value in (0.0, 1.0):
        assert float((salted == value).float().mean()) == pytest.approx(0.15, abs=0.01)
    masked = noise.Masking(0.25)(grey, g())[0]
    assert float((masked == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    for seen in (salted, masked):  # a pixel is hit in all its channels
        assert torch.equal(seen[:, :1].expand_as(seen), seen)
    hit = noise.Impulse(0.4)(grey, g())[0] != grey
    assert float(hit.float().mean()) == pytest.approx(0.4, abs=0.01)
    assert torch.equal(noise.Masking(1.0)(grey, g())[0], torch.zeros_like(grey))
    assert torch.equal(noise.Masking(0.0)(grey, g())[0], grey)


def test_dropout_keeps_the_mean(grey):
    seen = noise.Dropout(0.25)(grey, g())[0]
    torch.testing.assert_close(seen.unique(), torch.tensor([0.0, 0.5 / 0.75]))
    assert float(seen.mean()) == pytest.approx(0.5, rel=0.01)


def test_speckle_grows_with_the_light():
    spread = [float(noise.Speckle(0.1)(torch.full((64, 1, 16, 16), v), g())[0].std()) for v in (0.2, 0.4)]
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.05)


def test_block_masking_takes_one_square():
    x = torch.ones(200, 2, 12, 17)
    seen = noise.BlockMasking(0.5)(x, g())[0]
    corners = set()
    for image in seen:
        hole = (image[0] == 0).nonzero()
        top, left = hole.min(0).values.tolist()
        assert len(hole) == 36
        assert hole.max(0).values.tolist() == [top + 5, left + 5]
        assert torch.equal(image[0], image[1])
        corners.add((top, left))
    assert {0, 6} <= {top for top, _ in corners}
    assert {0, 11} <= {left for _, left in corners}


def test_gaussian_blur_is_scipys(images):
    expected = gaussian_filter(images.numpy(), (0, 0, 1.3, 1.3), mode="nearest", radius=(0, 0, 4, 4))
    np.testing.assert_allclose(noise.GaussianBlur(1.3)(images, g())[0].numpy(), expected, atol=1e-5)


def test_motion_blur_smears_a_point_along_a_line():
    x = torch.zeros(50, 1, 15, 15)
    x[:, :, 7, 7] = 1
    seen = noise.MotionBlur(5)(x, g())[0]
    torch.testing.assert_close(seen.flatten(1).sum(1), torch.ones(50))
    for image in seen[:, 0]:
        at = image.nonzero() - 7
        assert at.abs().max() in (1, 2)  # 2 cos 45° rounds to 1
        centred = at.float()
        line = torch.linalg.svdvals(centred)
        assert float(line[1]) < 1.1, "the points do not lie on a line"
    torch.testing.assert_close(noise.MotionBlur(1)(x, g())[0], x)


@pytest.mark.parametrize("words", ["masking 1.5", "salt_pepper -0.1", "dropout 1.0", "token_masking 2"])
def test_a_share_is_a_share(words):
    name, value = words.split()
    config = compose("train", [f"noise={name}", f"noise.p={value}"])[0].noise
    with pytest.raises(UserError, match=f"noise.p={value} must be from 0 to"):
        instantiate(config)


@pytest.mark.parametrize(("observed", "shown"), [(1, ["ll"]), (2, ["ll", "ul"]), (3, ["ll", "ul", "ur"])])
def test_quadrants_hide_all_but_some(observed, shown):
    x = torch.rand(3, 2, 8, 6, generator=g())
    seen = noise.Quadrants(observed)(x, g())[0]
    rows, columns = {"u": slice(0, 4), "l": slice(4, 8)}, {"l": slice(0, 3), "r": slice(3, 6)}
    for row in rows:
        for column in columns:
            quadrant = (..., rows[row], columns[column])
            expected = x[quadrant] if row + column in shown else torch.full_like(x[quadrant], -1)
            assert torch.equal(seen[quadrant], expected)
    with pytest.raises(ValueError, match="noise.observed"):
        noise.Quadrants(4)
