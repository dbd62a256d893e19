"""The numbers of a trained run, from nothing but its folder."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning import Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from aelab.callbacks.averages import Averages
from aelab.callbacks.health import Health
from aelab.composition import build
from aelab.composition.stages import is_classifier
from aelab.composition.trained import MetricGroup, Place, Trained
from aelab.data.base import DataModule
from aelab.data.loader import Split
from aelab.errors import Unsupported
from aelab.models.base import Autoencoder, Objective
from aelab.runs.run import Run
from aelab.training.calibration import calibrate
from aelab.training.fit import alone

ROWS = 30  # of a table

log = logging.getLogger(__name__)


def evaluate(
    run: Run,
    splits: Sequence[Split] = ("val", "test"),
    groups: Mapping[str, MetricGroup] | None = None,
    asked: bool = False,
    checkpoint: str = "best",
    root: str | None = None,
) -> dict[str, float]:
    """Return the terms of the loss, by `split/name`, and the numbers of each group, by `group/name`.

    All are added to the run's `metrics.json` as they come. Those of other data than the run was trained on, or of
    another checkpoint than its final one, go into `evaluations/` instead. A second call gives the same numbers. A group
    that this model or this data does not support is left out, and a line says why. If it was `asked` for by name, it
    raises Unsupported. `root`: where the data lies now, if it moved.
    """
    status = run.manifest.get("status", "unfinished")
    if status != "done":
        log.warning("the run is %s: these are the numbers of what it saved so far", status)
    data = build.restore(build.data(run.config_at(root)), run, checkpoint)
    data.setup()
    place = Place.of(run, data, checkpoint)
    metrics = losses(run, data, splits, checkpoint)
    place.add(run, metrics)
    metrics |= measure(run, data, groups or {}, partial(place.add, run), asked, checkpoint)
    if not place.name and not (run.folder / "calibration.npz").exists():
        calibrate(run, data, checkpoint)
    if place.name:
        log.warning("numbers %s", os.path.relpath(run.folder / "evaluations" / f"{place.name}.json"))
    return metrics


def measure(
    run: Run,
    data: DataModule,
    groups: Mapping[str, MetricGroup],
    add: Callable[[dict[str, float], dict[str, str]], None],
    asked: bool = False,
    checkpoint: str = "best",
) -> dict[str, float]:
    """Return the numbers of the groups, by `group/name` (see `evaluate`). `add` writes them as they come.

    A group that fails keeps no other group from its numbers. Its error is raised after them.
    """
    metrics: dict[str, float] = {}
    failed: Exception | None = None
    if not groups:
        return metrics
    if is_classifier(run.config) and not asked:
        log.info("no %s: a classifier has its loss and its error only", ", ".join(groups))
        return metrics
    model, device = build.trained_autoencoder(run, checkpoint), build.device_of(run.config)
    trained = Trained(model, data, device, run.config.paths.cache_dir)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(groups))
        for name, group in groups.items():
            progress.update(task, description=name)
            try:
                numbers = {f"{name}/{key}": value for key, value in group(trained).items()}
            except Unsupported as reason:
                if asked:
                    raise
                log.info("no %s: %s", name, reason)
                numbers = {}
            except Exception as error:
                log.error("no %s: it failed (%s)", name, error)
                failed, numbers = failed or error, {}
            add(numbers, {name: repr(group)} if numbers else {})
            metrics |= numbers
            progress.advance(task)
    if failed:
        raise failed
    return metrics


def losses(run: Run, data: DataModule, splits: Sequence[Split], checkpoint: str = "best") -> dict[str, float]:
    """Return every term of the loss and every error of the images, by `split/name`, over each image exactly once.

    One process on one device evaluates, whatever trained the run.
    """
    config, model = run.config, build.trained(run, checkpoint)
    model.attach(data)
    trainer = evaluator(model, accelerator=build.device_of(config).type, precision=config.trainer.precision)
    metrics: dict[str, float] = {}
    for split in splits:
        verb = trainer.validate if split == "val" else trainer.test
        verb(model, datamodule=data, verbose=False)
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        seen, size = metrics[f"{split}/images"], data.size(split)
        if seen != size:
            raise RuntimeError(f"the evaluation saw {seen:.0f} images of a {split} split of {size}")
    return metrics


def evaluator(model: Objective, **options: Any) -> Trainer:
    """Return what evaluates a model in one process on one device, with the numbers of each epoch of its training."""
    return Trainer(
        devices=1,
        inference_mode=False,  # a contractive model differentiates in evaluation too
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        plugins=[alone()],
        callbacks=[Averages(), *([Health(folder=None)] if isinstance(model, Autoencoder) else [])],
        **options,
    )


def show(metrics: dict[str, float], title: str) -> None:
    """Print the numbers. The terms of the loss make one table with a column per split, and each group makes one."""
    groups: dict[str, list[tuple[str, str, float]]] = {}
    for name, value in metrics.items():
        first, _, rest = name.partition("/")
        if first in ("val", "test"):
            groups.setdefault(title, []).append((rest, first, value))
        elif "/" in rest:
            row, _, column = rest.rpartition("/")
            groups.setdefault(first, []).append((row, column, value))
        else:
            groups.setdefault(first, []).append((rest, "", value))
    console = Console()
    for group, entries in groups.items():
        columns = list(dict.fromkeys(column for _, column, _ in entries))
        rows = list(dict.fromkeys(row for row, _, _ in entries))
        values = {(row, column): f"{value:.5g}" for row, column, value in entries}
        table = Table("", *(Column(column, overflow="fold") for column in columns), title=group)
        for row in rows[:ROWS]:
            table.add_row(row, *(values.get((row, column), "") for column in columns))
        if len(rows) > ROWS:
            table.add_row(f"{len(rows) - ROWS} more in metrics.json")
        console.print(table)
