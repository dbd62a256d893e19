"""Means of the loss terms over an epoch, and their values at every n-th step.

Calling `self.log` with three values at every step costs a small model about a fifth of its speed. Here a step only
appends one entry to a list, and many steps are added up together. On a GPU the terms stay there.
"""

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from aelab.data.loader import Batch
from aelab.errors import UserError

MANY = 500  # steps that are kept before they are added up


class Sums:
    """Sum of each term over the images of one pass through a split."""

    def __init__(self, split: str, epoch: int) -> None:
        self.split, self.epoch, self.steps = split, epoch, 0
        self.names: list[str] = []
        self.total = torch.zeros(())  # (terms + 1,): the sum of each term, and the number of images
        self.recent: list[tuple[list[Any], int]] = []  # steps that are not in the total yet

    def add(self, terms: dict[str, Tensor], batch: Batch) -> None:
        self.names, on_cpu = list(terms), terms["loss"].is_cpu
        # On a CPU, tensors that stay take memory, and the next step finds it less fast.
        values = [value.item() if on_cpu else value.detach() for value in terms.values()]
        self.recent.append((values, len(batch.x) if batch.weight else 0))

    def fold(self) -> Tensor:
        """Add the recent steps to the total, and return the total.

        Raises UserError if a term is infinite or NaN. The message names the term and the step.
        """
        if self.recent:
            flat = [value for values, _ in self.recent for value in values]
            rows = torch.stack(flat) if isinstance(flat[0], Tensor) else torch.tensor(flat, dtype=torch.float64)
            rows = rows.double().view(len(self.recent), -1)  # (steps, terms)
            images = torch.tensor([float(n) for _, n in self.recent], dtype=rows.dtype, device=rows.device)
            if not rows.isfinite().all():
                self._refuse(rows)
            self.total = self.total.to(rows) + torch.cat([images @ rows, images.sum().view(1)])
            self.steps += len(self.recent)
            self.recent.clear()
        return self.total

    def _refuse(self, rows: Tensor) -> None:
        step = int((~rows.isfinite()).any(1).nonzero()[0])
        broken = [name for name, value in zip(self.names, rows[step].tolist(), strict=True) if value - value != 0]
        term = next((name for name in broken if name != "loss"), "loss")  # a broken term breaks the loss
        raise UserError(
            f"{self.split}/{term} became {rows[step, self.names.index(term)].item()} at step {self.steps + step} of "
            f"epoch {self.epoch}: lower optimizer.lr, clip with trainer.gradient_clip_val=1, or check the data"
        )


class Averages(Callback):
    """Logs every term of a step's output:

    - `split/term`: mean over the images of the epoch, over all processes;
    - `step/term`: value at every `trainer.log_every_n_steps`-th training step;
    - `split/images`: number of images that an evaluation saw.
    """

    def __init__(self) -> None:
        self.train = self.evaluation = Sums("", 0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resumed epoch keeps its sums.
        if (self.train.split, self.train.epoch) != ("train", trainer.current_epoch):
            self.train = Sums("train", trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        sums = self.train
        total = sums.fold()
        return {"split": sums.split, "epoch": sums.epoch, "steps": sums.steps, "names": sums.names, "total": total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.train = Sums(state_dict["split"], state_dict["epoch"])
        self.train.steps, self.train.names, self.train.total = (state_dict[k] for k in ("steps", "names", "total"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        terms = outputs["terms"]
        self.train.add(terms, batch)
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values = {f"step/{name}": float(value) for name, value in terms.items()}
            if len(self.train.recent) >= MANY or not all(map(math.isfinite, values.values())):
                self.train.fold()
            for logger in trainer.loggers:
                logger.log_metrics(values, trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, self.train)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.train.fold()  # a broken loss stops the run before anything is validated and saved
        self.evaluation = Sums("val", trainer.current_epoch)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluation = Sums("test", trainer.current_epoch)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: int
    ) -> None:
        self.evaluation.add(outputs["terms"], batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: int
    ) -> None:
        self.evaluation.add(outputs["terms"], batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, self.evaluation)

    on_test_epoch_end = on_validation_epoch_end

    def _log(self, trainer: Trainer, pl_module: LightningModule, sums: Sums) -> None:
        total: Any = trainer.strategy.reduce(sums.fold(), reduce_op="sum")
        means = (total[:-1] / total[-1]).tolist()
        pl_module.log_dict({f"{sums.split}/{name}": mean for name, mean in zip(sums.names, means, strict=True)})
        if sums.split != "train":
            pl_module.log(f"{sums.split}/images", total[-1])
