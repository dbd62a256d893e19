"""Helpers and fixtures that the tests share.

Configs are composed as `ae` composes them. The choices of a group are read from its folder, so no test lists them.
"""

import os

# The nets are small and pytest runs one process per core, so more threads would wait for each other. Libraries read
# these variables when they are loaded, so they are set before the imports.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
import functools
import re
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from tensorboard.summary.writer import event_file_writer

from aelab.composition import build
from aelab.composition import compose as composing
from aelab.composition.compose import configs
from aelab.data.base import DataModule
from aelab.models.base import Autoencoder
from aelab.runs.run import Run
from aelab.training.complete import complete

# Only tests of real data may depend on it. The processes that share the tests are started later, so it keeps a name.
if "AE_DATA" in os.environ:
    os.environ["AE_REAL_DATA"] = os.environ.pop("AE_DATA")
REAL_DATA = os.environ.get("AE_REAL_DATA")
os.environ.pop("AE_LOGS", None)
# The files of one folder are read in the order of their names, which hold the second and then this counter. Here a run
# and its continuation share a second, and as words 10 stands before 9. So all numbers have as many digits.
event_file_writer._global_uid = event_file_writer.AtomicCounter(10**6)


def names(group: str) -> list[str]:
    """Return the name of every choice of a config group."""
    stems = (path.stem for path in (configs() / group).glob("*.yaml"))
    return sorted(stem for stem in stems if stem != "core" and not stem.startswith("base"))


def of_source(name: str) -> list[str]:
    """Return the words that choose a source of data, with a root and a shape if it would read them from a file."""
    text = (configs() / "data" / f"{name}.yaml").read_text(encoding="utf-8")
    root = [f"data.root={name}"] if "root: null" in text else []
    return [f"data={name}", *root, *(["data.shape=[1,8,8]"] if "shape_of" in text else [])]


@functools.cache
def _composed(verb: str, overrides: tuple[str, ...]) -> tuple[DictConfig, dict]:
    return composing.compose(verb, overrides)


def compose(verb: str, overrides=()) -> tuple[DictConfig, dict]:
    """Return what `ae VERB OVERRIDES` composes: config and choices. Each line is composed once per test process."""
    config, choices = _composed(verb, tuple(overrides))
    return config.copy(), dict(choices)


def model(*overrides: str) -> Autoencoder:
    return build.model(compose("train", overrides)[0])


def under_noise(model: str, noise: str = "gaussian") -> str:
    """The word that chooses a noise, or another one that the model takes."""
    return f"noise={'patches' if model == 'masked' else noise}"


def quick(model: str) -> list[str]:
    """The words that make a model quick, of one that walks many steps to a datum."""
    return ["model.sampling_steps=3", "model.step.channels=[8,16]"] if model == "diffusion_ae" else []


def but_slow(choices: list[str], *fast: str) -> list:
    """The choices as parameters of a test. Those that are not among `fast` run with `pytest -m slow`."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in choices]


def data(*overrides: str) -> DataModule:
    built = build.data(compose("train", overrides)[0])
    built.setup()
    return built


def start(folder: Path, *overrides: str) -> Run:
    """Return the run that `ae train` would begin in `folder`."""
    return Run.start(folder, *compose("train", overrides), list(overrides))


def trained(folder: Path, *overrides: str) -> Run:
    """Train a run in `folder` as `ae train` does, and return it."""
    run = start(folder, *overrides)
    complete(run)
    return run


class Probe(Callback):
    """Keeps the terms of the loss of every training step."""

    def __init__(self) -> None:
        self.terms: list[dict[str, float]] = []

    @property
    def losses(self) -> list[float]:
        return [terms["loss"] for terms in self.terms]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.terms.append({name: float(value) for name, value in outputs["terms"].items()})


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory):
    """`shared("model=vae")` returns a finished run with these overrides, trained once for all test processes.

    It trains for one epoch unless an override sets `max_epochs`.
    """
    from filelock import FileLock

    root = tmp_path_factory.getbasetemp()
    root = (root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root) / "shared"
    root.mkdir(exist_ok=True)

    def run(*overrides: str) -> Run:
        words = overrides if any("max_epochs" in word for word in overrides) else (*overrides, "trainer.max_epochs=1")
        folder = root / re.sub(r"\W+", "_", " ".join(words))
        with FileLock(f"{folder}.lock"):
            return trained(folder, *words)

    return run


@pytest.fixture(scope="session")
def vae_run(shared) -> Run:
    return shared("model=vae", "trainer.max_epochs=2")


@pytest.fixture
def own_run(vae_run: Run, tmp_path: Path) -> Run:
    """A copy of `vae_run` that a test may write into."""
    return Run(shutil.copytree(vae_run.folder, tmp_path / "own"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 12, 9, generator=torch.Generator().manual_seed(0))


def write_idx(root: Path, name: str = "MNIST", train: int = 40, test: int = 20) -> Path:
    """Write small files in MNIST's own format, with all ten classes, and return `root`."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    g = torch.Generator().manual_seed(0)
    for split, n in (("train", train), ("t10k", test)):
        pixels = torch.randint(0, 256, (n, 28, 28), generator=g, dtype=torch.uint8)
        labels = torch.arange(n, dtype=torch.uint8) % 10
        files = {
            f"{split}-images-idx3-ubyte": struct.pack(">IIII", 0x803, n, 28, 28) + pixels.numpy().tobytes(),
            f"{split}-labels-idx1-ubyte": struct.pack(">II", 0x801, n) + labels.numpy().tobytes(),
        }
        for file, content in files.items():
            (folder / file).write_bytes(content)
    return root


@pytest.fixture
def mnist_root() -> str:
    """The folder of the real MNIST. It comes from `AE_DATA`, which `.ci/run` sets."""
    if REAL_DATA is None or not (Path(REAL_DATA) / "MNIST").is_dir():
        pytest.skip("no MNIST: set AE_DATA to a folder that torchvision would read it from")
    return REAL_DATA


@pytest.fixture
def run_ae(monkeypatch, tmp_path, capsys):
    """Run `ae` in this process, in an empty folder. Return exit code and stderr. `run_ae.said` holds stdout."""
    from aelab import cli

    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ae", *words])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        call.said, error = capsys.readouterr()
        return (1, code) if isinstance(code, str) else (int(code or 0), error)

    return call
