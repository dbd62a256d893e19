"""Figures of numbers. They show how terms of the loss move in training, and how psnr falls with noise."""

import csv

from matplotlib.figure import Figure

from aelab.composition.trained import Trained
from aelab.errors import Unsupported
from aelab.figures.sheet import PALETTE
from aelab.runs.run import Run


def learning_curves(trained: Trained, run: Run) -> Figure:
    """Draw every term that is averaged over an epoch, in training and validation."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        raise Unsupported("the run has no metrics.csv: train with logger=[csv]")
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                split, _, term = name.partition("/")
                if value and split in ("train", "val") and term not in ("images",):
                    curves.setdefault(term, {}).setdefault(split, []).append((float(row["step"]), float(value)))
    columns = 3
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    for index, (term, splits) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_prop_cycle(color=PALETTE[:2], linestyle=["-", "--"])
        for split, points in splits.items():
            axes.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 20 else "")
        axes.set(ylabel=term, xlabel="step")
        axes.legend()
    return figure


def robustness(trained: Trained, run: Run) -> Figure:
    """Draw the psnr of the model and of classical denoisers, by the severity of each noise.

    `ae evaluate metrics=[robustness]` measures it.
    """
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for key, value in run.metrics.items():
        if key.startswith("robustness/"):
            noise, severity, kind = key.split("/")[1:]
            curves.setdefault(noise, {}).setdefault(kind, []).append((float(severity), value))
    if not curves:
        raise Unsupported(f"there are no curves yet: type ae evaluate run={run.folder} metrics=[robustness]")
    figure = Figure(figsize=(3.6 * len(curves) + 1, 3.6), layout="constrained")
    for index, (noise, kinds) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), index + 1)
        axes.set_prop_cycle(color=PALETTE[:8], marker=list("os^vDPX*"))
        for kind, points in kinds.items():
            axes.plot(*zip(*sorted(points), strict=True), label=kind, linewidth=3 if kind == "model" else 1.5)
        axes.set(title=noise, xlabel="severity", ylabel="psnr in dB")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure
