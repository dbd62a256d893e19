"""Runs the experiments of papers, and writes what they gave beside what was published.

    python scripts/reproduce.py                                 every row whose numbers are not there yet
    python scripts/reproduce.py mnist_vae_static data.root=…    the rows of an experiment; key=value goes to `ae train`
    python scripts/reproduce.py mnist_cae_rifai2011/CAE         one row
    python scripts/reproduce.py --table                         only writes the tables anew
    python scripts/reproduce.py --guard                         minutes: is each experiment still within its band?

A row is an ordinary sweep over its seeds, so the same line, typed again, completes it. Numbers are collected in
docs/reproduction.json, and the tables in docs/reproduction.md and README.md are made from it.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from autoencoders.compose import configs
from autoencoders.run import Run
from autoencoders.sweep import Sweep, seconds

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "reproduction.json"
LOGS = Path("logs") / "reproduction"
PLACES = ("data.root=", "hydra", "trainer.", "trust=")  # words that change no number
HEAD = ["experiment", "number", "published", "obtained", "seeds", "minutes", "hardware", "deviation", "command"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="experiments, or EXPERIMENT/ROW; all by default")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--guard", action="store_true", help="short runs against recorded bands")
    arguments = parser.parse_args()
    extra = [word for word in arguments.rows if "=" in word]
    asked = [word for word in arguments.rows if "=" not in word]
    failed = []
    for experiment, paper in papers():
        if arguments.guard and wanted(experiment, "", asked):
            failed += [] if guard(experiment, paper["guard"], extra) else [f"{experiment}: out of its band"]
        for row in [] if arguments.guard or arguments.table else paper["rows"]:
            if wanted(experiment, row, asked) and not run(experiment, row, paper, extra):
                failed.append(f"{experiment}/{row}: its line stands above")
    if not arguments.guard:
        write_tables()
    if failed:
        sys.exit("\n".join(["failed:", *failed]))


def papers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every experiment that says what it reproduces."""
    for path in sorted((configs() / "experiment").glob("*.yaml")):
        if paper := yaml.safe_load(path.read_text()).get("paper"):
            yield path.stem, paper


def wanted(experiment: str, row: str, asked: list[str]) -> bool:
    return not asked or any(word.rstrip("/") in (experiment, f"{experiment}/{row}") for word in asked)


def run(experiment: str, row: str, paper: dict[str, Any], extra: list[str]) -> bool:
    """Sweep over the seeds of a row, and record what is done; whether all of it is."""
    command = words(experiment, row, paper)
    folder = LOGS / experiment / row
    done = subprocess.run([sys.executable, "-m", "autoencoders", *command, *extra], check=False).returncode == 0
    if (folder / "sweep.json").exists():
        runs = [
            Run(folder / job) for job, manifest in Sweep(folder).manifests().items() if manifest["status"] == "done"
        ]
        if runs:
            record(experiment, row, paper, runs, [word for word in extra if not word.startswith(PLACES)])
    return done


def words(experiment: str, row: str, paper: dict[str, Any]) -> list[str]:
    """The command of a row, after `ae`."""
    seeds = ",".join(map(str, paper["rows"][row].get("seeds", paper["seeds"])))
    overrides = paper["rows"][row].get("overrides", [])
    place = [f"log_dir={LOGS}", f"name={experiment}/{row}"]
    return ["train", "-m", f"experiment={experiment}", *overrides, f"seed={seeds}", *place]


def record(experiment: str, row: str, paper: dict[str, Any], runs: list[Run], changed: list[str]) -> None:
    everything = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    took = [seconds(run.manifest) or 0.0 for run in runs]
    everything.setdefault(experiment, {})[row] = {
        "seeds": [run.manifest["seed"] for run in runs],
        "numbers": {name: [run.metrics[name] for run in runs] for name in paper["rows"][row]["numbers"]},
        "minutes": round(statistics.fmean(took) / 60, 1),
        "hardware": runs[0].manifest["hardware"],
        "commit": runs[0].manifest["commit"],
        "changed": changed,
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(everything, indent=2, sort_keys=True) + "\n")


def table() -> str:
    """A line a number, of every row that was run."""
    everything = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    lines = [HEAD, ["---"] * len(HEAD)]
    for experiment, paper in papers():
        for row, about in paper["rows"].items():
            entry = everything.get(experiment, {}).get(row)
            if entry is None:
                continue
            deviation = "; ".join([about.get("deviation", paper["deviation"]), *entry["changed"]])
            command = " ".join(["ae", *words(experiment, row, paper), *entry["changed"]])
            for name, number in about["numbers"].items():
                lines.append(
                    [
                        f"`{experiment}`: {row}",
                        f"{number['name']}, {number['unit']}",
                        str(number.get("published", "—")),
                        obtained(entry["numbers"][name], number),
                        ", ".join(map(str, entry["seeds"])),
                        f"{entry['minutes']:.0f}",
                        entry["hardware"],
                        deviation,
                        f"`{command}`",
                    ]
                )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def obtained(values: list[float], number: dict[str, Any]) -> str:
    """Mean ± standard deviation over seeds, in the paper's unit."""
    scaled = [value * number.get("scale", 1) for value in values]
    digits = number.get("digits", 2)
    spread = f" ± {statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):.{digits}f}{spread}"


def write_tables() -> None:
    papers_read = "\n".join(f"- `{name}`: {paper['title']}. {paper['protocol']}." for name, paper in papers())
    text = "# Reproduced numbers\n\nMade by `python scripts/reproduce.py`; mean ± standard deviation over the seeds.\n"
    (ROOT / "docs" / "reproduction.md").write_text(f"{text}\n{table()}\n## Protocols\n\n{papers_read}\n")
    readme = ROOT / "README.md"
    begin, end = "<!-- reproduction -->\n", "<!-- /reproduction -->"
    new = re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{table()}\n{end}", readme.read_text(), flags=re.DOTALL)
    readme.write_text(new)


def guard(experiment: str, band: dict[str, Any], extra: list[str]) -> bool:
    """Whether a short run gives a number within a band that such runs had here."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", f"experiment={experiment}", *band["overrides"], *extra, f"hydra.run.dir={folder}/run"]
        done = subprocess.run([sys.executable, "-m", "autoencoders", *command], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            return False
        value = Run(f"{folder}/run").metrics[band["number"]]
    low, high = band["between"]
    print(f"{experiment:24} {band['number']} {value:.5g}, recorded {low} … {high}", flush=True)
    return bool(low <= value <= high)


if __name__ == "__main__":
    main()
