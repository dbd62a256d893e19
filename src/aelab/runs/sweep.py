"""A sweep is a folder of runs with a ledger, `sweep.json`. The ledger lists the jobs, and each job's own folder says
how the job stands.

Whoever types the sweep writes the ledger. No job ever writes to it, on whatever machine the job runs.
"""

import hashlib
import json
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from aelab.atomic import write_text
from aelab.errors import UserError
from aelab.runs.frozen import word_today
from aelab.runs.run import Run

NOT_IN_NAMES = ("name", "paths", "run", "trust", "data.root", "data.cache_dir", "hydra", "sweep")
LONGEST = 200  # bytes in a folder's name


def job_folder(folder: str | Path, overrides: Sequence[str]) -> str:
    """Return the name of a job's folder inside the sweep's folder. It follows from the overrides: `model=ae,seed=0`.

    A job that the ledger holds keeps its name, also if an earlier version wrote its words in another way.
    """
    ledger = Path(folder) / "sweep.json"
    known = _names(json.loads(ledger.read_text(encoding="utf-8"))["jobs"]) if ledger.is_file() else {}
    return known.get(settings(overrides)) or job_name(overrides)


def job_name(overrides: Iterable[str]) -> str:
    """Return the name of a new job, at most `LONGEST` bytes long."""
    name = ",".join(settings(overrides)).replace("/", "_") or "defaults"
    if len(name.encode()) > LONGEST:
        name = name.encode()[: LONGEST // 2].decode(errors="ignore") + "…" + digest(name)
    return name


def _names(jobs: dict[str, list[str]]) -> dict[tuple[str, ...], str]:
    return {settings(job): name for name, job in jobs.items()}


def settings(overrides: Iterable[str]) -> tuple[str, ...]:
    """Return the overrides that make one job differ from another, in the words of this version."""
    return tuple(word for word in map(word_today, overrides) if not is_place(word.lstrip("+~").partition("=")[0]))


def is_place(key: str) -> bool:
    """Whether a key says where a job is done or what it is called, not what it does."""
    return key in NOT_IN_NAMES or key.split(".")[0] in NOT_IN_NAMES


def digest(text: str) -> str:
    """Return eight letters that stand for the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Sweep:
    """The folder of a sweep. Raises UserError if it has no ledger."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "sweep.json"
        if not self.path.is_file():
            raise UserError(f"{folder} is no sweep (it has no sweep.json): type the folder of `ae train -m name=…`")
        self.jobs: dict[str, list[str]] = json.loads(self.path.read_text(encoding="utf-8"))["jobs"]
        self._names = _names(self.jobs)

    @classmethod
    def plan(cls, folder: Path, jobs: Sequence[Sequence[str]]) -> "Sweep":
        """Write jobs, each a list of overrides, into the ledger, beside the jobs of the same sweep that are there.

        Raises UserError if the folder holds a sweep over other keys, of which a job was trained.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "sweep.json"
        keys = _keys(word for job in jobs for word in job)
        with FileLock(folder / ".sweep.lock"):
            ledger: dict[str, Any] = {"keys": keys, "jobs": {}}
            if path.exists():
                ledger = json.loads(path.read_text(encoding="utf-8"))
            before = _keys(ledger["keys"])
            if before != keys and not cls(folder).began:
                ledger = {"keys": keys, "jobs": {}}  # nothing came of the line before
            elif before != keys:
                raise UserError(
                    f"{folder} holds a sweep over {', '.join(before)}, and this one is over {', '.join(keys)}: "
                    "type another name=…"
                )
            ledger["command"] = f"{sys.argv[0]} {shlex.join(sys.argv[1:])}"
            known = _names(ledger["jobs"])
            ledger["jobs"] |= {known.get(settings(job)) or job_name(job): list(job) for job in jobs}
            write_text(path, json.dumps(ledger, indent=2) + "\n")
        return cls(folder)

    def name_of(self, overrides: Sequence[str]) -> str:
        """Return the folder's name of a job in the ledger."""
        return self._names[settings(overrides)]

    def is_done(self, overrides: Sequence[str]) -> bool:
        """Whether a job is in the ledger, and done."""
        name = self._names.get(settings(overrides))
        return name is not None and self.manifest(name)["status"] == "done"

    def manifest(self, job: str) -> dict[str, Any]:
        """Return a job's manifest with its status as it is now. A job that nobody began is planned."""
        try:
            run = Run(self.folder / job)
        except UserError:
            return {"status": "planned"}
        return {**run.manifest, "status": run.status}

    @property
    def began(self) -> bool:
        """Whether anything came of the line: a job runs, was cut, or is done."""
        return any(manifest["status"] not in ("planned", "failed") for manifest in self.manifests().values())

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return the manifest of each job by the name of its folder."""
        return {job: self.manifest(job) for job in self.jobs}


def _keys(words: Iterable[str]) -> list[str]:
    """Return the keys of words that make one job differ from another, in the words of this version."""
    return sorted({word.partition("=")[0] for word in settings(words)})


def seconds(manifest: dict[str, Any]) -> float | None:
    """Return how long the last stretch of a run took. None for a run that has not ended."""
    if not manifest.get("ended") or not manifest.get("starts"):
        return None
    return (datetime.fromisoformat(manifest["ended"]) - datetime.fromisoformat(manifest["starts"][-1])).total_seconds()


def time_left(manifests: Iterable[dict[str, Any]]) -> float | None:
    """Return the seconds until all jobs are done, at the mean pace of those that are. None if none is done."""
    everything = list(manifests)
    took = [s for m in everything if m["status"] == "done" and (s := seconds(m)) is not None]
    if not took:
        return None
    states = [str(manifest["status"]) for manifest in everything]
    return (len(states) - states.count("done")) * statistics.fmean(took) / max(states.count("running"), 1)
