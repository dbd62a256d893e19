"""Progress of a run: a bar in a terminal, and one log line per epoch. The line goes to `train.log` too."""

import logging
import sys
import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from aelab.ranges import Whole

log = logging.getLogger(__name__)


class Progress(RichProgressBar):
    def __init__(self, refresh_rate: Whole) -> None:
        """`refresh_rate` is the number of steps between two updates of the bar."""
        super().__init__(refresh_rate=refresh_rate if sys.stdout.isatty() else 0)
        self.started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        wanted = ("train/loss", "val/loss", "val/mse")
        values = [f"{name} {trainer.callback_metrics[name]:.5g}" for name in wanted if name in trainer.callback_metrics]
        epochs = f"{trainer.current_epoch + 1}/{trainer.max_epochs}"
        log.info("epoch %s  %s  %.1f s", epochs, "  ".join(values), time.perf_counter() - self.started)
