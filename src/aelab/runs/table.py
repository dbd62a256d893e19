"""One table over runs. Runs that differ only in their seed share one row."""

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aelab.errors import UserError, did_you_mean
from aelab.runs.comparable import family
from aelab.runs.frozen import word_today
from aelab.runs.run import Run
from aelab.runs.sweep import is_place

HIGHER_IS_BETTER = re.compile(
    r"psnr|ssim|\br2|log_p|elbo|probe|/knn/|accuracy|exact|nmi|auroc|precision|recall|\bf1|range_f1|vus_pr|robustness|active"
)
GROUPS = ("model", "net", "codebook", "data", "noise", "reconstruction")


@dataclass
class Setting:
    """The runs that differ only in their seed, with their numbers."""

    values: dict[str, str]
    runs: list[Run] = field(default_factory=list)
    numbers: list[dict[str, float]] = field(default_factory=list)

    def of(self, column: str) -> list[float]:
        return [numbers[column] for numbers in self.numbers if column in numbers]

    def mean(self, column: str) -> float:
        return statistics.fmean(self.of(column)) if self.of(column) else math.nan

    def interval(self, column: str) -> float | None:
        """Return half the width of the 95 % interval of the mean, by Student's t. None for fewer than two runs."""
        values = self.of(column)
        if len(values) < 2:
            return None
        from scipy.special import stdtrit

        return float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))


class Report:
    """The finished runs in some folders, sorted by the number `sort`, or else by the first of `columns`.

    Without `columns` it has the loss and the squared error on test, or what there is. A number that does not compare
    all rows comes last. It sorts rows, and has its best, only within those that it compares (`comparable.family`).

    Raises UserError if there are no finished runs, or if none of them has one of the numbers.
    """

    def __init__(self, folders: Iterable[str | Path], columns: Sequence[str], sort: str | None) -> None:
        found: dict[tuple[tuple[str, str], ...], Setting] = {}
        self.unfinished = 0
        paths = {path.parent for folder in folders for path in Path(folder).rglob("manifest.json")}
        for path in sorted(paths):
            if not paths.isdisjoint(path.parents):
                continue  # a stage: its numbers are in the run that it belongs to
            run = Run(path)
            manifest = run.manifest
            if manifest["status"] != "done":
                self.unfinished += 1
                continue
            values = settings(manifest)
            setting = found.setdefault(tuple(sorted(values.items())), Setting(values))
            setting.runs.append(run)
            setting.numbers.append(run.metrics)
        if not found:
            raise UserError(
                f"no finished run in {', '.join(map(str, folders))}: type a folder that `ae train` wrote to"
            )
        known = sorted({name for setting in found.values() for numbers in setting.numbers for name in numbers})
        for name in (*columns, *([sort] if sort else [])):
            if name not in known:
                raise UserError(
                    f"no run has the number '{name}'{did_you_mean(name, known)} (there are {', '.join(known)})"
                )
        if not known:
            raise UserError(f"no run in {', '.join(map(str, folders))} has numbers: type ae evaluate run=DIR")
        everything = list(found.values())
        self.columns = list(columns) or _usual(everything, known)
        keys = list(dict.fromkeys(key for setting in everything for key in setting.values))
        self.keys = [k for k in keys if len({s.values.get(k) for s in everything}) > 1] or ["model", "data"]
        by = sort or self.columns[0]
        self.settings = [
            setting
            for _, members in sorted(_families(everything, by).items())
            for setting in sorted(members, key=lambda s: s.mean(by), reverse=bool(HIGHER_IS_BETTER.search(by)))
        ]

    def best(self, column: str) -> list[Setting]:
        """Return the best of each family of settings that the column compares, if a family has several."""
        choose = max if HIGHER_IS_BETTER.search(column) else min
        families = ([s for s in members if s.of(column)] for members in _families(self.settings, column).values())
        return [choose(members, key=lambda s: s.mean(column)) for members in families if len(members) > 1]

    @property
    def measure(self) -> str | None:
        """The first of the columns that compares all settings, if there is one."""
        return next((column for column in self.columns if len(_families(self.settings, column)) == 1), None)

    def compares(self, column: str, first: str, second: str) -> bool:
        """Whether a column compares two values, `model=ae` and `model=vae`, of a setting."""
        (key, _, a), (_, _, b) = first.partition("="), second.partition("=")
        return family({key: a}, column) == family({key: b}, column)

    def rows(self, bold: str = "{}", plus_minus: str = " ± ") -> list[list[str]]:
        """Return a head, and one row per setting.

        A row holds the values of the setting, its number of runs, and mean ± interval per column. `bold` is the format
        of the best cells of each column.
        """
        best = {column: self.best(column) for column in self.columns}
        rows = [[*self.keys, "runs", *self.columns]]
        for setting in self.settings:
            cells = []
            for column in self.columns:
                mean, interval = setting.mean(column), setting.interval(column)
                cell = "" if math.isnan(mean) else number(mean, interval, plus_minus)
                cells.append(bold.format(cell) if any(setting is one for one in best[column]) else cell)
            rows.append([*(setting.values.get(key, "") for key in self.keys), str(len(setting.runs)), *cells])
        return rows

    def markdown(self) -> str:
        return markdown(self.rows("**{}**"))

    def csv(self) -> str:
        """Return the table for a program. Every mean and every interval has a column of its own."""
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*self.keys, "runs", *(name for c in self.columns for name in (c, f"{c} ±"))])
        for setting in self.settings:
            pairs = [(setting.mean(column), setting.interval(column)) for column in self.columns]
            cells = ["" if v is None or math.isnan(v) else repr(v) for pair in pairs for v in pair]
            table.writerow([*(setting.values.get(key, "") for key in self.keys), len(setting.runs), *cells])
        return file.getvalue()

    def latex(self) -> str:
        r"""Return the table for `\usepackage{booktabs}`."""
        rows = self.rows(r"\textbf{{{}}}", r" $\pm$ ")
        escaped = [[re.sub(r"(?<!\\)([_%&#])", r"\\\1", cell) for cell in row] for row in rows]
        head, *body = (" & ".join(row) + r" \\" for row in escaped)
        align = "l" * len(self.keys) + "r" * (1 + len(self.columns))
        lines = [
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def paired(self, first: str, second: str) -> str:
        """Return a paired t-test of two settings, such as `model=ae` and `model=vae`.

        A pair is two runs that share their seed and all other settings. Raises UserError for fewer than two pairs.
        """
        from scipy.stats import ttest_rel

        a, b = (self._by_rest(word) for word in (first, second))
        common = sorted(a.keys() & b.keys())
        if len(common) < 2:
            raise UserError(f"{first} and {second} share {len(common)} pairs of runs with equal seeds: 2 are needed")
        lines = []
        for column in self._comparing(first, second):
            x, y = ([side[key][column] for key in common] for side in (a, b))
            test = ttest_rel(x, y)
            low, high = test.confidence_interval()
            difference = statistics.fmean(p - q for p, q in zip(x, y, strict=True))
            band = f"95 %: {low:.5g} … {high:.5g}, p = {test.pvalue:.3g}, {len(common)} pairs"
            lines.append(f"{column}: {first} - {second} = {difference:.5g} ({band})")
        return "\n".join(lines) + "\n"

    def _comparing(self, first: str, second: str) -> list[str]:
        """Return the columns that compare two settings. Raises UserError if there are none."""
        columns = [column for column in self.columns if self.compares(column, first, second)]
        if not columns:
            raise UserError(
                f"{', '.join(self.columns)} of {first} and {second} are of different objectives or data, and do not "
                "compare: type, for example, --columns test/mse"
            )
        return columns

    def _by_rest(self, word: str) -> dict[tuple[Any, ...], dict[str, float]]:
        """Return the numbers of the runs that have `word`, KEY=VALUE, by all that the runs of a pair share."""
        key, _, value = word.partition("=")
        return {
            (*sorted((k, v) for k, v in setting.values.items() if k != key), run.manifest["seed"]): numbers
            for setting in self.settings
            if setting.values.get(key) == value
            for run, numbers in zip(setting.runs, setting.numbers, strict=True)
        }


def _usual(everything: list[Setting], known: list[str]) -> list[str]:
    """Return the columns of a table that nobody chose. One that compares all rows comes first, if there is one."""
    usual: list[str] = [name for name in ("test/loss", "test/mse") if name in known] or known[:1]
    shared = [name for name in (*usual, *known) if len(_families(everything, name)) == 1]
    better = [name for name in shared if name.startswith("test/") and name != "test/images"]
    return list(dict.fromkeys([*better[:1], *usual]))


def _families(settings: Iterable[Setting], column: str) -> dict[Any, list[Setting]]:
    families: dict[Any, list[Setting]] = {}
    for setting in settings:
        families.setdefault(family(setting.values, column), []).append(setting)
    return families


def markdown(rows: list[list[str]]) -> str:
    """Return a table whose first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"


def settings(manifest: dict[str, Any]) -> dict[str, str]:
    """Return what was chosen and overridden for a run. Its seed and its place are left out."""
    choices = {group: manifest["choices"][group] for group in GROUPS if group in manifest["choices"]}
    words = (word_today(word).lstrip("+~").partition("=") for word in manifest.get("overrides", []))
    overrides = {key: value for key, _, value in words if key != "seed" and not is_place(key)}
    return {**choices, **overrides}


def number(mean: float, interval: float | None, plus_minus: str = " ± ") -> str:
    """Return mean ± interval. The digits end at the second significant digit of the interval."""
    if not interval:
        return f"{mean:.5g}"
    digits = max(1 - math.floor(math.log10(interval)), 0)
    return f"{mean:.{digits}f}{plus_minus}{interval:.{digits}f}"
