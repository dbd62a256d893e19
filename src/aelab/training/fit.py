"""One fit of the model of a run, in this process, which may be one of several."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from aelab.atomic import write_text
from aelab.callbacks.best import ValidateAtMaxSteps
from aelab.classifier import Softmax
from aelab.composition import build
from aelab.composition.instantiate import build as instantiate
from aelab.data.base import DataModule
from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.training.checkpoints import Atomic, last_state
from aelab.training.fast_loop import speed_up

log = logging.getLogger(__name__)


def fit(run: Run, data: DataModule | None = None, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Train the model of a run, and return the trainer. `callbacks` join those of the config.

    Training goes on from the last checkpoint of the run if there is one.
    """
    config = run.config
    data = data or build.data(config)
    model, trainer = build.model(config), trainer_of(config, callbacks)
    model.attach(data)
    speed_up(trainer, model, data)
    checkpoint, steps = last_state(run) or (None, -1)
    if checkpoint is None and isinstance(model, Softmax):
        model.start_from([build.trained(Run(folder, run.trust)) for folder in config.init])
    again = len(run.manifest.get("starts", [])) > 1
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger | CSVLogger):
            logger.log_hyperparams(hyperparameters(config, run.manifest["choices"]))
        elif again and trainer.is_global_zero:
            _forget(logger, steps)
    if checkpoint is not None:
        log.info("resumes after %d steps", steps)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def trainer_of(config: DictConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Return the trainer of a run with its callbacks, further ones, and loggers."""
    single = count_processes(config.trainer) * config.trainer.num_nodes == 1
    own = list(build.chosen(config, "callbacks").values())
    if config.trainer.max_steps != -1:
        own.append(ValidateAtMaxSteps())
    built: Trainer = instantiate(
        config.trainer,
        list(config.trust),
        callbacks=[*own, *callbacks],
        logger=build.loggers(config),
        plugins=[Atomic(), *([alone()] if single else [])],
    )
    return built


def count_processes(trainer: DictConfig) -> int:
    """Return how many processes `trainer.devices` asks for on this machine."""
    devices = trainer.devices
    if OmegaConf.is_list(devices):
        return len(devices)
    if devices in ("auto", -1, "-1"):
        return max(torch.cuda.device_count(), 1) if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    try:
        return int(devices)
    except ValueError as error:
        raise UserError(f"trainer.devices={devices} is neither a number, a list of numbers, nor auto") from error


def alone() -> LightningEnvironment:
    """Return the environment of one process. What SLURM, LSF or torchrun set describes other ones, and is not read."""
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    return LightningEnvironment()


def hyperparameters(config: DictConfig, choices: dict[str, Any]) -> dict[str, Any]:
    """Return the choice of each group, and the values inside the groups that a comparison is about, flat."""
    groups = ("model", "net", "codebook", "data", "noise", "reconstruction", "optimizer", "scheduler")
    flat = {group: str(choices[group]) for group in groups if group in choices} | {"seed": config.seed}
    for group in groups:
        for name, value in (config.get(group) or {}).items():
            if name not in ("_target_", "_partial_", "root"):
                flat[f"{group}.{name}"] = value if isinstance(value, int | float) else str(value)
    return flat


def _forget(logger: TensorBoardLogger | CSVLogger, steps: int) -> None:
    """Drop what a logger was told after so many steps, because training tells it again."""
    if isinstance(logger, TensorBoardLogger):
        logger._kwargs["purge_step"] = steps + 1
        return
    path = Path(logger.log_dir) / "metrics.csv"
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    kept = [row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= steps]
    writer = logger.experiment  # which removes the file
    if kept:
        writer.metrics_keys = list(kept[0])
        text = io.StringIO()
        table = csv.DictWriter(text, writer.metrics_keys)
        table.writeheader()
        table.writerows(kept)
        write_text(path, text.getvalue())
