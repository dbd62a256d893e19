"""Runs the experiments of papers, and writes their numbers beside the published ones.

    python scripts/reproduce.py                               every row of every experiment
    python scripts/reproduce.py mnist_vae_static              the rows of one experiment
    python scripts/reproduce.py mnist_cae_rifai2011/CAE       one row; key=value, such as data.root=…, is for `ae train`
    python scripts/reproduce.py --table                       writes the tables anew, runs nothing
    python scripts/reproduce.py --guard                       compares a short run of each with its recorded band

docs/papers/NAME.yaml states the rows of an experiment and what was published. A row is an ordinary sweep over its
seeds, so the same line, typed again, completes it. Numbers are collected in docs/reproduction.json. From that file
docs/reproduction.md and the table in README.md are made.
"""

import argparse
import hashlib
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from aelab.atomic import write_text
from aelab.composition.compose import configs
from aelab.runs.run import Run
from aelab.runs.sweep import Sweep, seconds

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "reproduction.json"
PAPERS = ROOT / "docs" / "papers"
LOGS = Path("logs", "reproduction")
ELSEWHERE = (
    "data.root=",
    "data.test=",
    "hydra",
    "trainer.accelerator=",
    "trainer.devices=",
    "trust=",
)  # these words change no number
INTRODUCTION = """\
# Reproduced numbers

For who wants to know whether a number of a paper comes out here, and how. `python scripts/reproduce.py` makes this
page: mean ± standard deviation over seeds. A dash stands where nothing was published or measured. What differs from the
paper is a footnote. Minutes are those of the clock, of runs made in one stretch, on a machine with other work beside.
Each line wants data.root=… where its data lie, if they are not downloaded.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="EXPERIMENT, EXPERIMENT/ROW, and key=value for `ae train`")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--guard", action="store_true", help="check, record nothing")
    arguments = parser.parse_intermixed_args()
    asked = [word.rstrip("/") for word in arguments.words if "=" not in word]
    extra = [word for word in arguments.words if "=" in word]
    rows = [(name, row, about) for name, about in papers() for row in about["rows"]]
    if unknown := set(asked) - {word for name, row, _ in rows for word in (name, f"{name}/{row}")}:
        sys.exit(f"no {unknown.pop()} (there are {', '.join(f'{name}/{row}' for name, row, _ in rows)})")
    failed = []
    if arguments.guard:
        wanted = {name: about["guard"] for name, about in papers() if "guard" in about and (not asked or name in asked)}
        failed = [name for name, band in wanted.items() if not guard(name, band, extra)]
    elif not arguments.table:
        for name, row, about in rows:
            if not asked or {name, f"{name}/{row}"} & set(asked):
                failed += [] if run(name, row, about, extra) else [f"{name}/{row}"]
    if not arguments.guard:
        write_tables()
    if failed:
        sys.exit(f"failed, and the reason stands above: {', '.join(failed)}")


def papers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every experiment of a paper, and what docs/papers says of it."""
    for path in sorted(PAPERS.glob("*.yaml")):
        yield path.stem, yaml.safe_load(path.read_text(encoding="utf-8"))


def settings(experiment: str, overrides: list[str]) -> str:
    """Return a digest of the config of an experiment and of what a row overrides.

    It is recorded with the numbers of the row. A test fails if the digest has changed since, because the row must then
    be run again.
    """
    said = yaml.safe_load((configs() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))
    return hashlib.sha256(json.dumps([said, overrides], sort_keys=True).encode()).hexdigest()[:8]


def run(experiment: str, row: str, about: dict[str, Any], extra: list[str]) -> bool:
    """Sweep over the seeds of a row, and record the runs that are done. Return whether all are."""
    changed = [word for word in extra if not word.startswith(ELSEWHERE)]
    words = command(experiment, row, about, changed)
    there = [word for word in extra if word not in changed]
    folder = LOGS / place(experiment, changed) / row
    there += [f"paths.log_dir={LOGS}", f"name={folder.relative_to(LOGS)}"]
    done = subprocess.run([sys.executable, "-m", "aelab", *words, *there], check=False).returncode == 0
    if (folder / "sweep.json").exists():
        manifests = Sweep(folder).manifests()
        runs = [Run(folder / job) for job, manifest in manifests.items() if manifest["status"] == "done"]
        if runs:
            record(experiment, row, changed, runs, about)
    return done


def command(experiment: str, row: str, about: dict[str, Any], changed: list[str]) -> list[str]:
    """Return the command line of a row after `ae`. The words for the folder are left out."""
    entry = about["rows"][row]
    seeds = ",".join(map(str, entry.get("seeds", about["seeds"])))
    return ["train", "-m", f"experiment={experiment}", *entry.get("overrides", []), *changed, f"seed={seeds}"]


def place(experiment: str, changed: list[str]) -> str:
    """Return the name under which an experiment is recorded. It ends with the words that changed the experiment."""
    return "_".join([experiment, *(word.replace("=", "-") for word in changed)])


def record(experiment: str, row: str, changed: list[str], runs: list[Run], about: dict[str, Any]) -> None:
    wanted = about["rows"][row].get("numbers", about.get("columns"))
    everything = recorded()
    everything.setdefault(place(experiment, changed), {})[row] = {
        "experiment": experiment,
        "changed": changed,
        "settings": settings(experiment, about["rows"][row].get("overrides", [])),
        "seeds": [run.manifest["seed"] for run in runs],
        "numbers": {name: [run.metrics[name] for run in runs] for name in wanted if name in runs[0].metrics},
        "minutes": minutes([run.manifest for run in runs if len(run.manifest["starts"]) == 1]),
        "hardware": runs[0].manifest["hardware"],
        "commit": runs[0].manifest["commit"],
    }
    write_text(RECORD, json.dumps(everything, indent=2, sort_keys=True) + "\n")


def minutes(manifests: list[dict[str, Any]]) -> str:
    """Return the mean minutes of runs that were made in one stretch, or `resumed` if there are none."""
    took = [seconds(manifest) or 0.0 for manifest in manifests]
    return f"{statistics.fmean(took) / 60:.0f}" if took else "resumed"


def recorded() -> dict[str, dict[str, Any]]:
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


def write_tables() -> None:
    """Write docs/reproduction.md, and the table in README.md, which has the numbers marked `readme`."""
    about = dict(papers())
    short = [["experiment", "published", "ours", "more"]]
    sections, notes = [], list[str]()
    for name, rows in sorted(recorded().items()):
        paper = about[next(iter(rows.values()))["experiment"]]
        body = columns(paper, rows) if "columns" in paper else section(name, paper, rows, notes)
        sections.append(f"## {name}\n\n{paper['title']}: {paper['protocol']}.\n\n{body}")
        for row in paper["rows"]:
            if row in rows and "columns" not in paper:
                short += headlines(name, row, paper, rows[row])
    footnotes = "\n".join(f"[^{number}]: {note}." for number, note in enumerate(notes, 1))
    text = "\n".join([INTRODUCTION, *sections, f"## Deviations\n\n{footnotes}\n"])
    write_text(ROOT / "docs" / "reproduction.md", text)
    readme, (begin, end) = ROOT / "README.md", ("<!-- reproduction -->\n", "<!-- /reproduction -->")
    new = re.sub(
        f"{begin}.*{end}",
        lambda _: f"{begin}\n{markdown(short)}\n{end}",
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    write_text(readme, new)


def section(name: str, paper: dict[str, Any], rows: dict[str, Any], notes: list[str]) -> str:
    """Return a table of the numbers of each row of an experiment, and the rows' commands.

    A deviation is a footnote, which is added to `notes`. A number that was published in another measure
    (`published_otherwise`) stands in a column of its own.
    """
    text, commands = "", []
    for row in (row for row in paper["rows"] if row in rows):
        entry, numbers = rows[row], paper["rows"][row]["numbers"]
        others = any("published_otherwise" in number for number in numbers.values())
        note = "; ".join([paper["rows"][row].get("deviation", paper["deviation"]), *entry["changed"]])
        if note not in notes:
            notes.append(note)
        lines = [["number", "published", "ours", *(["published in another measure"] if others else [])]]
        for key, number in numbers.items():
            if key in entry["numbers"]:
                cells = [str(number.get(kind, "—")) for kind in ("published", "published_otherwise")]
                got = obtained(entry["numbers"][key], number)
                lines.append([f"{number['name']}, {number['unit']}", cells[0], got, *cells[1 : 1 + others]])
        text += f"**{row}**[^{notes.index(note) + 1}]\n\n{markdown(lines)}\n"
        seeds = ", ".join(map(str, entry["seeds"]))
        took = "" if entry["minutes"] == "resumed" else f"{entry['minutes']} minutes each; "
        line = shlex.join(command(entry["experiment"], row, paper, entry["changed"]))
        commands.append(f"# {row}: seeds {seeds}; {took}{entry['hardware']}\nae {line}")
    block = "\n".join(commands)
    return f"{text}```bash\n{block}\n```\n"


def headlines(name: str, row: str, paper: dict[str, Any], entry: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the line of README's table for each number of a row that is marked `readme`."""
    for key, number in paper["rows"][row]["numbers"].items():
        if "readme" in number and key in entry["numbers"]:
            got = obtained(entry["numbers"][key], number)
            yield [number["readme"], str(number["published"]), got, f"[how](docs/reproduction.md#{name})"]


def columns(paper: dict[str, Any], rows: dict[str, Any]) -> str:
    """Return a table with a line for each row and a column for each number."""
    there = [row for row in paper["rows"] if row in rows]
    lines = [["row", *(number["name"] for number in paper["columns"].values()), "minutes"]]
    for row in there:
        values = rows[row]["numbers"]
        cells = [obtained(values[key], n) if key in values else "—" for key, n in paper["columns"].items()]
        lines.append([row, *cells, rows[row]["minutes"].replace("resumed", "—")])
    return markdown(lines)


def obtained(values: list[float], number: dict[str, Any]) -> str:
    """Return mean ± standard deviation over seeds, in the paper's unit."""
    scaled = [value * number.get("scale", 1) for value in values]
    digits = number.get("digits", 2)
    spread = f" ± {statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):.{digits}f}{spread}"


def markdown(lines: list[list[str]]) -> str:
    head, *rest = lines
    cells = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in cells) + "\n"


def guard(experiment: str, band: dict[str, Any], extra: list[str]) -> bool:
    """Return whether a short run ends, and gives a number within the recorded band."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", f"experiment={experiment}", *band["overrides"], *extra, f"hydra.run.dir={folder}/run"]
        done = subprocess.run([sys.executable, "-m", "aelab", *words], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            return False
        value = Run(f"{folder}/run").metrics[band["number"]]
    low, high = band["between"]
    print(f"{experiment:24} {band['number']} {value:.5g}, recorded {low} … {high}", flush=True)
    return bool(low <= value <= high)


if __name__ == "__main__":
    main()
