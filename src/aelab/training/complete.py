"""A run from its start to its numbers: training, evaluation of the best weights, and the stages that follow."""

import logging
import math
import os
from collections.abc import Mapping

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from omegaconf import DictConfig

from aelab.composition import build
from aelab.composition.stages import choices, follow
from aelab.composition.trained import MetricGroup
from aelab.data.base import DataModule
from aelab.errors import UserError
from aelab.models.base import Autoencoder, Objective
from aelab.runs.log import Console, start_console, start_log
from aelab.runs.provenance import data_changes
from aelab.runs.run import Run
from aelab.training import scores
from aelab.training.calibration import calibrate
from aelab.training.evaluation import losses, measure, show
from aelab.training.fit import count_processes, fit, hyperparameters
from aelab.training.processes import launch

log = logging.getLogger(__name__)

Score = float | list[float]


def complete(run: Run, chosen: Mapping[str, str] | None = None) -> Score:
    """Train a run, evaluate it, and return its score. A run that is done returns its score at once.

    Training goes on from what was saved last, bit for bit as if it had never stopped. `chosen` says which groups were
    chosen by another group, such as {"noise": "model=dae"}.
    """
    if run.manifest["status"] == "done":
        start_console(Console())
        log.info("done    %s", os.path.relpath(run.folder))
        _compare_data(run)
        recorded: Score = run.manifest["score"]
        return recorded
    with run.training(_hardware(run.config)):
        build.check_device(run.config)
        # What does not go together fails here, before anything is read and before a process is started.
        data, model = build.data(run.config), build.model(run.config)
        data.setup()
        _check_data(run, data)
        if len(run.manifest["starts"]) == 1:  # a run that goes on keeps its score, also one that was allowed before
            scores.check(run.config, data)
        groups = build.metrics(run.config)
        shape = {"code_shape": list(model.code_shape)} if isinstance(model, Autoencoder) else {}
        run.update_manifest(data=data.fingerprint, dataset=data.facts(), **shape)
        _announce(run, data, model, chosen or {})

        processes = count_processes(run.config.trainer)
        if processes * run.config.trainer.num_nodes > 1:
            launch(run, processes)
            # A new TensorBoardLogger appends to the same folder. Other loggers would open a second run, so they are
            # left out here.
            loggers: list[Logger] = [one for one in build.loggers(run.config) if isinstance(one, TensorBoardLogger)]
            metrics = {}
        else:
            trainer = fit(run, data)
            loggers = trainer.loggers
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for profile in run.folder.glob("fit-*.txt"):
            log.info("profile %s", os.path.relpath(profile))
        score = _numbers(run, data, loggers, groups, metrics)
        run.finish("done", score=score)
    return score


def _numbers(
    run: Run, data: DataModule, loggers: list[Logger], groups: dict[str, MetricGroup], metrics: dict[str, float]
) -> Score:
    """Evaluate what was trained, train the stages, write all numbers, and return the score.

    `groups`: those of `metrics=[…]`. `metrics`: the numbers of the last step, which have to do if no checkpoint was
    saved.
    """
    config = run.config
    saved = [which for which in ("best", "last") if run.checkpoint(which).exists()]
    run.forget_metrics()
    if saved:
        run.update_manifest(checkpoint=saved[0], step=build.step_of(run, saved[0]))
        metrics = losses(run, data, ("val", "test"), saved[0])
        metrics |= measure(run, data, groups, run.add_metrics, checkpoint=saved[0])
        calibrate(run, data, saved[0])
        run.add_metrics(_stages(run))
    else:
        log.info(
            "no checkpoint was saved, so these are the numbers of the last step; there are none of the test or of "
            "metrics=…, and no stage of stages=… is trained"
        )
    run.add_metrics(metrics)
    final = {name: value for name, value in metrics.items() if name.startswith("test/")}  # val/… has a curve already
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # it shows hyperparameters only beside the numbers they led to
            logger.log_hyperparams(hyperparameters(config, run.manifest["choices"]), final)
        else:
            logger.log_metrics(final)
        logger.finalize("success")
    show(metrics, f"{data.size('test')} test data")
    log.info("run     %s", os.path.relpath(run.folder))
    everything = run.metrics  # with those of the stages
    if isinstance(config.score, str):
        return everything.get(config.score, math.nan)
    return [everything.get(name, math.nan) for name in config.score]


def _stages(run: Run) -> dict[str, float]:
    """Train the stages that `stages` names, one on the other. Return their numbers by `STAGE/NAME`.

    Each stage is a run in a folder inside this run's folder. A stage that is done stays as it is.
    """
    metrics: dict[str, float] = {}
    before = run
    for name in run.config.get("stages") or {}:
        log.info("stage   %s", name)
        config = follow(run, before, name)
        chosen = choices(config, before) | {"stage": name}
        before = Run.start(run.folder / name, config, chosen, run.manifest["overrides"])
        complete(before)
        metrics |= {f"{name}/{key}": value for key, value in before.metrics.items()}
    if metrics:
        start_log(run.folder)  # each stage has a log of its own
    return metrics


def _compare_data(run: Run) -> None:
    """Warn if the data of a run that is done are no longer what it was trained on, or cannot be read."""
    if run.manifest.get("data") is None:
        return
    data = build.data(run.config)
    try:
        data.setup()
    except UserError as error:
        log.warning("its data were not compared: %s", error)
        return
    if run.manifest["data"] != data.fingerprint:
        changes = data_changes(run.manifest, data.facts())
        log.warning("its data changed (%s): to train on what is there now, type name=…", changes)


def _check_data(run: Run, data: DataModule) -> None:
    """Raise UserError if a run that goes on would see other data than it began with."""
    manifest = run.manifest
    if run.checkpoint("last").exists() and manifest.get("data") not in (None, data.fingerprint):
        raise UserError(
            f"the data in {data.root} is not what {os.path.relpath(run.folder)} began with "
            f"({data_changes(manifest, data.facts())}): restore it, or train a new run with name=…"
        )


def _hardware(config: DictConfig) -> str:
    if build.device_of(config).type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores"


def _announce(run: Run, data: DataModule, model: Objective, chosen: Mapping[str, str]) -> None:
    """Say what is about to be trained, on what, and where."""
    config, choice = run.config, run.manifest["choices"].get
    for group, chooser in chosen.items():
        log.info("%-7s %s, chosen by %s", group, choice(group), chooser)
    log.info(
        "model   %s: %s parameters",
        f"{choice('model')} of {choice('net')}, reconstruction {choice('reconstruction')}"
        if isinstance(model, Autoencoder)
        else f"classifier on {len(config.encoders)} trained encoders",
        " + ".join(f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in model.named_children()),
    )
    log.info(
        "data    %s, noise %s: %s, %s, %s train / %s validation / %s test",
        choice("data"),
        choice("noise"),
        "×".join(map(str, data.shape)),
        f"{len(data.factor_names)} factors" if data.factor_names else f"{data.num_classes or 'no'} classes",
        *(data.size(split) for split in ("train", "val", "test")),
    )
    steps = f" or {config.trainer.max_steps} steps" if config.trainer.max_steps != -1 else ""
    log.info(
        "device  %s × %s, precision %s, at most %s epochs%s, batches of %s",
        count_processes(config.trainer),
        config.trainer.accelerator,
        config.trainer.precision,
        config.trainer.max_epochs,
        steps,
        config.data.batch_size,
    )
    if config.data.batch_size > data.size("train"):
        log.warning("data.batch_size=%s is more than there is: an epoch is one step", config.data.batch_size)
    log.info("folder  %s", os.path.relpath(run.folder))
