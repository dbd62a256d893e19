"""`ae status DIR`: how the jobs of a sweep stand, and how long the rest will take."""

import argparse
import sys
import time
from collections import Counter

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from aelab.runs.sweep import Sweep, seconds, time_left

STATES = ("planned", "running", "done", "failed", "interrupted")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="ae status", description=__doc__)
    parser.add_argument("folder", help="the folder of a sweep: logs/NAME")
    parser.add_argument("--once", action="store_true", help="print it once, even in a terminal")
    arguments = parser.parse_args(words)
    sweep = Sweep(arguments.folder)
    if arguments.once or not sys.stdout.isatty():
        Console().print(table(sweep))
        return
    with Live(table(sweep), refresh_per_second=2) as live:
        while any(manifest["status"] in ("planned", "running") for manifest in sweep.manifests().values()):
            time.sleep(2)
            sweep = Sweep(arguments.folder)
            live.update(table(sweep))


def table(sweep: Sweep) -> Table:
    """Return a table with one row per job, and how many jobs there are of each status."""
    manifests = sweep.manifests()
    counts = Counter(manifest["status"] for manifest in manifests.values())
    left = time_left(manifests.values())
    summary = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    if left:
        summary += f"; about {duration(left)} left"
    result = Table(
        Column("job", overflow="fold"), "status", "score", "took", "", title=str(sweep.folder), caption=summary
    )
    for job, manifest in manifests.items():
        took, score = seconds(manifest), manifest.get("score")
        shown = ", ".join(
            f"{value:.6g}" for value in (score if isinstance(score, list) else [score]) if value is not None
        )
        result.add_row(job, manifest["status"], shown, duration(took), manifest.get("error") or "")
    return result


def duration(seconds: float | None) -> str:
    """Return seconds as `1:02:03`, and None as nothing."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
