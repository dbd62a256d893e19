"""A run is a folder: everything that `evaluate` and `load` need, and where it came from.

config.yaml        the whole resolved config, frozen
manifest.json      status, command, seed, commit, versions, data fingerprint, times
metrics.json       the final numbers, flat
checkpoints/       best.ckpt and last.ckpt: tensors and plain values only
tensorboard/  metrics.csv  train.log  figures/
"""

import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from autoencoders.errors import UserError

if TYPE_CHECKING:
    import torch

    from autoencoders.models.base import Autoencoder


class Run:
    """A run folder that exists. `Run.create` starts one."""

    def __init__(self, folder: str | Path, trust: Sequence[str] = ()) -> None:
        """`trust`: packages outside the allow-list that its config may name (see `autoencoders.build`).

        Raises UserError where the folder is no run.
        """
        self.folder = Path(folder).resolve()
        self.trust = list(trust)
        if not (self.folder / "config.yaml").is_file():
            raise UserError(f"{folder} is no run folder (it has no config.yaml): type run=logs/NAME/RUN")

    @classmethod
    def create(cls, folder: Path, config: DictConfig, choices: dict[str, Any]) -> "Run":
        """Freeze the config into the folder and write the first manifest.

        Raises UserError where the folder holds a run already.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with (folder / "config.yaml").open("x") as file:
                file.write(freeze(config))
        except FileExistsError as error:
            raise UserError(f"{folder} holds a run already: it is left as it is") from error
        run = cls(folder, config.trust)
        run.update_manifest(
            status="running",
            command=f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".strip(),
            choices=choices,
            seed=config.seed,
            **_commit(),
            versions={name: importlib.metadata.version(name) for name in _PACKAGES}
            | {"python": platform.python_version()},
            host=platform.node(),
            started=_now(),
        )
        return run

    @cached_property
    def config(self) -> DictConfig:
        """The frozen config, with `folder` filled in: a run may be moved."""
        try:
            config = OmegaConf.load(self.folder / "config.yaml")
            assert isinstance(config, DictConfig)
        except Exception as error:
            raise UserError(f"{self.folder / 'config.yaml'} cannot be read ({error})") from error
        config.folder = str(self.folder)
        config.trust = self.trust
        return config

    def config_at(self, root: str | None) -> DictConfig:
        """The config, with the data in `root` where that is given."""
        config = self.config.copy()
        if root is not None:
            config.data.root = root
        return config

    @property
    def device(self) -> "torch.device":
        """The kind of device it was trained on, where this machine has one; else the CPU."""
        import torch

        wanted = self.config.trainer.accelerator
        if torch.cuda.is_available() and wanted in ("gpu", "cuda", "auto"):
            return torch.device("cuda")
        if torch.backends.mps.is_available() and wanted in ("gpu", "mps", "auto"):
            return torch.device("mps")
        return torch.device("cpu")

    @property
    def manifest(self) -> dict[str, Any]:
        return _read(self.folder / "manifest.json")

    def update_manifest(self, **entries: Any) -> None:
        _write(self.folder / "manifest.json", self.manifest | entries)

    def finish(self, status: str, **entries: Any) -> None:
        """Write how the run ended: done, failed or interrupted."""
        self.update_manifest(status=status, ended=_now(), **entries)

    @property
    def metrics(self) -> dict[str, float]:
        return _read(self.folder / "metrics.json")

    def add_metrics(self, metrics: dict[str, float]) -> None:
        _write(self.folder / "metrics.json", dict(sorted((self.metrics | metrics).items())))

    def checkpoint(self, which: str = "best") -> Path:
        return self.folder / "checkpoints" / f"{which}.ckpt"

    def load_model(self, which: str = "best") -> "Autoencoder":
        """The trained model on the CPU, in eval mode.

        Raises UserError for a checkpoint that is absent, broken, or of another model.
        """
        import torch

        from autoencoders import build

        path = self.checkpoint(which)
        if not path.is_file():
            raise UserError(f"{path} does not exist: the run saved nothing yet (checkpoint=best or checkpoint=last)")
        model = build.model(self.config)
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path} is broken or of another model ({reason}): try checkpoint=last") from error
        return model.eval()


def load(folder: str | Path, checkpoint: str = "best", trust: Sequence[str] = ()) -> "Autoencoder":
    """The trained model of a run folder, in eval mode: `encode(x)`, `decode(z)`, `model(x)`, `sample(n)`.

    `trust`: names of your own packages that the run's config may build from.
    """
    return Run(folder, trust).load_model(checkpoint)


def freeze(config: DictConfig) -> str:
    """The config as YAML with every interpolation resolved, but for `${folder}`: a run may be moved."""
    config = config.copy()
    config.folder = r"\${folder}"  # resolves to the literal text ${folder}
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    del plain["folder"], plain["trust"]  # trust is given by whoever loads a run, never by the run
    return OmegaConf.to_yaml(OmegaConf.create(plain))


class Console(logging.Handler):
    """Plain `print`, so that a rich progress bar, which stands in for the terminal, keeps its line below."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__()
        self.stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr if self.stderr else sys.stdout, flush=True)


def start_log(folder: Path, quiet: bool = False) -> None:
    """Send what is logged to the console (unless `quiet`) and to `train.log`; of libraries, warnings only."""
    file = logging.FileHandler(folder / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(file)
    start_console(None if quiet else Console())


def start_console(console: logging.Handler | None) -> None:
    """Show what this program logs, and nothing of what libraries say that does not help anybody."""
    import lightning.pytorch  # noqa: F401  (sets the levels of its loggers when it is first imported)

    own = logging.getLogger("autoencoders")
    own.setLevel(logging.INFO)
    own.handlers = [console] if console else []
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    for true_but_useless in ("Experiment logs directory", "The number of training batches", ".*LeafSpec"):
        warnings.filterwarnings("ignore", true_but_useless)


_PACKAGES = ("autoencoders", "torch", "torchvision", "lightning", "hydra-core", "omegaconf")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit() -> dict[str, Any]:
    """The commit of the code that runs, and whether the tree differed from it; None outside a repository."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", Path(__file__).parent, *words], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is broken ({error}): delete it, and evaluate writes it anew") from error
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a reader, or a full disk, never leaves half a file."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
