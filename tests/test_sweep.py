"""A sweep completes when its line is typed again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import compose, names, start

from aelab.commands.status import table
from aelab.composition.compose import configs
from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.runs.sweep import LONGEST, Sweep, job_name, time_left
from aelab.runs.table import Report

AE = [sys.executable, "-m", "aelab"]
SMALL = ["model=ae", "net.hidden_dims=[8]", "trainer.max_epochs=2", "~callbacks.pictures", "logger=[csv]"]


def ae(*words: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess:
    env = os.environ | {"HYDRA_FULL_ERROR": "0"}
    done = subprocess.run([*AE, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    return done


def killed(words: list[str], folder: Path, until) -> None:
    """Type a line, and kill the whole process group when `until` returns true."""
    process = subprocess.Popen(
        [*AE, *words], cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not until():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ends(sweep: Path) -> dict[str, str]:
    """Return the time at which each finished job ended."""
    manifests = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sweep.glob("*/manifest.json")
    }
    return {name: manifest["ended"] for name, manifest in manifests.items() if manifest["status"] == "done"}


@pytest.mark.slow
def test_a_sweep_that_is_killed_three_times_completes(tmp_path):
    words = ["train", "-m", "name=s", *SMALL, "trainer.max_epochs=8", "seed=0,1,2,3,4,5", "model.latent_dim=2,4"]
    g = torch.Generator().manual_seed(0)
    for goal in (2, 5, 8):
        killed(words, tmp_path, lambda goal=goal: len(ends(tmp_path / "logs/s")) >= goal)
        done = ends(tmp_path / "logs/s")
        assert goal <= len(done) < 12
        time.sleep(float(torch.rand((), generator=g)))
        assert ends(tmp_path / "logs/s") == done
    said = ae(*words, folder=tmp_path).stdout
    assert f"12 jobs, {len(done)} done" in said
    final = ends(tmp_path / "logs/s")
    assert len(final) == 12
    assert done.items() <= final.items(), "a job that was done must not be trained again"
    ae(*words[:2], "name=whole", *words[3:], folder=tmp_path)
    tables = [Report([tmp_path / "logs" / name], [], None).csv() for name in ("s", "whole")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_failures_are_named_and_tried_again(tmp_path):
    words = ["train", "-m", "name=s", *SMALL, "optimizer.lr=1e30,1e-3"]
    done = ae(*words, folder=tmp_path, code=1)
    assert "optimizer.lr=1e+30: train/reconstruction became" in done.stdout
    assert done.stderr == "ae: 1 of 2 jobs failed: type the same line again to retry them\n"
    states = {name: manifest["status"] for name, manifest in Sweep(tmp_path / "logs/s").manifests().items()}
    assert sorted(states.values()) == ["done", "failed"]
    assert "2 jobs, 1 done" in ae(*words, folder=tmp_path, code=1).stdout
    other = ae("train", "-m", "name=s", "model.beta=1,2", folder=tmp_path, code=1)
    assert "holds a sweep over" in other.stderr
    mistyped = ae("train", "-m", "name=t", "model=ae,vea", folder=tmp_path, code=1)
    assert "did you mean 'vae'" in mistyped.stderr
    assert not list((tmp_path / "logs").glob("t/*/config.yaml")), "a mistake must be noticed before any training"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_every_launcher(launcher, tmp_path):
    more = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else ["hydra.launcher.timeout_min=5"]
    words = ["train", "-m", "name=s", f"hydra/launcher={launcher}", *more, *SMALL, "model.latent_dim=2,0"]
    done = ae(*words, folder=tmp_path, code=1)
    assert "1 of 2 jobs failed" in done.stderr
    assert done.stdout.count("model.latent_dim=0 must be at least 1") >= 1
    assert len(ends(tmp_path / "logs/s")) == 1
    assert "2 jobs, 1 done" in ae(*words, folder=tmp_path, code=1).stdout


@pytest.mark.slow
def test_a_search_goes_on_toward_its_total(tmp_path):
    space = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "model.latent_dim=range(2,9,2)", "hydra.sweeper.n_trials=6"]
    words = ["train", "-m", "hydra/sweeper=optuna", "name=s", *SMALL, *space]
    killed(words, tmp_path, lambda: len(ends(tmp_path / "logs/s")) >= 2)
    before = ends(tmp_path / "logs/s")
    said = ae(*words, folder=tmp_path).stdout
    assert "6 trials, 6 completed" in said
    after = ends(tmp_path / "logs/s")
    assert before.items() <= after.items()
    from optuna import load_study

    from aelab.callbacks.prune import storage

    study = load_study(study_name="study", storage=storage(tmp_path / "logs/s"))
    trials = [trial for trial in study.trials if "job" in trial.user_attrs]  # another may have been killed when drawn
    assert len(trials) == 6
    for trial in trials:
        run = Run(tmp_path / "logs/s" / job_name(trial.user_attrs["job"]))
        assert trial.value == run.manifest["score"]
        assert run.config.optimizer.lr == trial.params["optimizer.lr"]
    study.ask()  # as a search that is killed while it draws leaves it
    assert "6 trials, 6 completed" in ae(*words, folder=tmp_path).stdout, "a finished search must run no more trials"


@pytest.mark.slow
def test_a_search_with_two_scores_and_a_failed_trial(tmp_path):
    words = ["train", "-m", "hydra/sweeper=optuna", "name=s", *SMALL, "model=vae", "hydra.sweeper.sampler=grid"]
    words += ["score=[val/reconstruction,val/kl]", "hydra.sweeper.directions=[minimize,minimize]"]
    said = ae(*words, "optimizer.lr=choice(1e30,1e-2,1e-3)", "hydra.sweeper.n_trials=3", folder=tmp_path).stdout
    assert "3 trials, 2 completed" in said
    assert "failed  " in said
    assert said.count("best    ") >= 1


@pytest.mark.slow
def test_two_processes_in_a_sweep(tmp_path):
    words = ["train", "-m", "name=s", "trainer=ddp_cpu", *SMALL, "seed=0,1", "data.batch_size=100"]
    ae(*words, folder=tmp_path)
    assert len(ends(tmp_path / "logs/s")) == 2
    found = {path.name for path in (tmp_path / "logs/s").iterdir() if path.is_dir()}
    assert found == set(ends(tmp_path / "logs/s"))


def test_names_of_folders():
    assert job_name(["name=x", "model=ae", "seed=0", "data.root=/a/b", "paths.log_dir=l"]) == "model=ae,seed=0"
    assert job_name(["+schedule@model.beta=linear", "~callbacks.ema"]) == "+schedule@model.beta=linear,~callbacks.ema"
    assert job_name(["net.activation=a/b"]) == "net.activation=a_b"
    long = [f"model.key_{i}={i}" for i in range(50)]
    assert len(job_name(long).encode()) < LONGEST < 255
    assert len(job_name(["name_of=" + "字" * 200]).encode()) < LONGEST
    assert job_name(long) != job_name([*long[:-1], "model.key_49=x"])


def test_a_ledger_knows_what_nobody_began(tmp_path):
    jobs = [["model=ae", f"seed={seed}"] for seed in range(4)]
    sweep = Sweep.plan(tmp_path, jobs)
    ended = {"started": "2026-01-01T00:00:00+00:00", "starts": ["2026-01-01T00:00:00+00:00"]}
    for seed, status in ((0, "done"), (1, "failed"), (2, "running")):
        run = start(tmp_path / f"model=ae,seed={seed}", f"seed={seed}")
        run.update_manifest(status=status, **ended, ended="2026-01-01T00:01:40+00:00")
    assert [m["status"] for m in sweep.manifests().values()] == ["done", "failed", "interrupted", "planned"]
    assert time_left(sweep.manifests().values()) == 300
    assert str(table(sweep).caption) == "1 planned, 1 done, 1 failed, 1 interrupted; about 0:05:00 left"
    assert list(Sweep.plan(tmp_path, [["model=ae", "seed=9"]]).jobs) == [*map(job_name, jobs), "model=ae,seed=9"]
    with pytest.raises(UserError, match="holds a sweep over model, seed, and this one is over seed"):
        Sweep.plan(tmp_path, [["seed=1"]])
    with pytest.raises(UserError, match="is no sweep"):
        Sweep(tmp_path / "model=ae,seed=0")


@pytest.mark.parametrize("name", names("sweep"))
def test_ready_made_sweeps_compose(name):
    config, _ = compose("train", [f"sweep={name}"])
    text = (configs() / "sweep" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "params:" in text
    assert config.score == "val/loss"


def test_the_lock_of_a_killed_process_can_be_broken(tmp_path, monkeypatch):
    """Optuna looks at the time of the file that its lock, a link, leads to. A relative link would lead nowhere."""
    from pathlib import Path

    from aelab.callbacks.prune import storage

    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("sweep").mkdir()
    lock = storage(Path("sweep"))._backend._lock
    lock.acquire()
    assert (tmp_path / "sweep/study.log.lock").exists()
    lock.release()


SEARCH = ["train", "-m", "hydra/sweeper=optuna", "name=s", *SMALL, "hydra.sweeper.n_trials=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("model.latent_dimm=choice(2,4)", "did you mean 'model.latent_dim'?"),
        ("model.latent_dim=choice(2,4) score=val/los", "did you mean 'val/loss'? (there are train/loss,"),
        ("model.latent_dim=choice(2,4) score=test/loss", "is a number of the test split"),
        ("model.latent_dim=choice(2,4) hydra.sweeper.directions=[down]", "holds down, which is none of minimize, maxi"),
        ("model.latent_dim=choice(2,4) score=[val/loss,val/mse]", "type one direction, minimize or maximize, for each"),
        ("model.latent_dim=choice(2,4) optimizer.lr=fast", "optimizer.lr=fast is a word"),
        (
            "model.latent_dim=choice(2,4) score=[val/loss,val/mse] callbacks=[prune] "
            "hydra.sweeper.directions=[minimize,minimize]",
            "callbacks=[prune] judges trials by one score",
        ),
    ],
)
def test_a_search_checks_its_line_before_it_writes(words, says, tmp_path):
    said = ae(*SEARCH, *words.split(), folder=tmp_path, code=1).stderr
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_a_search_of_which_nothing_came_begins_anew(tmp_path):
    space = "model.latent_dim=choice(2,4)"
    assert (
        "none of 2 trials completed: train/" in ae(*SEARCH, space, "optimizer.lr=1e30", folder=tmp_path, code=1).stderr
    )
    assert "2 trials, 2 completed" in ae(*SEARCH, space, "score=val/mse", folder=tmp_path).stdout
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "logs").rglob("*") if path.is_file()}
    other = ae(*SEARCH, "model.latent_dim=choice(2,8)", "score=val/mse", folder=tmp_path, code=1).stderr
    assert "another space (model.latent_dim:" in other
    other = ae(*SEARCH, space, "score=val/mse", "optimizer.lr=1e-2", folder=tmp_path, code=1).stderr
    assert "another choice (optimizer.lr: absent, now 0.01)" in other
    now = {path: path.stat().st_mtime_ns for path in files if "study.log" not in path.name}
    assert now.items() <= files.items(), "a line that is refused writes nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x"},
        {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/nonexistent", "JSM_NAMESPACE_RANK": "0", "JSM_NAMESPACE_SIZE": "4"}
        | {"JSM_NAMESPACE_LOCAL_RANK": "0"},
        {"TORCHELASTIC_RUN_ID": "1", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "0"}
        | {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    ],
    ids=["slurm", "lsf", "torchrun", "ascii"],
)
def test_a_run_on_one_device_in_any_environment(environment, tmp_path):
    """A plain line trains inside another launcher's environment, and in a locale that is not UTF-8."""
    env = os.environ | environment
    words = ["train", "name=größe", *SMALL[:-1], "logger=[csv]"]
    done = subprocess.run([*AE, *words], cwd=tmp_path, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "logs" / "größe").iterdir()
    assert Run(folder).status == "done"
    assert (folder / "metrics.csv").is_file()
