"""A run is a folder: everything that `evaluate` and `load` need, and where it came from.

config.yaml        the whole resolved config, frozen
code.diff          how the code differed from its commit, if it did
manifest.json      status, command, seed, commit, versions, data fingerprint, times
metrics.json       the final numbers, flat
checkpoints/       best.ckpt, last.ckpt and the one before it: tensors and plain values only
tensorboard/  metrics.csv  train.log  figures/
"""

import json
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from autoencoders.errors import UserError
from autoencoders.log import start_log, stop_log
from autoencoders.provenance import code, code_diff, versions

if TYPE_CHECKING:
    import torch

    from autoencoders.models.base import Autoencoder, Objective


log = logging.getLogger(__name__)
_Yaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Run:
    """A run folder that exists. `Run.start` begins one, or opens the one that is there."""

    def __init__(self, folder: str | Path, trust: Sequence[str] = ()) -> None:
        """`trust`: packages outside the allow-list that its config may name (see `autoencoders.build`).

        Raises UserError where the folder is no run.
        """
        self.folder = Path(folder).resolve()
        self.trust = list(trust)
        if not (self.folder / "config.yaml").is_file():
            raise UserError(f"{folder} is no run folder (it has no config.yaml): type run=logs/NAME/RUN")

    @classmethod
    def start(cls, folder: Path, config: DictConfig, choices: dict[str, Any], overrides: Sequence[str] = ()) -> "Run":
        """Freeze the config into the folder and write the first manifest; of a folder that holds a run with the same
        config already, that run.

        Raises UserError where the folder holds a run with another config.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "config.yaml").exists():
            run = cls(folder, config.trust)
            if differences := run.differences(config):
                raise UserError(f"{folder} holds a run with another config ({differences}): type another name=…")
            return run
        write_whole(folder / "config.yaml", freeze(config))
        run = cls(folder, config.trust)
        origin = code()
        if origin["dirty"]:
            write_whole(folder / "code.diff", code_diff())
        run.update_manifest(
            status="planned",
            command=f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".strip(),
            overrides=list(overrides),
            choices=choices,
            seed=config.seed,
            **origin,
            versions=versions(),
        )
        return run

    @contextmanager
    def training(self) -> Iterator[None]:
        """While this process trains the run: no other may, and the manifest says how it ends.

        Raises UserError where another process trains it.
        """
        with ExitStack() as held:
            try:  # let go by the system, however the process ends
                held.enter_context(FileLock(self.folder / ".lock", blocking=False))
            except Timeout as error:
                raise UserError(f"{self.folder} is being trained by another process: wait, or stop that") from error
            starts = [*self.manifest.get("starts", []), _now()]
            where = {"host": platform.node(), "hardware": self._hardware()}
            self.update_manifest(status="running", starts=starts, started=starts[0], error=None, **where)
            start_log(self.folder)
            held.callback(stop_log)
            try:
                yield
            except (KeyboardInterrupt, SystemExit):
                self.finish("interrupted")
                raise
            except Exception as error:
                if not isinstance(error, UserError):
                    logging.getLogger("train").exception("failed")  # the traceback, into train.log
                self.finish("failed", error=" ".join(str(error).split()) or type(error).__name__)
                raise

    def differences(self, config: DictConfig) -> str:
        """What is not as in this run's config, such as `optimizer.lr: 0.001, now 0.01`."""
        texts = (self.folder / "config.yaml").read_text(), freeze(config)
        then, now = (flatten(yaml.load(text, _Yaml)) for text in texts)
        keys = [key for key in {**then, **now} if then.get(key, "absent") != now.get(key, "absent")]
        return ", ".join(f"{key}: {then.get(key, 'absent')}, now {now.get(key, 'absent')}" for key in keys)

    @property
    def status(self) -> str:
        """planned, running, done, failed or interrupted; `interrupted` too for a process that was killed."""
        status: str = self.manifest.get("status", "planned")
        return "interrupted" if status == "running" and not self._locked() else status

    def _locked(self) -> bool:
        try:
            with FileLock(self.folder / ".lock", blocking=False):
                return False
        except Timeout:
            return True

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

    def check_paths(self) -> None:
        """Before a run that somebody else may have made is trained here: raises UserError where its config lets a
        callback, a logger or a stage write outside its folder."""
        text = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(text, dict)
        for stage in text.get("then") or {}:
            if Path(stage).name != stage or stage in (".", ".."):
                raise UserError(f"then.{stage} of {self.folder / 'config.yaml'} is no name of a folder")
        for key, value in flatten({part: text.get(part) for part in ("callbacks", "logger", "then")}).items():
            if not isinstance(value, str):
                continue
            place = key.rpartition(".")[2] in _PLACES
            inside = "/" not in value if key.endswith("filename") else value.startswith("${folder}")
            if ".." in value or value.startswith(("/", "~")) or (place and not inside):
                raise UserError(f"{key}={value} of {self.folder / 'config.yaml'} is outside the run's folder")

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

    def _hardware(self) -> str:
        import torch

        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores"

    @property
    def manifest(self) -> dict[str, Any]:
        return _read(self.folder / "manifest.json")

    def update_manifest(self, **entries: Any) -> None:
        write_whole(self.folder / "manifest.json", _json(self.manifest | entries))

    def finish(self, status: str, **entries: Any) -> None:
        """Write how the run ended: done, failed or interrupted."""
        self.update_manifest(status=status, ended=_now(), **entries)

    @property
    def metrics(self) -> dict[str, float]:
        return _read(self.folder / "metrics.json")

    def add_metrics(self, metrics: dict[str, float]) -> None:
        write_whole(self.folder / "metrics.json", _json(dict(sorted((self.metrics | metrics).items()))))

    def checkpoint(self, which: str = "best") -> Path:
        return self.folder / "checkpoints" / f"{which}.ckpt"

    def last_state(self) -> tuple[Path, int] | None:
        """The newest whole checkpoint that training can go on from, and how many steps were taken by then."""
        import torch

        for which in ("last", "previous"):
            path = self.checkpoint(which)
            if not path.exists():
                continue
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                if "place" in state:
                    return path, int(state["global_step"])
            except Exception as error:
                log.warning("%s is broken (%s): going on from what was saved before", path.name, _first_line(error))
        return None

    def load_autoencoder(self, which: str = "best") -> "Autoencoder":
        """As `load_model`, but raises UserError for a classifier."""
        from autoencoders.models.base import Autoencoder

        model = self.load_model(which)
        if not isinstance(model, Autoencoder):
            raise UserError(f"{self.folder} is a classifier, and this wants the run of an autoencoder")
        return model

    def load_model(self, which: str = "best") -> "Objective":
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
            raise UserError(
                f"{path} is broken or of another model ({_first_line(error)}): try checkpoint=last"
            ) from error
        return model.eval()


def load(folder: str | Path, checkpoint: str = "best", trust: Sequence[str] = ()) -> Any:
    """The trained model of a run folder, in eval mode. An autoencoder (see `autoencoders.models.base`): `encode(x)`,
    `decode(z)`, `model(x)`, `sample(n)`; a classifier: `model(x)` gives logits, `features(x)` codes.

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
    plain.pop("paper", None)  # what an experiment says of itself: a word there makes no other run
    return OmegaConf.to_yaml(OmegaConf.create(plain))


_PLACES = ("folder", "dirpath", "save_dir", "root_dir", "log_dir", "path", "filename")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(config, dict) or not config:
        return {prefix.removesuffix("."): config}
    return {key: value for k, v in config.items() for key, value in flatten(v, f"{prefix}{k}.").items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is broken ({error}): delete it, and evaluate writes it anew") from error
    return content


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all: a reader, or a full disk, never leaves half a file."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
