"""The page of `ae report`: the table, learning curves, and the result over the settings. It needs no network."""

import base64
import csv
import html
import io
import math
import statistics
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aelab.figures.sheet import PALETTE

if TYPE_CHECKING:
    from aelab.runs.table import Report, Setting

SHOWN = 10  # this many of the first settings have a curve and a picture


def page(report: "Report") -> str:
    head, *rows = report.rows("<b>{}</b>")
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in _escaped(row)) + "</tr>" for row in rows)
    parts = {
        "HEAD": "".join(f"<th>{html.escape(cell)}</th>" for cell in head),
        "ROWS": cells,
        "CURVES": _svg(curves(report)),
        "SWEEP": _svg(swept(report, report.measure)) if len(report.settings) > 1 and report.measure else "",
        "PICTURES": "".join(_thumbnail(report, setting) for setting in report.settings[:SHOWN]),
    }
    text = (files("aelab.figures") / "report.html").read_text(encoding="utf-8")
    for key, value in parts.items():
        text = text.replace("{{" + key + "}}", value)
    return text


def curves(report: "Report") -> Figure:
    """Draw the loss on validation over epochs, or what else compares all settings.

    A line is the mean over seeds. Its band reaches from least to greatest.
    """
    measure = (report.measure or "test/loss").replace("test/", "val/")
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for colour, setting in zip(PALETTE, report.settings[:SHOWN], strict=False):
        runs = [_validation(run.folder / "metrics.csv", measure) for run in setting.runs]
        epochs = min(map(len, runs))
        if not epochs:
            continue
        at = range(1, epochs + 1)
        values = [[run[epoch] for run in runs] for epoch in range(epochs)]
        axes.plot(
            at,
            [statistics.fmean(v) for v in values],
            color=colour,
            marker="." if epochs < 20 else "",
            label=label(report, setting),
        )
        axes.fill_between(at, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="epoch", ylabel=measure)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _validation(path: Any, measure: str) -> list[float]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [float(row[measure]) for row in csv.DictReader(file) if row.get(measure)]


def swept(report: "Report", column: str) -> Figure:
    """Draw a column over the settings: a heat map for two keys, parallel coordinates for any other number."""
    if len(report.keys) == 2:
        return heat_map(report, column)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    means = [setting.mean(column) for setting in report.settings]
    low, high = min(means), max(means)
    levels = {key: sorted({s.values.get(key, "") for s in report.settings}, key=_sortable) for key in report.keys}
    for setting, mean in zip(report.settings, means, strict=True):
        share = (mean - low) / (high - low) if high > low else 0.5
        heights = [levels[key].index(setting.values.get(key, "")) / max(len(levels[key]) - 1, 1) for key in report.keys]
        axes.plot([*heights, share], color=PALETTE[0] if setting is report.settings[0] else "0.7", marker="o")
    for i, key in enumerate(report.keys):
        for j, level in enumerate(levels[key]):
            axes.text(i, j / max(len(levels[key]) - 1, 1), f" {level}", fontsize=8, va="bottom")
    axes.text(len(report.keys), 0, f" {low:.5g}", fontsize=8, va="bottom")
    axes.text(len(report.keys), 1, f" {high:.5g}", fontsize=8, va="bottom")
    axes.set_xticks(range(len(report.keys) + 1), [*report.keys, column])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(report.keys) + 0.4)
    return figure


def heat_map(report: "Report", column: str) -> Figure:
    first, second = report.keys
    down, across = (sorted({s.values.get(key, "") for s in report.settings}, key=_sortable) for key in (first, second))
    means = {(s.values.get(first, ""), s.values.get(second, "")): s.mean(column) for s in report.settings}
    figure = Figure(figsize=(2 + len(across), 1.5 + 0.6 * len(down)), layout="constrained")
    axes = figure.add_subplot()
    grid = [[means.get((a, b), math.nan) for b in across] for a in down]
    image = axes.imshow(grid, cmap="cividis", aspect="auto")
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axes.text(j, i, "" if math.isnan(value) else f"{value:.4g}", ha="center", va="center", fontsize=8, bbox=box)
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
    axes.set(xlabel=second, ylabel=first)
    figure.colorbar(image, label=column)
    return figure


def label(report: "Report", setting: "Setting") -> str:
    return ", ".join(f"{key}={setting.values[key]}" for key in report.keys if key in setting.values)


def _thumbnail(report: "Report", setting: "Setting") -> str:
    path = setting.runs[0].folder / "figures" / "progress.png"
    if not path.is_file():  # runs of version 0 have this name
        path = path.with_name("reconstruction.png")
    if not path.is_file():
        return ""
    picture = base64.b64encode(path.read_bytes()).decode()
    caption = html.escape(label(report, setting))
    return f'<figure><img src="data:image/png;base64,{picture}"><figcaption>{caption}</figcaption></figure>'


def _sortable(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return math.inf, value


def _escaped(row: list[str]) -> list[str]:
    return [html.escape(cell).replace("&lt;b&gt;", "<b>").replace("&lt;/b&gt;", "</b>") for cell in row]


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]
