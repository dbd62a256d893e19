"""What the tests share: configs are composed as `ae` composes them, and groups are discovered, never listed."""

import os

# Small nets, and a process of pytest a core: more threads would wait for each other. Read when a library is loaded.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from aelab.composition import build
from aelab.composition.compose import compose, configs
from aelab.data.base import Images
from aelab.errors import UserError
from aelab.models.base import Autoencoder
from aelab.runs.run import Run
from aelab.training.fit import train


def names(group: str) -> list[str]:
    """Every choice of a config group."""
    return sorted(path.stem for path in (configs() / group).glob("*.yaml") if path.stem != "base")


def model(*overrides: str) -> Autoencoder:
    return build.model(compose("train", overrides)[0])


def composed(*overrides: str) -> Autoencoder:
    """As `model`, but what makes no sense is skipped: it must be refused with a reason that says what to type."""
    try:
        return model(*overrides)
    except UserError as refusal:
        if not re.search(r"net=|reconstruction=", str(refusal)):
            raise
        pytest.skip(str(refusal))


def data(*overrides: str) -> Images:
    built = build.data(compose("train", overrides)[0])
    built.setup()
    return built


def trained(folder: Path, *overrides: str) -> Run:
    """A finished run in `folder`, as `ae train` makes it."""
    config, choices = compose("train", overrides)
    train(config, folder, choices)
    return Run(folder)


class Probe(Callback):
    """Keeps what a fit saw: the loss of every training step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["terms"]["loss"]))


@pytest.fixture(scope="session")
def vae_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("runs") / "vae", "trainer.max_epochs=2")


@pytest.fixture
def own_run(vae_run: Run, tmp_path: Path) -> Run:
    """A copy of `vae_run`, to write into."""
    return Run(shutil.copytree(vae_run.folder, tmp_path / "own"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 12, 9, generator=torch.Generator().manual_seed(0))


def write_idx(root: Path, name: str = "MNIST", train: int = 40, test: int = 20) -> Path:
    """Small files in MNIST's own format, with all ten classes."""
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
    """Where the real MNIST lies: `AE_DATA`, as `.ci/run` sets it."""
    root = os.environ.get("AE_DATA")
    if root is None or not (Path(root) / "MNIST").is_dir():
        pytest.skip("no MNIST: set AE_DATA to a folder that torchvision would read it from")
    return root
