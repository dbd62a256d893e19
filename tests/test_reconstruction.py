import pytest
import torch
from conftest import compose, names
from torch.distributions import Bernoulli, Normal
from torchmetrics.image import StructuralSimilarityIndexMeasure

from aelab.composition.instantiate import build as instantiate
from aelab.data.errors import errors
from aelab.reconstruction import (
    BCE,
    MAE,
    MSE,
    MSE_SSIM,
    SSIM,
    Categorical,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
)


def test_bce_is_minus_the_log_likelihood_of_binary_images(images):
    out, x = 8 * images - 4, (images > 0.5).float()
    expected = -Bernoulli(logits=out).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(BCE().error(out, x), expected)
    torch.testing.assert_close(BCE().mean(out), Bernoulli(logits=out).mean)


def test_bce_stays_finite_where_probabilities_would_not():
    out, x = torch.full((1, 1, 2, 2), 500.0), torch.zeros(1, 1, 2, 2)
    torch.testing.assert_close(BCE().error(out, x), torch.tensor([2000.0]))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.5])
def test_mse_is_a_gaussian_up_to_its_constant(images, sigma):
    image = images.flip(0)
    expected = (Normal(image, sigma).log_prob(image) - Normal(image, sigma).log_prob(images)).flatten(1).sum(1)
    torch.testing.assert_close(MSE(sigma, "sigmoid").error(image.logit(), images), expected)
    torch.testing.assert_close(MSE(sigma, "sigmoid").mean(image.logit()), image)


def test_mae_is_a_laplace_up_to_its_constant(images):
    image = images.flip(0)
    expected = (
        (
            torch.distributions.Laplace(image, 1.0).log_prob(image)
            - torch.distributions.Laplace(image, 1.0).log_prob(images)
        )
        .flatten(1)
        .sum(1)
    )
    torch.testing.assert_close(MAE("sigmoid").error(image.logit(), images), expected)
    torch.testing.assert_close(MAE("sigmoid").mean(image.logit()), image)


@pytest.mark.parametrize("scale", [0.05, 1.0, 2.5])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("term", "density"), [(Gaussian, Normal), (Laplace, torch.distributions.Laplace)])
def test_densities_are_those_of_torch(images, term, density, scale, learned):
    image, built = images.flip(0), term(scale, learned, "sigmoid")
    torch.testing.assert_close(
        built.error(image.logit(), images), -density(image, scale).log_prob(images).flatten(1).sum(1)
    )
    assert len(list(built.parameters())) == learned
    assert list(built.state_dict())  # a checkpoint holds the scale


def test_categorical_is_that_of_torch():
    greys, out = torch.randint(0, 256, (3, 2, 4, 5)), torch.randn(3, 512, 4, 5)
    q = torch.distributions.Categorical(logits=out.view(3, 256, 2, 4, 5).movedim(1, -1))
    torch.testing.assert_close(Categorical().error(out, greys / 255), -q.log_prob(greys).flatten(1).sum(1))
    expected = (q.probs * torch.arange(256)).sum(-1) / 255
    torch.testing.assert_close(Categorical().mean(out), expected)


def test_discretized_logistic_gives_each_grey_the_mass_of_its_bin():
    """The expected masses are differences of the logistic distribution function, in double precision.

    The masses of the 256 bins sum to one.
    """
    mean, log_t = torch.tensor([0.3, 0.8, 0.02]).double(), torch.tensor([-3.0, -1.0, -4.5]).double()
    base = torch.distributions.Uniform(torch.zeros(3).double(), torch.ones(3).double())
    transforms = [torch.distributions.SigmoidTransform().inv, torch.distributions.AffineTransform(mean, log_t.exp())]
    logistic = torch.distributions.TransformedDistribution(base, transforms, validate_args=False)
    greys = torch.arange(256).double()[:, None] / 255
    upper, lower = logistic.cdf(greys + 1 / 510), logistic.cdf(greys - 1 / 510)
    upper[-1], lower[0] = 1, 0
    out = torch.stack([mean.logit(), log_t]).view(1, 2, 1, 3).expand(256, -1, -1, -1)
    found = -DiscretizedLogistic().elements(out, greys.expand(256, 3).reshape(256, 1, 1, 3)).view(256, 3)
    torch.testing.assert_close(found.exp().sum(0), torch.ones(3).double())
    torch.testing.assert_close(found.exp(), upper - lower, rtol=0, atol=1e-12)
    torch.testing.assert_close(DiscretizedLogistic().mean(out)[0].flatten(), mean)


def test_discretized_logistic_stays_finite_far_from_its_mean():
    out = torch.tensor([40.0, -20.0]).view(1, 2, 1, 1).requires_grad_()
    error = DiscretizedLogistic().error(out, torch.full((1, 1, 1, 1), 0.5))
    error.backward()
    assert error.isfinite().all()
    assert out.grad.isfinite().all()


@pytest.mark.parametrize("size", [(8, 8), (12, 9), (32, 28)])
def test_ssim_is_that_of_torchmetrics(size):
    """If the window does not fit the image, a smaller one of 7 or 9 pixels is used."""
    x, image = torch.rand(4, 3, *size), torch.rand(4, 3, *size)
    sigma, term = {8: 3.4 / 3.5, 9: 4.4 / 3.5, 28: 1.5}[min(size)], SSIM(1.5)
    expected = StructuralSimilarityIndexMeasure(reduction="none", sigma=sigma, data_range=1.0)(image, x)
    torch.testing.assert_close(term.error(image.logit(), x), x[0].numel() * (1 - expected))
    mixed = 0.3 * x[0].numel() * (1 - expected) + 0.7 * (image - x).square().flatten(1).sum(1)
    torch.testing.assert_close(MSE_SSIM(0.3, 1.5).error(image.logit(), x), mixed)
    torch.testing.assert_close(term.error(x.logit(), x), torch.zeros(4), atol=1e-2, rtol=0)
    assert (term.error(image.logit(), x) > 1).all()


def test_every_term_says_whether_it_is_a_likelihood():
    found = {
        name: instantiate(compose("train", [f"reconstruction={name}"])[0].reconstruction).likelihood
        for name in names("reconstruction")
    }
    assert set(found.values()) == {True, False}
    for name, likelihood in found.items():
        assert likelihood == (
            name in ("bce", "gaussian", "laplace", "student_t", "categorical", "discretized_logistic", "tokens")
        ), name


def test_image_errors_against_a_loop(images):
    other = images.flip(0)
    found = errors(other, images, "unit")
    for i, (a, b) in enumerate(zip(other.double(), images.double(), strict=True)):
        squares = [(p - q) ** 2 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
        mse = sum(squares) / len(squares)
        assert float(found["sse"][i]) == pytest.approx(sum(squares), rel=1e-5)
        assert float(found["mse"][i]) == pytest.approx(mse, rel=1e-5)
        assert float(found["mae"][i]) == pytest.approx(float((a - b).abs().mean()), rel=1e-5)
        assert 10 ** (-float(found["psnr"][i]) / 10) == pytest.approx(mse, rel=1e-4)
