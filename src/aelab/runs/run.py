"""A run is a folder. It holds all that `ae evaluate` and `load` need, and where the result came from.

config.yaml        the whole config, with every interpolation resolved and the version it was written by
code.diff          how the code differed from its commit, if it did
manifest.json      status, command, seed, commit, versions, data fingerprint, times
metrics.json       the final numbers, flat
checkpoints/       best.ckpt, last.ckpt and the one before it: tensors and plain values only
evaluations/       numbers of other data or another checkpoint: never in metrics.json
calibration.npz    validation errors and clusters of training codes, for thresholds
tensorboard/  metrics.csv  train.log  figures/
"""

import json
import logging
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from aelab.atomic import write_text
from aelab.errors import UserError
from aelab.runs import frozen
from aelab.runs.log import start_log, stop_log
from aelab.runs.provenance import git_diff, git_state, versions

_Yaml = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLACE = re.compile(r"(name|paths)($|\.)|data\.cache_dir$")  # keys that say where, not what
_PLACES = ("folder", "dirpath", "save_dir", "root_dir", "default_root_dir", "log_dir", "path", "filename")


class Run:
    """A run folder that exists. `Run.start` begins a new one, or opens the one that is there."""

    def __init__(self, folder: str | Path, trust: Sequence[str] = ()) -> None:
        """Open a run folder, or the only one in a folder. `trust` names packages that its config may name, too.

        Raises UserError if the folder is not a run, or holds several.
        """
        self.folder = Path(folder).resolve()
        self.trust = list(trust)
        if not (self.folder / "config.yaml").is_file():
            inside = sorted(self.folder.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
            if len(inside) > 1:
                newest = inside[-1].parent.name
                raise UserError(f"{folder} holds {len(inside)} runs: type one of them, such as run={folder}/{newest}")
            if not inside:
                raise UserError(f"{folder} is no run folder (it has no config.yaml): type run=logs/NAME/RUN")
            self.folder = inside[0].parent

    @classmethod
    def start(cls, folder: Path, config: DictConfig, choices: dict[str, Any], overrides: Sequence[str] = ()) -> "Run":
        """Freeze the config into the folder and write the first manifest.

        If the folder holds a run with the same config, return that run. Raises UserError if it holds a run with
        another config.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}): type another paths.log_dir=…") from error
        if (folder / "config.yaml").exists():
            run = cls(folder, config.trust)
            if differences := run.differences(config):
                raise UserError(f"{folder} holds a run with another config ({differences}): type another name=…")
            return run
        origin = git_state()
        if origin["dirty"]:
            write_text(folder / "code.diff", git_diff())
        manifest = {
            "status": "planned",
            "command": f"{sys.argv[0]} {shlex.join(sys.argv[1:])}".strip(),
            "overrides": list(overrides),
            "choices": choices,
            "seed": config.seed,
            **origin,
            "versions": versions(),
        }
        write_text(folder / "manifest.json", _json(manifest))
        # The config comes last, because it makes the folder a run. A process that is killed before leaves no half run.
        write_text(folder / "config.yaml", frozen.freeze(config))
        return cls(folder, config.trust)

    @contextmanager
    def training(self, hardware: str) -> Iterator[None]:
        """Hold the run while this process trains it. At the end the manifest says how training ended.

        Raises UserError if another process trains the run.
        """
        with ExitStack() as held:
            try:  # the system releases the lock, however the process ends
                held.enter_context(FileLock(self.folder / ".lock", blocking=False))
            except Timeout as error:
                raise UserError(f"{self.folder} is being trained by another process: wait, or stop that") from error
            starts = [*self.manifest.get("starts", []), _now()]
            where = {"host": platform.node(), "hardware": hardware}
            self.update_manifest(status="running", starts=starts, started=starts[0], ended=None, error=None, **where)
            start_log(self.folder)
            held.callback(stop_log)
            try:
                yield
            except (KeyboardInterrupt, SystemExit):
                self.finish("interrupted")
                raise
            except Exception as error:
                if not isinstance(error, UserError):
                    logging.getLogger("train").exception("failed")  # the traceback goes into train.log
                self.finish("failed", error=" ".join(str(error).split()) or type(error).__name__)
                raise

    def differences(self, config: DictConfig) -> str:
        """Return what differs from this run's config, for example `optimizer.lr: 0.001, now 0.01`.

        The name of the run and the folders for logs and data sets are left out: they say where, not what.
        """
        stored = frozen.migrated(yaml.load((self.folder / "config.yaml").read_text(encoding="utf-8"), _Yaml))
        then, now = (
            {key: value for key, value in frozen.flatten(plain).items() if not _PLACE.match(key)}
            for plain in (stored, yaml.load(frozen.freeze(config), _Yaml))
        )
        keys = [key for key in {**then, **now} if then.get(key, "absent") != now.get(key, "absent")]
        return ", ".join(f"{key}: {then.get(key, 'absent')}, now {now.get(key, 'absent')}" for key in keys)

    @property
    def status(self) -> str:
        """planned, running, done, failed or interrupted. A run whose process was killed is `interrupted` too."""
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
        """The frozen config, brought up to date. `folder` is where the run lies now, because a run may be moved."""
        try:
            plain = OmegaConf.to_container(OmegaConf.load(self.folder / "config.yaml"), resolve=False)
            assert isinstance(plain, dict)
            config = OmegaConf.create(frozen.migrated({str(key): value for key, value in plain.items()}))
        except Exception as error:
            raise UserError(f"{self.folder / 'config.yaml'} cannot be read ({error})") from error
        config.folder = str(self.folder)
        config.trust = self.trust
        return config

    def check_paths(self) -> None:
        """Check a run that somebody else may have made, before it is trained here.

        Raises UserError if its config lets a callback, a logger, a profiler or a stage write outside its folder.
        """
        text = OmegaConf.to_container(self.config, resolve=False)
        assert isinstance(text, dict)
        for stage in text.get("stages") or {}:
            if Path(stage).name != stage or stage in (".", ".."):
                raise UserError(f"stages.{stage} of {self.folder / 'config.yaml'} is no name of a folder")
        parts = {part: text.get(part) for part in ("callbacks", "logger", "trainer", "stages")}
        for key, value in frozen.flatten(parts).items():
            if not isinstance(value, str):
                continue
            place = key.rpartition(".")[2] in _PLACES
            inside = "/" not in value if key.endswith("filename") else value.startswith("${folder}")
            if ".." in value or value.startswith(("/", "~")) or (place and not inside):
                raise UserError(f"{key}={value} of {self.folder / 'config.yaml'} is outside the run's folder")

    def config_at(self, root: str | None) -> DictConfig:
        """Return the config, with the data in `root` if that is given."""
        config = self.config.copy()
        if root is not None:
            config.data.root = root
        return config

    @property
    def code_shape(self) -> list[int]:
        """The shape of a code, (D,) or (D, h, w), of an autoencoder."""
        shape: list[int] = self.manifest.get("code_shape") or frozen.code_shape(self.config)
        return shape

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json holds."""
        return _read(self.folder / "manifest.json")

    def update_manifest(self, **entries: Any) -> None:
        """Write entries into manifest.json, beside those that are there."""
        write_text(self.folder / "manifest.json", _json(self.manifest | entries))

    def finish(self, status: str, **entries: Any) -> None:
        """Write how the run ended: done, failed or interrupted."""
        self.update_manifest(status=status, ended=_now(), **entries)

    @property
    def metrics(self) -> dict[str, float]:
        """The final numbers, by `split/name` and `group/name`."""
        return _read(self.folder / "metrics.json")

    def add_metrics(self, metrics: dict[str, float], measured: dict[str, str] | None = None) -> None:
        """Write numbers into metrics.json, beside those that are there. No other function writes that file.

        They are numbers of the run's own data and of the checkpoint that its manifest names. `measured` says with which
        settings a group of metrics was computed. The manifest keeps those of the first time.
        """
        if measured:
            self.update_manifest(measured=measured | self.manifest.get("measured", {}))
        write_text(self.folder / "metrics.json", _json(dict(sorted((self.metrics | metrics).items()))))

    def add_other_metrics(self, place: str, about: dict[str, Any], metrics: dict[str, float]) -> None:
        """Write numbers of other data or of another checkpoint into evaluations/PLACE.json, beside those there.

        `about` says which data and which checkpoint. No report reads these numbers.
        """
        metrics = self.other_metrics(place) | metrics
        content = {**about, "metrics": dict(sorted(metrics.items()))}
        write_text(self.folder / "evaluations" / f"{place}.json", _json(content))

    def other_metrics(self, place: str) -> dict[str, float]:
        """Return the numbers of a place, which are none before the first evaluation there."""
        return dict(_read(self.folder / "evaluations" / f"{place}.json").get("metrics", {}))

    def forget_metrics(self) -> None:
        """Remove metrics.json, because training ends and all its numbers are computed now."""
        (self.folder / "metrics.json").unlink(missing_ok=True)

    def checkpoint(self, which: str = "best") -> Path:
        """Return the path of a checkpoint: best, last or previous."""
        return self.folder / "checkpoints" / f"{which}.ckpt"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        advice = (
            "delete it, and evaluate writes it anew" if path.name == "metrics.json" else "the run must be started anew"
        )
        raise UserError(f"{path} is broken ({error}): {advice}") from error
    return content
