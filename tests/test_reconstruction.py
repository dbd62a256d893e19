import pytest
import torch
from conftest import names
from torch.distributions import Bernoulli, Laplace, Normal

from autoencoders.metrics.reconstruction import image_errors
from autoencoders.reconstruction import BCE, MAE, MSE


def test_bce_is_minus_the_log_likelihood_of_binary_images(images):
    out, x = 8 * images - 4, (images > 0.5).float()
    expected = -Bernoulli(logits=out).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(BCE().error(out, x), expected)
    torch.testing.assert_close(BCE().image(out), Bernoulli(logits=out).mean)


def test_bce_stays_finite_where_probabilities_would_not():
    out, x = torch.full((1, 1, 2, 2), 500.0), torch.zeros(1, 1, 2, 2)
    torch.testing.assert_close(BCE().error(out, x), torch.tensor([2000.0]))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.5])
def test_mse_is_a_gaussian_up_to_its_constant(images, sigma):
    image = images.flip(0)
    expected = (Normal(image, sigma).log_prob(image) - Normal(image, sigma).log_prob(images)).flatten(1).sum(1)
    torch.testing.assert_close(MSE(sigma).error(image.logit(), images), expected)
    torch.testing.assert_close(MSE(sigma).image(image.logit()), image)


def test_mae_is_a_laplace_up_to_its_constant(images):
    image = images.flip(0)
    expected = (Laplace(image, 1.0).log_prob(image) - Laplace(image, 1.0).log_prob(images)).flatten(1).sum(1)
    torch.testing.assert_close(MAE().error(image.logit(), images), expected)
    torch.testing.assert_close(MAE().image(image.logit()), image)


def test_each_says_whether_it_is_a_likelihood():
    assert {term.__name__: term.likelihood for term in (BCE, MSE, MAE)} == {
        "BCE": True,
        "MSE": False,
        "MAE": False,
    }
    assert set(names("reconstruction")) >= {"bce", "mse", "mae"}


def test_image_errors_against_a_loop(images):
    other = images.flip(0)
    errors = image_errors(other, images)
    for i, (a, b) in enumerate(zip(other.double(), images.double(), strict=True)):
        squares = [(p - q) ** 2 for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
        mse = sum(squares) / len(squares)
        assert float(errors["sse"][i]) == pytest.approx(sum(squares), rel=1e-5)
        assert float(errors["mse"][i]) == pytest.approx(mse, rel=1e-5)
        assert float(errors["mae"][i]) == pytest.approx(float((a - b).abs().mean()), rel=1e-5)
        assert 10 ** (-float(errors["psnr"][i]) / 10) == pytest.approx(mse, rel=1e-4)
