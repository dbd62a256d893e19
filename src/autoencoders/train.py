"""`ae train`: one run, from a composed config to a folder with its final numbers."""

import csv
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from autoencoders import build
from autoencoders.classifier import Softmax
from autoencoders.data.base import Images
from autoencoders.errors import UserError
from autoencoders.evaluate import losses, measure, show
from autoencoders.lean import lean
from autoencoders.log import Console, start_console, start_log
from autoencoders.models.base import Autoencoder, Objective
from autoencoders.run import Run
from autoencoders.stages import choices, follow

log = logging.getLogger(__name__)


Score = float | list[float]


def train(config: DictConfig, folder: Path, choices: dict[str, Any], overrides: Sequence[str] = ()) -> Score:
    """Train in `folder`, evaluate the best weights there, and return `config.score`, one or several, for a sweep.

    Typed again, it completes: a run that is done returns its score, any other goes on from what it saved last.
    """
    if config.trainer.num_nodes > 1 and node() > 0:
        from autoencoders.worker import join

        return join(folder, config)
    return resume(Run.start(folder, config, choices, overrides))


def resume(run: Run) -> Score:
    """Go on with a run from what it saved last, bit for bit as if it had never stopped; from the start if that is
    nothing. Return its score, at once if the run is done."""
    if run.manifest["status"] == "done":
        start_console(Console())
        log.info("done    %s", os.path.relpath(run.folder))
    else:
        with run.training():
            score = _train(run)
            run.finish("done", score=score)
    recorded: Score = run.manifest["score"]
    return recorded


def _train(run: Run) -> Score:
    config = run.config
    data = build.data(config)
    data.setup()
    run.update_manifest(data=data.fingerprint)
    _announce(run, data, build.model(config))  # what cannot be built fails here, before a process is started

    processes = count_processes(config.trainer)
    if processes * config.trainer.num_nodes > 1:
        from autoencoders.worker import launch

        launch(run, processes)
        # Built anew, a TensorBoard logger goes on in the same folder; any other would start a second run elsewhere.
        loggers: list[Logger] = [logger for logger in build.loggers(config) if isinstance(logger, TensorBoardLogger)]
        metrics = {}
    else:
        trainer = fit(run, data)
        loggers = trainer.loggers
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}

    if run.checkpoint("best").exists():
        metrics = losses(run, data, ("val", "test"))
        metrics |= measure(run, data, build.metrics(config))
        run.add_metrics(_stages(run))
    else:
        log.info(
            "no checkpoint was saved, so these are the numbers of the last step; there are none of the test or of "
            "metrics=…, and no stage of then=… is trained"
        )
    run.add_metrics(metrics)
    final = {name: value for name, value in metrics.items() if name.startswith("test/")}  # val/… has a curve already
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # shows hyperparameters only beside the numbers they led to
            logger.log_hyperparams(_hyperparameters(config, run.manifest["choices"]), final)
        else:
            logger.log_metrics(final)
        logger.finalize("success")
    show(metrics, f"{data.size('test')} test images")
    log.info("run     %s", os.path.relpath(run.folder))
    everything = run.metrics  # those of the stages too
    if isinstance(config.score, str):
        return everything.get(config.score, math.nan)
    return [everything.get(name, math.nan) for name in config.score]


def _stages(run: Run) -> dict[str, float]:
    """Train what `then` names, one on the other, each a run in a folder inside this one; their numbers, by
    `stage/name`. A stage that is done stays as it is."""
    metrics: dict[str, float] = {}
    before = run
    for name in run.config.get("then") or {}:
        log.info("stage   %s", name)
        config = follow(run, before, name)
        train(config, run.folder / name, choices(config, before) | {"stage": name}, run.manifest["overrides"])
        before = Run(run.folder / name, run.trust)
        metrics |= {f"{name}/{key}": value for key, value in before.metrics.items()}
    if metrics:
        start_log(run.folder)  # each stage has a log of its own
    return metrics


def fit(run: Run, data: Images | None = None, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Train the model of a run in this process, which may be one of several; `callbacks` join the config's own."""
    config = run.config
    model, trainer, data = build.model(config), build.trainer(config, callbacks), data or build.data(config)
    lean(trainer, model, data)
    checkpoint, steps = run.last_state() or (None, -1)
    if checkpoint is None and isinstance(model, Softmax):
        model.start_from([Run(folder, run.trust).load_model() for folder in config.init])
    again = len(run.manifest.get("starts", [])) > 1
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger | CSVLogger):
            logger.log_hyperparams(_hyperparameters(config, run.manifest["choices"]))
        elif again and trainer.is_global_zero:
            _forget(logger, steps)
    if checkpoint is not None:
        log.info("resumes after %d steps", steps)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def _forget(logger: TensorBoardLogger | CSVLogger, steps: int) -> None:
    """Let a logger go on after so many steps: what it was told of later ones comes again."""
    if isinstance(logger, TensorBoardLogger):
        logger._kwargs["purge_step"] = steps + 1
        return
    path = Path(logger.log_dir) / "metrics.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    kept = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= steps]
    writer = logger.experiment  # which removes the file
    if kept:
        writer.metrics_keys = list(kept[0])
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, writer.metrics_keys)
            table.writeheader()
            table.writerows(kept)


def node() -> int:
    """Which of several machines this is, as torchrun, SLURM or the user says."""
    names = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def count_processes(trainer: DictConfig) -> int:
    """How many processes `trainer.devices` asks for on this machine."""
    devices = trainer.devices
    if OmegaConf.is_list(devices):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        return max(torch.cuda.device_count(), 1) if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    try:
        return int(devices)
    except ValueError as error:
        raise UserError(f"trainer.devices={devices} is neither a number, a list of numbers, nor auto") from error


def _announce(run: Run, data: Images, model: Objective) -> None:
    """Say what is about to be trained, on what, and where."""
    config, choice = run.config, run.manifest["choices"].get
    log.info(
        "model   %s: %s parameters",
        f"{choice('model')} of {choice('net')}, reconstruction {choice('reconstruction')}"
        if isinstance(model, Autoencoder)
        else f"classifier on {len(config.encoders)} trained encoders",
        " + ".join(f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in model.named_children()),
    )
    log.info(
        "data    %s, noise %s: %s, %s classes, %s train / %s validation / %s test images",
        choice("data"),
        choice("noise"),
        "×".join(map(str, data.shape)),
        data.num_classes,
        *(data.size(split) for split in ("train", "val", "test")),
    )
    log.info(
        "device  %s × %s, precision %s, at most %s epochs of %s images a step",
        count_processes(config.trainer),
        config.trainer.accelerator,
        config.trainer.precision,
        config.trainer.max_epochs,
        config.data.batch_size,
    )
    log.info("folder  %s", os.path.relpath(run.folder))


def _hyperparameters(config: DictConfig, choices: dict[str, Any]) -> dict[str, Any]:
    """The choice of each group and the values inside those that a comparison is about, flat."""
    groups = ("model", "net", "data", "noise", "reconstruction", "optimizer", "scheduler")
    flat = {group: str(choices[group]) for group in groups if group in choices} | {"seed": config.seed}
    for group in groups:
        for name, value in (config.get(group) or {}).items():
            if name not in ("_target_", "_partial_", "root"):
                flat[f"{group}.{name}"] = value if isinstance(value, int | float) else str(value)
    return flat
