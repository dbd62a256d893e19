"""Samplers fit a density to the codes of a model. They refuse a model that they cannot serve."""

import numpy as np
import pytest
import torch
from conftest import trained

from aelab.composition.trained import Trained
from aelab.errors import Unsupported
from aelab.samplers import GMM, KDE, Autoregressive, Gaussian, Prior


@pytest.fixture(scope="session")
def vqvae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vqvae"
    return Trained.of(trained(folder, "model=vqvae", "codebook.size=8", "trainer.max_epochs=3"))


@pytest.mark.parametrize("sampler", [Gaussian(), GMM(2), KDE()])
def test_moments_of_what_is_drawn(sampler):
    g = np.random.default_rng(0)
    codes = g.normal(size=(4000, 2)) @ [[1, 0.8], [0, 0.6]] + [3, -2]
    drawn = sampler.draw(codes, 4000)
    assert np.allclose(drawn.mean(0), codes.mean(0), atol=0.1)
    assert np.allclose(np.cov(drawn.T), np.cov(codes.T), atol=0.2)
    assert np.array_equal(drawn, sampler.draw(codes, 4000)), "a second draw must be the same"


def test_a_mixture_finds_two_heaps_and_one_normal_does_not():
    g = np.random.default_rng(0)
    codes = np.where(g.random((2000, 1)) < 0.5, -5, 5) + g.normal(size=(2000, 1))

    def between(sampler):
        return (abs(sampler.draw(codes, 2000)) < 1.5).mean()

    assert between(GMM(2)) < 0.01
    assert between(KDE()) < 0.03
    assert between(Gaussian()) > 0.1


@pytest.mark.parametrize("sampler", [Prior(), Gaussian(), GMM(3), KDE()])
@pytest.mark.parametrize("model", ["vae", "cvae"])
def test_images_of_a_model(sampler, model, tmp_path):
    subject = Trained.of(trained(tmp_path / "run", f"model={model}", "trainer.max_epochs=1"))
    images = sampler(subject, 7)
    assert images.shape == (7, 1, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(images, sampler(subject, 7))


def test_what_a_model_does_not_have(vqvae, tmp_path):
    ae = Trained.of(trained(tmp_path / "run", "model=ae", "trainer.max_epochs=1"))
    for sampler, subject, reason in (
        (Prior(), ae, "no prior of its own"),
        (Autoregressive(8, 1), ae, "gmm, kde or gaussian"),
        (GMM(2), vqvae, "autoregressive"),
    ):
        with pytest.raises(Unsupported, match=reason):
            sampler(subject, 2)
