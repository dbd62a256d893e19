"""A run that was killed and resumed gives bit for bit what an uninterrupted run gives."""

import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import but_slow, names, quick, start, trained, under_noise
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from aelab.commands.rerun import rerun
from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.training.checkpoints import last_state
from aelab.training.complete import complete
from aelab.training.fit import fit

BASE = ("trainer.max_epochs=4", "data.batch_size=200", "noise=gaussian", "trainer.log_every_n_steps=3")
STEPS = 7  # per epoch
LONG = ("trainer.max_epochs=15", "noise=gaussian", "~callbacks.pictures")


class Killed(BaseException):
    pass


class Kill(Callback):
    """Ends training at the start of a step. It sends the signal `number`, or raises Killed if that is None."""

    def __init__(self, step: int, number: int | None = None) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.step:
            if self.number is None:
                raise Killed
            os.kill(os.getpid(), self.number)


def weights(run: Run, which: str) -> dict[str, torch.Tensor]:
    return torch.load(run.checkpoint(which), weights_only=True)["state_dict"]


def assert_same(run: Run, reference: Run) -> None:
    for which in ("best", "last"):
        a, b = weights(run, which), weights(reference, which)
        assert all(torch.equal(a[key], b[key]) for key in b), which
    assert run.metrics == reference.metrics
    for name, points in curves(reference).items():
        assert curves(run)[name] == points, f"TensorBoard, {name}"
    assert rows(run) == rows(reference)


def curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"] if "/" in tag}


def rows(run: Run) -> list[dict[str, str]]:
    with (run.folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of BASE that was not killed."""
    return trained(tmp_path_factory.mktemp("resume") / "whole", *BASE)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of BASE that was killed in its second epoch."""
    return killed(tmp_path_factory.mktemp("resume") / "cut", list(BASE), Kill(STEPS + 2))


def killed(folder: Path, overrides: list[str], kill: Kill) -> Run:
    run = start(folder, *overrides)
    with pytest.raises((Killed, SystemExit, KeyboardInterrupt)), run.training("a CPU"):
        fit(run, callbacks=[kill])
    return run


@pytest.mark.parametrize("name", but_slow(names("model"), "vae"))
def test_every_model_goes_on_as_if_it_had_not_been_killed(name, tmp_path):
    """A run that was killed in its third epoch goes on from the end of the second.

    A run that was told to stop goes on from that very step. Most models share a training loop, so three stand for all.
    """
    overrides = [*BASE, f"model={name}", under_noise(name), *quick(name)]
    reference = trained(tmp_path / "whole", *overrides)
    ways = {"killed": None, "stopped": signal.SIGTERM} if name in ("vae", "aae", "vqvae") else {"killed": None}
    for folder, number in ways.items():
        run = killed(tmp_path / folder, overrides, Kill(2 * STEPS + 3, number))
        place = torch.load(run.checkpoint("last"), weights_only=True)["place"]
        assert place == {"epoch": 2, "batch": 0 if number is None else 3, "stopped": False}
        assert complete(start(run.folder, *overrides)) == reference.manifest["score"]
        assert_same(run, reference)


@pytest.mark.parametrize(
    "line",
    but_slow(
        [
            "callbacks=[ema]",
            "callbacks=[early_stopping] callbacks.early_stopping.patience=1 optimizer.lr=0.02",
            "scheduler=cosine",
            "scheduler=plateau scheduler.patience=0",
            "scheduler=multistep scheduler.milestones=[1,2]",
            "scheduler=cosine scheduler.interval=step scheduler.warmup=9",
            "model=aae scheduler=plateau scheduler.warmup=1 scheduler.patience=0",
            "+schedule@model.beta=linear",
            "trainer.accumulate_grad_batches=2",
            "data.loader=stream data.num_workers=2",
            "data.binarize=dynamic net.dropout=0.3",
            "optimizer=sgd optimizer.momentum=0.9",
            "callbacks.resume.every_n_steps=2",
        ],
        "callbacks=[ema]",
        "model=aae scheduler=plateau scheduler.warmup=1 scheduler.patience=0",
        "trainer.accumulate_grad_batches=2",
        "data.binarize=dynamic net.dropout=0.3",
    ),
)
def test_whatever_has_a_state(line, tmp_path):
    """The run is stopped in the middle of an epoch, because there every part of the state counts."""
    overrides = [*BASE, *line.split()]
    reference = trained(tmp_path / "whole", *overrides)
    run = killed(tmp_path / "killed", overrides, Kill(STEPS + 4, signal.SIGINT))
    assert run.status == "interrupted"
    complete(run)
    assert_same(run, reference)
    assert not multiprocessing.active_children(), "the workers of a loader must end with it"


def test_killed_before_anything_was_saved(whole, tmp_path):
    run = killed(tmp_path / "killed", list(BASE), Kill(3))
    assert not run.checkpoint("last").exists()
    complete(run)
    assert_same(run, whole)


def test_told_to_stop_in_the_last_step(whole, tmp_path):
    """The checkpoint is that of finished training. Typing the line again only evaluates it."""
    run = killed(tmp_path / "stopped", list(BASE), Kill(4 * STEPS, signal.SIGTERM))
    assert not run.metrics
    complete(run)
    assert_same(run, whole)


@pytest.mark.parametrize("torn", [["last"], ["last", "previous"]])
def test_a_torn_checkpoint_falls_back_to_the_one_before(torn, whole, tmp_path):
    run = killed(tmp_path / "killed", list(BASE), Kill(3 * STEPS + 2))
    assert torch.load(run.checkpoint("previous"), weights_only=True)["place"]["epoch"] == 2
    for which in torn:
        path = run.checkpoint(which)
        path.write_bytes(path.read_bytes()[:1000])
    complete(run)
    assert_same(run, whole)
    said = (run.folder / "train.log").read_text(encoding="utf-8")
    assert all(f"{which}.ckpt is broken" in said for which in torn)
    assert ("resumes after 14 steps" in said) == (torn == ["last"])


def test_a_moved_folder_and_a_strangers_paths(whole, tmp_path):
    """A checkpoint names the paths of best checkpoints. The run looks for them in its own folder.

    No file elsewhere is removed.
    """
    run = killed(tmp_path / "killed", list(BASE), Kill(2 * STEPS + 2))
    victim = tmp_path / "victim.ckpt"
    victim.write_text("not yours")
    state = torch.load(run.checkpoint("last"), weights_only=True)
    for callback in state["callbacks"].values():
        if "best_model_path" in callback:
            callback |= {"best_model_path": str(victim), "kth_best_model_path": str(victim)}
            callback["best_k_models"] = {str(victim): score for score in callback["best_k_models"].values()}
    torch.save(state, run.checkpoint("last"))
    moved = Run(shutil.move(run.folder, tmp_path / "moved"))
    complete(moved)
    assert_same(moved, whole)
    assert victim.read_text(encoding="utf-8") == "not yours"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("callbacks.pictures.folder", "/tmp/elsewhere"),
        ("callbacks.checkpoint.dirpath", "${folder}/../elsewhere"),
        ("callbacks.checkpoint.filename", "../../elsewhere"),
        ("callbacks.resume.folder", "elsewhere"),
        ("logger.csv.save_dir", "~/elsewhere"),
        ("stages", {"../elsewhere": {"model": {}}}),
        ("stages", {"next": {"callbacks": {"pictures": {"folder": "/tmp/elsewhere"}}}}),
        ("logger.csv._target_", "os.system"),
        ("callbacks.pictures._target_", "aelab.runs.run.os.system"),
    ],
)
def test_a_strangers_run_writes_nothing_elsewhere_and_runs_nothing(key, value, cut, tmp_path, monkeypatch):
    """`resume` does not go on with it, and `rerun` does not start it."""
    monkeypatch.chdir(tmp_path)
    run = Run(shutil.copytree(cut.folder, tmp_path / "run"))
    config = OmegaConf.load(run.folder / "config.yaml")
    OmegaConf.update(config, key, value)
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "train.log"}
    for act in (lambda: Run(run.folder).check_paths() or complete(Run(run.folder)), lambda: rerun(Run(run.folder))):
        with pytest.raises(UserError, match="outside the run's folder|no name of a folder|is not trusted"):
            act()
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path in before}
    changed = {path.name for path in before if before[path] != after.get(path)}
    assert changed <= {"manifest.json"}, "only the manifest may change, because it says that the run failed"
    assert not list(tmp_path.rglob("elsewhere*"))


def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(whole, tmp_path, monkeypatch):
    run = start(tmp_path / "full", *BASE)
    written = []

    def save(state, file):
        written.append(file.write(b"half a checkpoint"))
        if len(written) > 4:
            raise OSError(28, "No space left on device", file.name)
        file.seek(0)
        torch.serialization.save(state, file)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("aelab.training.checkpoints.torch.save", save)
        complete(run)
    assert run.manifest["status"] == "failed"
    assert "No space left on device" in run.manifest["error"]
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir())[0] == "best.ckpt"
    assert not list(run.folder.rglob("*.tmp"))
    assert last_state(run) is not None
    complete(run)
    assert_same(run, whole)


def test_what_is_done_stays_and_another_config_is_refused(tmp_path):
    run = trained(tmp_path / "run", "trainer.max_epochs=1")
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    assert complete(start(run.folder, "trainer.max_epochs=1")) == run.manifest["score"]
    with pytest.raises(UserError, match=r"optimizer.lr: 0.001, now 0.5"):
        start(run.folder, "trainer.max_epochs=1", "optimizer.lr=0.5")
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()} == before


def test_one_folder_is_trained_by_one_process(tmp_path):
    run = start(tmp_path / "run")
    code = f"from aelab.runs.run import Run; Run({str(run.folder)!r}).training('a CPU').__enter__()"
    with run.training("a CPU"):
        assert run.status == "running"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "is being trained by another process" in done.stderr
    assert run.status == "interrupted", "no process holds the run, and the manifest does not say how it ended"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aae", "vqvae"])
def test_a_process_killed_at_random(name, tmp_path):
    """SIGKILL ends the process twice, at random moments. The same line is typed again each time."""
    words = [sys.executable, "-m", "aelab", "train", f"model={name}", *LONG, "name=it", f"paths.log_dir={tmp_path}"]
    folder = tmp_path / "it" / "run"
    words += [f"hydra.run.dir={folder}"]
    reference = trained(tmp_path / "whole", f"model={name}", *LONG, "name=it", f"paths.log_dir={tmp_path}")
    g = torch.Generator().manual_seed(0)
    for _ in range(2):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and "epoch" not in _text(folder / "train.log"):
            time.sleep(0.05)
        time.sleep(float(torch.rand((), generator=g)) * 2)
        process.kill()
        process.wait()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    run = Run(folder)
    assert len(run.manifest["starts"]) > 1
    assert_same(run, reference)


@pytest.mark.slow
def test_two_processes_go_on_as_if_they_had_not_been_killed(tmp_path):
    folder = tmp_path / "killed"
    more = [*LONG[1:], "trainer=ddp_cpu", "trainer.max_epochs=8", "data.batch_size=100"]
    words = [sys.executable, "-m", "aelab", "train", *more, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and "epoch 3/" not in _text(folder / "train.log"):
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "resumes after" in done.stdout
    assert_same(Run(folder), trained(tmp_path / "whole", *more))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_and_resume_goes_on(number, code, tmp_path):
    folder = tmp_path / "it's, x=1"
    words = [sys.executable, "-m", "aelab", "train"]
    first = [*words, *LONG, f'hydra.run.dir="{folder}"']
    process = subprocess.Popen(first, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and "epoch 2/" not in _text(folder / "train.log"):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    run = Run(folder)
    assert run.status == "interrupted"
    done = subprocess.run([*words, f"resume={folder}"], check=True, capture_output=True, text=True)
    assert "resumes after" in done.stdout
    assert_same(run, trained(tmp_path / "whole", *LONG))
    refused = subprocess.run([*words, f"resume={folder}", "seed=1"], check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "seed=1 is for a new one" in refused.stderr
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["status"] == "done"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
