"""Codes as data, classifiers on encoders, and runs that are followed by stages."""

import json

import pytest
import torch
from conftest import compose, data, start, trained
from omegaconf.errors import InterpolationResolutionError
from sklearn.linear_model import LogisticRegression

from aelab import load
from aelab.classifier import Softmax
from aelab.composition import build
from aelab.composition.stages import on_encoder
from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.runs.table import Report
from aelab.training.complete import complete

SIGMOID = ("model=ae", "model.code_activation=Sigmoid", "net.hidden_dims=[]", "model.latent_dim=12")


@pytest.fixture(scope="module")
def layer(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("layer") / "run", *SIGMOID, "trainer.max_epochs=8", "seed=3")


def finetuned(run: Run, folder, *overrides: str) -> Run:
    config, choices = compose("finetune", [f"run={run.folder}", *overrides])
    finished = Run.start(folder, on_encoder(config, run), choices)
    complete(finished)
    return finished


def test_codes_are_those_of_the_encoder_and_every_image_stays_in_its_split(layer):
    images, codes = build.data(layer.config), data("data=codes", f"data.root={layer.folder}")
    images.setup()
    assert list(codes.shape) == [1, 1, *layer.code_shape] == [1, 1, 12]
    model = load(layer.folder)
    for split in ("train", "val", "test"):
        x, z = (torch.cat([b.x for b in it.in_order(split, torch.device("cpu"), it.noise)]) for it in (images, codes))
        torch.testing.assert_close(z, model.encode(x)[:, None, None])
        assert torch.equal(images.splits[split][2], codes.splits[split][2])
        assert torch.equal(images.splits[split][1], codes.splits[split][1])


def test_codes_that_no_layer_can_rebuild_are_refused(tmp_path):
    linear = trained(tmp_path / "linear", "model=ae", "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"codes in \[0, 1\]: train that run with model.code_activation=Sigmoid"):
        data("data=codes", f"data.root={linear.folder}")
    told = trained(tmp_path / "told", "model=cvae", "trainer.max_epochs=1")
    for attempt in (lambda: data("data=codes", f"data.root={told.folder}"), lambda: finetuned(told, tmp_path / "f")):
        with pytest.raises((UserError, InterpolationResolutionError), match="CVAE are made with the label"):
            attempt()


def test_a_frozen_classifier_is_logistic_regression_on_the_codes(layer, tmp_path):
    """Both have the same penalty.

    The mean error over n images plus w |W|² has the minimum of scikit-learn's loss with C = 1 / (2 n w).
    """
    run = finetuned(
        layer, tmp_path / "run", "model.freeze=true", "model.weight_decay=1e-3", "optimizer=lbfgs",
        "data.batch_size=2000", "trainer.max_epochs=15", "optimizer.max_iter=100",
    )  # fmt: skip
    codes = data("data=codes", f"data.root={layer.folder}")
    (z, y), (z_test, y_test) = (
        (torch.cat(part).flatten(1) if i == 0 else torch.cat(part) for i, part in enumerate(zip(*batches, strict=True)))
        for batches in (
            [(b.x, b.y[:, None]) for b in codes.in_order(split, torch.device("cpu"), codes.noise)]
            for split in ("train", "test")
        )
    )
    expected = LogisticRegression(C=1 / (2 * len(z) * 1e-3), max_iter=2000, tol=1e-8).fit(z, y.flatten())
    assert run.metrics["test/error"] == pytest.approx(1 - expected.score(z_test, y_test.flatten()), abs=0.006)
    before, after = load(layer.folder).state_dict(), load(run.folder).encoders[0].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("choice", ["model=vae net=conv", "model=vqvae", "model=structured_cvae", "model=topk"])
def test_any_encoder_can_be_fine_tuned(choice, tmp_path):
    run = trained(tmp_path / "run", *choice.split(), "trainer.max_epochs=1")
    after = build.trained(finetuned(run, tmp_path / "classifier", "trainer.max_epochs=1"))
    x = torch.rand(3, 1, 8, 8)
    z = load(run.folder).encode(x).flatten(1)
    assert after(x).shape == (3, 10)
    assert after.features(x).shape == z.shape
    trainable = {name for name, p in after.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} <= trainable
    assert not any(".decoder." in name for name in trainable)
    moved = not torch.equal(after.features(x), z)
    assert moved == (choice != "model=vqvae")  # its codes are looked up, so no gradient reaches the encoder


def test_stages_stand_on_each_other_and_complete(tmp_path, monkeypatch):
    """The stages are two layers, a classifier on frozen codes, and a classifier that trains the whole net.

    The run is cut in its third stage. When it completes, it does not train again what was done.
    """
    stages = ["layer_2=layer", "head=classifier", "whole=classifier"]
    overrides = [*SIGMOID, "trainer.max_epochs=2", *(f"+stages@stages.{stage}" for stage in stages)]
    overrides += ["++stages.layer_2.model.latent_dim=7", "++stages.layer_2.noise._target_=aelab.noise.NoNoise"]
    overrides += ["stages.head.model.freeze=true", "score=whole/val/error"]
    fitted = Softmax.loss

    def cut(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(Softmax, "loss", cut)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        complete(start(tmp_path / "run", *overrides))
    run = Run(tmp_path / "run")
    statuses = {name: Run(run.folder / name).status for name in ("", "layer_2", "head")}
    assert statuses == {"": "interrupted", "layer_2": "done", "head": "interrupted"}
    was = [(run.folder / name / "checkpoints/best.ckpt").stat().st_mtime_ns for name in ("", "layer_2")]
    monkeypatch.setattr(Softmax, "loss", fitted)
    assert complete(run) == run.metrics["whole/val/error"]
    assert [(run.folder / name / "checkpoints/best.ckpt").stat().st_mtime_ns for name in ("", "layer_2")] == was

    moved = run.folder.rename(tmp_path / "moved")  # a run with stages may be moved like any other
    first, second, head, whole = (load(moved / name) for name in ("", "layer_2", "head", "whole"))
    x = torch.rand(4, 1, 8, 8)
    z = second.encode(first.encode(x)[:, None, None])
    assert z.shape == (4, 7)
    torch.testing.assert_close(head.features(x), z)
    torch.testing.assert_close(head(x), head.head(z))
    assert not torch.equal(whole.features(x), z)
    numbers = json.loads((moved / "metrics.json").read_text(encoding="utf-8"))
    assert numbers["whole/test/error"] == Run(moved / "whole").metrics["test/error"]
    assert numbers["whole/test/loss"] < numbers["head/test/loss"]
    assert len(Report([moved], ["whole/test/error"], None).settings) == 1, "a stage must not count as a run of its own"


def test_finetune_from_the_command_line(layer, run_ae, tmp_path):
    words = ("trainer.max_epochs=1", "hydra.run.dir=f", "data.batch_size=64")
    assert run_ae("finetune", f"run={layer.folder}", *words)[0] == 0
    run = Run(tmp_path / "f")
    assert run.manifest["choices"]["data"] == "digits"
    assert run.config.data.batch_size == 64
    assert run.manifest["score"] == run.metrics["val/error"]
    code, line = run_ae("visualize", "run=f")
    assert (code, "\n" in line.strip()) == (1, False)
    assert "is a classifier" in line
