"""The pictures of a run: which are made, where they go, and what is said if there is nothing to draw."""

import contextlib

import numpy as np
import pytest
import torch
from conftest import names, trained
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aelab import samplers
from aelab.composition.trained import Trained
from aelab.errors import Unsupported, UserError
from aelab.figures import codes as figures
from aelab.figures.draw import draw
from aelab.figures.draw import figures as known

ALWAYS = {"reconstructions", "priors", "filters", "learning_curves", "strangest"}
OF_VECTORS = {"latent_2d", "latent_3d", "manifold", "interpolations", "traversals"}


@pytest.mark.slow
@pytest.mark.parametrize("name", names("model"))
def test_every_picture_that_a_model_has(name, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "POINTS", 100)
    monkeypatch.setattr(samplers, "IMAGES", 100)
    run = trained(tmp_path / "run", f"model={name}", "trainer.max_epochs=1", "noise=gaussian")
    subject, drawn = Trained.of(run), set()
    for picture, draws in known().items():
        with contextlib.suppress(Unsupported), torch.no_grad():
            assert draws(subject, run).axes
            drawn.add(picture)
    assert drawn == ALWAYS | {"latent_2d", "latent_3d"} | (set() if len(subject.model.code_shape) > 1 else OF_VECTORS)


def test_pictures_are_files_and_in_tensorboard(own_run, monkeypatch):
    monkeypatch.setattr(figures, "POINTS", 100)
    own_run.add_metrics({f"robustness/gaussian/{s}/{kind}": 20.0 for s in (0.1, 0.3) for kind in ("noisy", "model")})
    drawn = draw(own_run)
    assert set(drawn) == set(known())
    for picture in drawn:
        image = np.asarray(Image.open(own_run.folder / "figures" / f"{picture}.png").convert("L"))
        assert image.std() > 5, "the picture is blank"
        assert (own_run.folder / "figures" / f"{picture}.pdf").read_bytes().startswith(b"%PDF")
    board = EventAccumulator(str(own_run.folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {f"visualize/{picture}" for picture in drawn} <= set(board.Tags()["images"])
    assert (own_run.folder / "tensorboard" / "projector_config.pbtxt").exists()
    assert list((own_run.folder / "tensorboard").rglob("sprite.png"))
    (codes,) = (own_run.folder / "tensorboard").rglob("tensors.tsv")
    assert len(codes.read_text().splitlines()) == 100


def test_only_what_was_asked_for(own_run):
    assert draw(own_run, ["priors", "filters"]) == ["priors", "filters"]
    with pytest.raises(UserError, match="no figure 'prior', did you mean 'priors'"):
        draw(own_run, ["prior"])
    with pytest.raises(Unsupported, match="type ae evaluate"):
        draw(own_run, ["robustness"])


def test_a_code_of_two_units(tmp_path):
    """A code of two units has a manifold and a plane, but no picture in three dimensions."""
    run = trained(tmp_path / "run", "model.latent_dim=2", "trainer.max_epochs=1")
    assert draw(run, ["manifold", "latent_2d"]) == ["manifold", "latent_2d"]
    with pytest.raises(Unsupported, match="at least three units"):
        draw(run, ["latent_3d"])


def test_which_figures_there_are():
    assert set(known()) == ALWAYS | OF_VECTORS | {"robustness"}


def test_arcs_keep_their_radius_and_lines_do_not():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert np.linalg.norm(figures._arc(a, b, 0.5)) == pytest.approx(1)
    assert np.linalg.norm(figures._line(a, b, 0.5)) == pytest.approx(0.5**0.5)
    assert figures._arc(a, b, 1 / 3) @ a == pytest.approx(np.cos(np.pi / 6))
    assert np.allclose(figures._arc(a, a, 0.3), a)
