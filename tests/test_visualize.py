"""The pictures of a run: which are made, where they go, and what is said if there is nothing to draw."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from conftest import compose, names, quick, trained, under_noise
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aelab import samplers
from aelab.composition import build
from aelab.composition.trained import Trained
from aelab.errors import Unsupported, UserError
from aelab.figures import codes as figures
from aelab.figures.draw import draw
from aelab.figures.draw import figures as known
from aelab.training.evaluation import evaluate

ALWAYS = {"reconstructions", "filters", "learning_curves", "strangest", "latent_2d", "latent_3d"}
OF_VECTORS = {"manifold", "interpolations", "traversals"}


@pytest.mark.slow
@pytest.mark.parametrize("name", names("model"))
def test_every_picture_that_a_model_has(name, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "POINTS", 100)
    monkeypatch.setattr(samplers, "IMAGES", 100)
    run = trained(tmp_path / "run", f"model={name}", *quick(name), "trainer.max_epochs=1", under_noise(name))
    subject, drawn = Trained.of(run), set()
    for picture, draws in known().items():
        with contextlib.suppress(Unsupported), torch.no_grad():
            assert draws(subject, run).axes
            drawn.add(picture)
    decoded = {"priors"} | (set() if len(subject.model.code_shape) > 1 else OF_VECTORS)
    without = {"filters"} if name == "masked" else set()  # its first layer sees a patch
    assert drawn == (ALWAYS - without) | (decoded if subject.model.decodes else set())


def test_pictures_are_files_and_in_tensorboard(own_run, monkeypatch):
    monkeypatch.setattr(figures, "POINTS", 100)
    own_run.add_metrics({f"robustness/gaussian/{s}/{kind}": 20.0 for s in (0.1, 0.3) for kind in ("noisy", "model")})
    drawn = draw(own_run)
    assert set(drawn) == set(known()) - {"information"}  # which needs factors: tests/test_disentanglement.py
    for picture in drawn:
        image = np.asarray(Image.open(own_run.folder / "figures" / f"{picture}.png").convert("L"))
        assert image.std() > 5, "the picture is blank"
        assert (own_run.folder / "figures" / f"{picture}.pdf").read_bytes().startswith(b"%PDF")
    board = EventAccumulator(str(own_run.folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {f"visualize/{picture}" for picture in drawn} <= set(board.Tags()["images"])
    assert (own_run.folder / "tensorboard" / "projector_config.pbtxt").exists()
    assert list((own_run.folder / "tensorboard").rglob("sprite.png"))
    (codes,) = (own_run.folder / "tensorboard").rglob("tensors.tsv")
    assert len(codes.read_text(encoding="utf-8").splitlines()) == 100


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
    assert set(known()) == ALWAYS | OF_VECTORS | {"robustness", "priors", "information"}


def test_arcs_keep_their_radius_and_lines_do_not():
    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert np.linalg.norm(figures._arc(a, b, 0.5)) == pytest.approx(1)
    assert np.linalg.norm(figures._line(a, b, 0.5)) == pytest.approx(0.5**0.5)
    assert figures._arc(a, b, 1 / 3) @ a == pytest.approx(np.cos(np.pi / 6))
    assert np.allclose(figures._arc(a, a, 0.3), a)


def test_errors_of_colours_do_not_cancel():
    from aelab.figures.sheet import differences

    difference = torch.zeros(1, 3, 2, 2)
    difference[0, :, 0, 0] = torch.tensor([0.8, -0.8, 0.0])  # the mean over channels is 0
    red, _, blue = differences(difference)[0, :, 0, 0].tolist()
    white = differences(difference)[0, :, 1, 1]
    assert red - blue > 0.3
    assert float(white.min()) > 0.95


def test_images_are_spread_over_the_classes_or_chosen(own_run):
    from aelab.composition.trained import Trained

    it = Trained.of(own_run)
    assert sorted(it.examples(10).y.tolist()) == list(range(10))
    it.shown = [7, 3]
    assert torch.equal(it.examples(10).x, it.images("test")[0][[3, 7]])
    it.shown = [10000]
    with pytest.raises(UserError, match="no test image 10000"):
        it.examples(10)


@pytest.mark.parametrize(("n", "size"), [(2, (8, 8)), pytest.param(12, (24, 12), marks=pytest.mark.slow)])
def test_few_and_tall_images(n, size, tmp_path):
    """Every figure and every group of metrics works, or says why not."""
    rng = np.random.default_rng(0)
    for split, name, i in itertools.product(("train", "val", "test"), "ab", range(n // 2)):
        path = tmp_path / "data" / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    line = [
        "data=folder",
        f"data.root={tmp_path / 'data'}",
        f"data.shape=[3,{size[0]},{size[1]}]",
        "net.hidden_dims=[8]",
    ]
    run = trained(tmp_path / "run", *line, "trainer.max_epochs=1", "model.latent_dim=4")
    drawn = draw(run)
    assert {"reconstructions", "priors", "interpolations", "traversals", "manifold", "latent_2d"} <= set(drawn)
    metrics = evaluate(run, groups=build.metrics(compose("evaluate", [f"run={run.folder}"])[0]))
    assert {"representation", "generation", "reconstruction"} <= {name.split("/")[0] for name in metrics}


def test_names_that_people_look_for(own_run, monkeypatch):
    monkeypatch.setattr(figures, "POINTS", 100)
    assert draw(own_run, ["tsne", "t_sne", "interpolation"], images=[3, 14]) == ["latent_2d", "interpolations"]
    with pytest.raises(Unsupported, match=r"from one test image to another: type images=\[3,14\]"):
        draw(own_run, ["interpolations"], images=[3])
    with pytest.raises(UserError, match="no figure 'interpolatoin', did you mean 'interpolation'"):
        draw(own_run, ["interpolatoin"])


def test_interpolations_lead_between_the_data_that_were_chosen(own_run, monkeypatch):
    subject, shown = Trained.of(own_run), []
    subject.shown = [14, 3, 14]
    monkeypatch.setattr(figures, "sheet", lambda rows, *_: shown.extend(rows))
    with torch.no_grad():
        figures.interpolations(subject, own_run)
    x = subject.data.pictures(subject.images("test")[0])
    assert len(shown) == 4
    torch.testing.assert_close(shown[0][[0, -1]], x[[14, 3]])
    torch.testing.assert_close(shown[2][[0, -1]], x[[3, 14]])
