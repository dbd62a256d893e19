"""What a run goes on from when it was killed: `last.ckpt`, and the one before it."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Resume(Checkpoint):  # of those callbacks that Lightning calls last
    """Saves the whole state of training as `last.ckpt`: at the start of every epoch but the first, at the end, after
    every `every_n_steps` steps (null: never), and when the process is told to stop, by SIGTERM or Ctrl-C, before it
    does. The file before that stays as `previous.ckpt`.

    Every draw is a function of seed, epoch and step, so training that goes on from such a file gives bit for bit what
    it would have given: Lightning restores weights, optimizers, schedulers and callbacks, and this the place in the
    epoch, which Lightning does for an end of validation only.
    """

    def __init__(self, folder: str, every_n_steps: int | None) -> None:
        self.folder, self.every_n_steps = Path(folder), every_n_steps
        self.batch = 0  # batches of this epoch that are done
        self.place: dict[str, Any] | None = None  # where training goes on
        self.told_to_stop: int | None = None
        self.handlers: dict[int, Any] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["place"] = {"epoch": trainer.current_epoch, "batch": self.batch, "stopped": trainer.should_stop}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.place = checkpoint["place"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of several processes none can wait for the others to come to the same place: they end at once.
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
            self.place = None  # this is where it was saved
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
        whole = self.batch % trainer.accumulate_grad_batches == 0  # gradients are not saved
        if whole and self.batch < trainer.num_training_batches:  # after the last one, the next epoch saves
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
        """To Lightning, which puts back what was there before itself only after this."""
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
            raise KeyboardInterrupt  # told twice: at once
        self.told_to_stop = number

    def _leave(self) -> None:
        if self.told_to_stop is not None:
            raise SystemExit(128 + self.told_to_stop)  # of a KeyboardInterrupt Lightning makes an exit code 1

    def _skip(self, trainer: Trainer, batches: int) -> None:
        """Let the first epoch begin after so many batches."""
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped += 1  # Lightning counts a step after the callbacks have been told of it
        reset = loop.reset

        def reset_once() -> None:
            reset()
            loop.reset = reset  # type: ignore[method-assign]
            _set(loop.batch_progress, batches)

        loop.reset = reset_once  # type: ignore[method-assign]
        loader: Any = trainer.train_dataloader
        loader.batch_sampler.start = batches


def _set(progress: Any, done: int) -> None:
    """Let a loop of Lightning's believe that it has done so much, and begun nothing else."""
    for tracker in (progress.current, progress.total):
        tracker.ready = tracker.started = tracker.processed = tracker.completed = done
