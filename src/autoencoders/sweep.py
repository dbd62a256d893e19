"""A sweep is a folder of runs with a ledger, `sweep.json`: which jobs there are; how each stands, its own folder says.

So the ledger is written once by whoever types the sweep, and no job, on whatever machine, ever writes to it.
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

from autoencoders.errors import UserError
from autoencoders.run import Run, write_whole

NOT_IN_NAMES = ("name", "log_dir", "run", "trust", "data.root", "hydra", "sweep")
LONGEST = 200  # letters of a folder's name


def job_folder(overrides: Iterable[str]) -> str:
    """The name of a job's folder, which follows from its overrides: `model=ae,seed=0`."""
    shown = [word for word in overrides if word.lstrip("+~").partition("=")[0].split(".")[0] not in NOT_IN_NAMES]
    shown = [word for word in shown if word.partition("=")[0] not in NOT_IN_NAMES]
    name = ",".join(shown).replace("/", "_") or "defaults"
    if len(name.encode()) > LONGEST:
        name = name[: LONGEST // 2] + "…" + digest(name)
    return name


def digest(text: str) -> str:
    """Eight letters that stand for the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Sweep:
    """A sweep's folder. Raises UserError where it is none."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "sweep.json"
        if not self.path.is_file():
            raise UserError(f"{folder} is no sweep (it has no sweep.json): type the folder of `ae train -m name=…`")
        self.jobs: dict[str, list[str]] = json.loads(self.path.read_text())["jobs"]

    @classmethod
    def plan(cls, folder: Path, jobs: Sequence[Sequence[str]]) -> "Sweep":
        """Write the jobs, each a list of overrides, into the folder's ledger, beside those of the same sweep that are
        there already.

        Raises UserError where the folder holds a sweep over other keys.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "sweep.json"
        keys = sorted(
            {word.partition("=")[0] for job in jobs for word in job} - {"name", "log_dir", "trust", "data.root"}
        )
        with FileLock(folder / ".sweep.lock"):
            ledger: dict[str, Any] = {"keys": keys, "jobs": {}}
            if path.exists():
                ledger = json.loads(path.read_text())
            if ledger["keys"] != keys:
                raise UserError(
                    f"{folder} holds a sweep over {', '.join(ledger['keys'])}, and this one is over {', '.join(keys)}: "
                    "type another name=…"
                )
            ledger["command"] = f"{sys.argv[0]} {shlex.join(sys.argv[1:])}"
            ledger["jobs"] |= {job_folder(job): list(job) for job in jobs}
            write_whole(path, json.dumps(ledger, indent=2) + "\n")
        return cls(folder)

    def manifest(self, job: str) -> dict[str, Any]:
        """A job's manifest with its status as it is now; of a job that nobody began, planned."""
        try:
            run = Run(self.folder / job)
        except UserError:
            return {"status": "planned"}
        return {**run.manifest, "status": run.status}

    def manifests(self) -> dict[str, dict[str, Any]]:
        return {job: self.manifest(job) for job in self.jobs}


def seconds(manifest: dict[str, Any]) -> float | None:
    """How long the last stretch of a run took, of one that has ended."""
    if "ended" not in manifest or not manifest.get("starts"):
        return None
    return (datetime.fromisoformat(manifest["ended"]) - datetime.fromisoformat(manifest["starts"][-1])).total_seconds()


def time_left(manifests: Iterable[dict[str, Any]]) -> float | None:
    """Seconds until all are done, at the mean pace of those that are; None where none is."""
    everything = list(manifests)
    took = [s for m in everything if m["status"] == "done" and (s := seconds(m)) is not None]
    if not took:
        return None
    states = [str(manifest["status"]) for manifest in everything]
    return (len(states) - states.count("done")) * statistics.fmean(took) / max(states.count("running"), 1)
