"""Everything comes back from a run folder, and nothing that was written is lost."""

import json
import shutil
import subprocess

import pytest
import torch
from conftest import compose, start, trained
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import aelab
from aelab.composition import compose as composing
from aelab.composition.instantiate import build as instantiate
from aelab.errors import UserError
from aelab.runs import provenance
from aelab.runs.run import Run
from aelab.training.evaluation import evaluate


def test_a_run_leaves_what_was_promised(vae_run):
    names = {str(path.relative_to(vae_run.folder)) for path in vae_run.folder.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml",
        "manifest.json",
        "metrics.json",
        "metrics.csv",
        "train.log",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "figures/progress.png",
        "figures/samples.png",
    }
    manifest = vae_run.manifest
    assert manifest["status"] == "done"
    assert manifest["seed"] == 0
    assert manifest["score"] == vae_run.metrics["val/loss"]
    assert {"command", "commit", "dirty", "versions", "data", "started", "ended"} <= set(manifest)
    assert manifest["choices"]["model"] == "vae"
    assert vae_run.metrics["test/images"] == 360
    assert "epoch 2/2" in (vae_run.folder / "train.log").read_text(encoding="utf-8")


def test_a_run_keeps_how_its_code_differed_from_the_commit(tmp_path, monkeypatch):
    """The test makes a repository of its own, so it does not depend on the state of this one."""
    config, _ = compose("train", [])
    source = tmp_path / "code.py"
    source.write_text("a = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(source))
    unknown = Run.start(tmp_path / "unknown", config, {})
    assert (unknown.manifest["commit"], unknown.manifest["dirty"]) == (None, None)

    def git(*words):
        identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / ".gitignore").write_text("*\n!code.py\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    clean = Run.start(tmp_path / "clean", config, {})
    source.write_text("a = 2\n")
    dirty = Run.start(tmp_path / "dirty", config, {})
    assert clean.manifest["commit"] == dirty.manifest["commit"] == git("rev-parse", "HEAD")
    assert (clean.manifest["dirty"], dirty.manifest["dirty"]) == (False, True)
    assert not (unknown.folder / "code.diff").exists()
    assert not (clean.folder / "code.diff").exists()
    assert "-a = 1\n+a = 2" in (dirty.folder / "code.diff").read_text(encoding="utf-8")


def test_tensorboard_has_scalars_images_and_hyperparameters(vae_run):
    tags = {"scalars": set(), "images": set()}
    for path in (vae_run.folder / "tensorboard").glob("events*"):
        events = EventAccumulator(str(path)).Reload()
        for kind, found in tags.items():
            found |= set(events.Tags()[kind])
    assert tags["scalars"] >= {
        "train/loss",
        "train/kl",
        "val/loss",
        "test/mse",
    }  # test/… is logged together with the hyperparameters
    assert tags["images"] == {"progress", "samples", "kl_per_unit"}


def test_evaluation_gives_the_same_numbers_also_after_a_move(vae_run, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(vae_run.folder, folder)
    assert evaluate(Run(folder), ("val", "test")) == vae_run.metrics


def test_the_frozen_config_is_plain_and_knows_no_place(vae_run):
    text = (vae_run.folder / "config.yaml").read_text(encoding="utf-8")
    assert str(vae_run.folder) not in text
    frozen = OmegaConf.to_container(OmegaConf.load(vae_run.folder / "config.yaml"), resolve=False)
    assert frozen["callbacks"]["checkpoint"]["dirpath"] == "${folder}/checkpoints"
    assert vae_run.config.callbacks.checkpoint.dirpath == f"{vae_run.folder}/checkpoints"


def test_load_gives_a_model_for_a_notebook(vae_run):
    model = aelab.load(vae_run.folder)
    x = torch.rand(3, 1, 8, 8)
    assert not model.training
    assert model.encode(x).shape == (3, 16)
    assert torch.equal(model(x), model.decode(model.encode(x)))
    assert model.sample(16).shape == (16, 1, 8, 8)
    assert aelab.load(vae_run.folder, "last").encode(x).shape == (3, 16)


def test_checkpoints_hold_tensors_and_plain_values(vae_run):
    for which in ("best", "last"):
        assert torch.load(vae_run.checkpoint(which), weights_only=True)["state_dict"]


def test_a_folder_that_holds_a_run_is_left_alone(vae_run):
    before = {path: path.read_bytes() for path in vae_run.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds a run with another config .*seed: 0, now 1"):
        trained(vae_run.folder, "seed=1")
    assert before == {path: path.read_bytes() for path in vae_run.folder.rglob("*") if path.is_file()}


def test_runs_of_one_second_have_folders_of_their_own():
    folders = set()
    for _ in range(8):
        composing.compose("train")
        folders.add(HydraConfig.get().run.dir)
    assert len(folders) == 8


@pytest.mark.parametrize("damage", ["truncate", "empty", "absent", "another"])
def test_a_checkpoint_that_cannot_be_loaded(vae_run, tmp_path, damage):
    folder = tmp_path / "run"
    shutil.copytree(vae_run.folder, folder)
    path = folder / "checkpoints" / "best.ckpt"
    if damage == "absent":
        path.unlink()
    elif damage == "another":
        torch.save({"state_dict": {"foo": torch.zeros(1)}}, path)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncate" else 0])
    metrics = (folder / "metrics.json").read_bytes()
    with pytest.raises(UserError, match="best.ckpt") as error:
        evaluate(Run(folder), ["test"])
    assert "\n" not in str(error.value)
    assert (folder / "metrics.json").read_bytes() == metrics


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        Run(tmp_path)


def test_metrics_are_added_and_never_half_written(vae_run, tmp_path):
    shutil.copytree(vae_run.folder, tmp_path / "run")
    run = Run(tmp_path / "run")
    run.add_metrics({"test/extra": 1.5})
    assert run.metrics == vae_run.metrics | {"test/extra": 1.5}
    with pytest.raises(TypeError):
        run.add_metrics({"test/broken": object()})
    assert json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))["test/extra"] == 1.5
    assert not list(run.folder.glob("*.tmp"))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "logging.os.system",
        "aelab.runs.run.os.system",
        "aelab.callbacks.pictures.Path.write_text",
        "torch.load",
        "torch.optim.lr_scheduler.types",
    ],
)
def test_nothing_outside_the_allow_list_is_built(target, tmp_path):
    canary = tmp_path / "canary"
    inner = {"_target_": target, "_args_": [f"touch {canary}"]}
    for config in (inner, {"_target_": "aelab.reconstruction.MSE", "sigma": {"deep": [inner]}}):
        with pytest.raises(UserError, match=r"not trusted|cannot be imported|a number belongs there"):
            instantiate(OmegaConf.create(config))
    assert not canary.exists()


def test_a_users_own_package_is_built_when_trusted(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("class Double:\n    def __init__(self, x):\n        self.x = 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create({"_target_": "mine.Double", "x": 4})
    with pytest.raises(UserError, match=r"type trust=\[mine\]"):
        instantiate(config)
    assert instantiate(config, ["mine"]).x == 8


def test_a_run_that_was_killed_while_it_began_begins_anew(tmp_path, monkeypatch):
    """The config is written last. Without it the folder is no run, and the same line starts one."""
    written = []

    def write(path, text):
        if path.name == "config.yaml":
            raise KeyboardInterrupt
        written.append(path.name)
        path.write_text(text)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("aelab.runs.run.write_text", write)
        start(tmp_path / "run", "trainer.max_epochs=1", "logger=[]", "~callbacks.pictures")
    assert "manifest.json" in written
    run = trained(tmp_path / "run", "trainer.max_epochs=1", "logger=[]", "~callbacks.pictures")
    assert run.manifest["status"] == "done"
