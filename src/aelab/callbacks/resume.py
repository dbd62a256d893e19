"""Checkpoints from which a stopped run resumes: `last.ckpt`, and the one before it."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from aelab.ranges import Count

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Resume(Checkpoint):  # Lightning calls subclasses of Checkpoint last
    """Saves the whole state of training as `last.ckpt`. The file it replaces is kept as `previous.ckpt`.

    The state is saved

    - at the start of every epoch but the first;
    - after every `every_n_steps` batches of an epoch, or never if that is None;
    - on SIGTERM or Ctrl-C, before the process stops. Several processes stop at once, without saving;
    - at the end of training.

    Lightning restores weights, optimizers, schedulers and callbacks. It restores the position inside an epoch only for
    checkpoints written after validation. This callback restores that position in every case. Every draw is a function
    of seed, epoch and step, so a resumed run gives bit for bit what an uninterrupted run gives.
    """

    def __init__(self, folder: str, every_n_steps: Count | None) -> None:
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self.batch = 0  # number of batches done in this epoch
        self.place: dict[str, Any] | None = None  # epoch and batch at which a resumed run goes on
        self.told_to_stop: int | None = None
        self.handlers: dict[int, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["place"] = {"epoch": trainer.current_epoch, "batch": self.batch, "stopped": trainer.should_stop}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.place = checkpoint["place"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Several processes cannot wait for each other to reach the same step, so all of them stop at once.
        act = self._stop if trainer.world_size == 1 else signal.SIG_DFL
        self.handlers = {number: signal.signal(number, act) for number in SIGNALS}
        if self.place is None:
            return
        loop = trainer.fit_loop
        loop.restarting = False
        loop.reset_restart_stage()
        _set(loop.epoch_progress, self.place["epoch"])
        trainer.should_stop = self.place["stopped"]
        if self.place["batch"]:
            self._skip(trainer, self.place["batch"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batch = 0
        if self.place is not None:
            self.place = None  # this state came from a file, so it is not saved again
        elif trainer.current_epoch:
            self._save(trainer)
        self._leave()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batch = batch_idx + 1
        due = self.every_n_steps is not None and self.batch % self.every_n_steps == 0
        if not due and self.told_to_stop is None:
            return
        whole = self.batch % trainer.accumulate_grad_batches == 0  # a checkpoint holds no accumulated gradients
        if whole and self.batch < trainer.num_training_batches:  # after the last batch, the next epoch saves
            self._save(trainer)
            self._leave()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batch = 0
        self._save(trainer)
        self._give_back_signals()
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_back_signals()

    def _give_back_signals(self) -> None:
        """Restore the handlers that Lightning installed. Lightning restores the earlier ones after this hook."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _save(self, trainer: Trainer) -> None:
        last = self.folder / "last.ckpt"
        if trainer.is_global_zero and last.exists():
            last.replace(last.with_name("previous.ckpt"))
        trainer.save_checkpoint(last)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.told_to_stop is not None:
            raise KeyboardInterrupt  # a second signal stops the process at once
        self.told_to_stop = number

    def _leave(self) -> None:
        if self.told_to_stop is not None:
            raise SystemExit(128 + self.told_to_stop)  # Lightning turns a KeyboardInterrupt into exit code 1

    def _skip(self, trainer: Trainer, batches: int) -> None:
        """Start the resumed epoch after its first `batches` batches."""
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped += 1  # Lightning counts a step only after its callbacks have saved
        reset = loop.reset

        def reset_once() -> None:
            reset()
            loop.reset = reset  # type: ignore[method-assign]
            _set(loop.batch_progress, batches)

        loop.reset = reset_once  # type: ignore[method-assign]
        loader: Any = trainer.train_dataloader
        loader.batch_sampler.start = batches


def _set(progress: Any, done: int) -> None:
    """Set a progress counter of Lightning to `done` iterations, with none in progress."""
    for tracker in (progress.current, progress.total):
        tracker.ready = tracker.started = tracker.processed = tracker.completed = done
