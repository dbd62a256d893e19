"""Means of the loss terms: running sums on the device, logged once an epoch and at every n-th step.

`self.log` of three values at every step costs a small model about a fifth of its speed; one addition does not.
"""

from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from autoencoders.data.base import Batch
from autoencoders.errors import UserError


class Averages(Callback):
    """Logs `split/term` for every term of a step's output, each a mean over all images of the epoch.

    Raises UserError for a term that became infinite or no number, with its step.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        # Row 0: sums over images. Row 1: batches after which the sum was finite. Last column: images, batches.
        self.sums: dict[str, Tensor] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sums.pop("train", None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._add("train", outputs["terms"], batch)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer, "train")
            step = {f"step/{name}": float(value) for name, value in outputs["terms"].items()}
            for logger in trainer.loggers:
                logger.log_metrics(step, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "train")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A rank that dies in training must not leave a broken loss to be saved as the best.
        if "train" in self.sums:
            self._check(trainer, "train")
        self.sums.pop("val", None)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: int
    ) -> None:
        self._add("val", outputs["terms"], batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sums.pop("test", None)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: int
    ) -> None:
        self._add("test", outputs["terms"], batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test")

    def _add(self, split: str, terms: dict[str, Tensor], batch: Batch) -> None:
        if split not in self.sums:
            self.names[split] = list(terms)
            self.sums[split] = torch.zeros(2, len(terms) + 1, device=batch.x.device, dtype=torch.float64)
        values = torch.stack([*terms.values(), batch.x.new_ones(())])
        sums = self.sums[split]
        sums[0] += values * (len(batch.x) if batch.weight else 0)
        sums[1] += sums[0].isfinite()

    def _check(self, trainer: Trainer, split: str) -> None:
        sums, finite = self.sums[split].tolist()
        broken = [(batches, name) for batches, name in zip(finite, self.names[split], strict=False) if batches < finite[-1]]
        if broken:
            first = min(broken)[0]
            named = [name for batches, name in broken if batches == first]
            term = next((name for name in named if name != "loss"), "loss")
            value = sums[self.names[split].index(term)]
            raise UserError(
                f"{split}/{term} became {value} at step {int(first)} of epoch {trainer.current_epoch}: "
                "lower optimizer.lr, clip with trainer.gradient_clip_val=1, or look at the data"
            )

    def _log(self, trainer: Trainer, pl_module: LightningModule, split: Literal["train", "val", "test"]) -> None:
        self._check(trainer, split)
        sums: Any = trainer.strategy.reduce(self.sums[split][0], reduce_op="sum")
        means = (sums[:-1] / sums[-1]).tolist()
        pl_module.log_dict({f"{split}/{name}": m for name, m in zip(self.names[split], means, strict=True)})
        if split != "train":
            pl_module.log(f"{split}/images", sums[-1])
