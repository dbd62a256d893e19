"""Optimizers that torch does not have, and schedulers of the learning rate.

A scheduler steps once per epoch or once per optimizer step (`interval`). Over the first `warmup` of those the rate
rises on a straight line from lr / (warmup + 1) to lr (Goyal et al., 2017, arXiv:1706.02677).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning import Trainer
from torch.optim import Optimizer
from torch.optim import lr_scheduler as of_torch
from torch.optim.lr_scheduler import LRScheduler

from aelab.errors import UserError
from aelab.ranges import Count, NonNegative, Positive, ProperShare, ShareBelow1, Whole


class AdamOnes(torch.optim.Adam):
    """Adam whose second moment begins at 1 and not at 0. Its first steps are short, because that acts as a warm-up of
    about 1 / (1 - betas[1]) steps.

    As in the code of Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016.
    """

    def __init__(
        self, params: Any, lr: NonNegative, betas: tuple[ShareBelow1, ShareBelow1], eps: NonNegative, fused: bool
    ) -> None:
        super().__init__(params, lr, betas, eps, fused=fused)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device if group["fused"] else None),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.ones_like(p),
                }


Interval = Literal["epoch", "step"]


@dataclass(frozen=True)
class Scheduler:
    """How a learning rate moves after its warm-up. A subclass supplies `after`."""

    interval: Interval
    warmup: Whole

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"scheduler.warmup is a number of {self.interval}s, got {self.warmup}")

    def after(self, optimizer: Optimizer, total: float) -> LRScheduler:
        """Return torch's scheduler for what follows the warm-up. `total`: how many intervals that is, or infinity."""
        raise NotImplementedError

    def __call__(self, optimizer: Optimizer, total: float) -> list[LRScheduler]:
        """Return the schedulers of an optimizer. `total`: the intervals of the whole training, or infinity."""
        after = self.after(optimizer, total - self.warmup)
        if not self.warmup:
            return [after]
        rise = of_torch.LinearLR(optimizer, 1 / (self.warmup + 1), 1.0, self.warmup)
        return [of_torch.SequentialLR(optimizer, [rise, after], [self.warmup])]


@dataclass(frozen=True)
class Constant(Scheduler):
    """The rate stays as it is."""

    def after(self, optimizer: Optimizer, total: float) -> LRScheduler:
        return of_torch.ConstantLR(optimizer, factor=1.0)


@dataclass(frozen=True)
class Cosine(Scheduler):
    """The rate falls to `eta_min` on half a cosine (Loshchilov & Hutter, 2017, arXiv:1608.03983), in `total` intervals.

    With `total` None it reaches `eta_min` at the end of training. Raises UserError if training has no end.
    """

    total: Count | None
    eta_min: NonNegative

    def after(self, optimizer: Optimizer, total: float) -> LRScheduler:
        end = total if self.total is None else self.total
        if not 0 < end < math.inf:
            raise UserError(
                f"scheduler=cosine has {end} {self.interval}s left: type scheduler.total=…, or trainer.max_epochs=…"
            )
        return of_torch.CosineAnnealingLR(optimizer, int(end), self.eta_min)


@dataclass(frozen=True)
class MultiStep(Scheduler):
    """The rate is multiplied by `gamma` at each of `milestones`, counted in intervals from the start of training."""

    milestones: Sequence[Count]
    gamma: Positive

    def after(self, optimizer: Optimizer, total: float) -> LRScheduler:
        return of_torch.MultiStepLR(optimizer, [m - self.warmup for m in self.milestones], self.gamma)


@dataclass(frozen=True)
class Plateau:
    """The rate is multiplied by `factor` after `patience` validations without a better validation loss.

    The warm-up is counted in epochs.
    """

    warmup: Whole
    factor: ProperShare
    patience: Whole
    min_lr: NonNegative

    def __call__(self, optimizer: Optimizer, total: float) -> list[LRScheduler]:
        rise = [of_torch.LinearLR(optimizer, 1 / (self.warmup + 1), 1.0, self.warmup)] if self.warmup else []
        plateau = of_torch.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience, min_lr=self.min_lr)
        return [*rise, plateau]


def descriptions(scheduler: Callable[..., Any] | None, optimizer: Optimizer, trainer: Trainer) -> list[dict[str, Any]]:
    """Return the schedulers of an optimizer in the form that Lightning takes: with interval, frequency and monitor.

    A torch scheduler of the user's own (`_partial_: true`) steps once per epoch.
    """
    if scheduler is None:
        return []
    interval: Interval = getattr(scheduler, "interval", "epoch")
    if isinstance(scheduler, Scheduler | Plateau):
        built = scheduler(optimizer, _total(trainer, interval))
    else:
        built = [scheduler(optimizer)]
    validations = trainer.check_val_every_n_epoch or 1
    return [
        {
            "scheduler": one,
            "interval": interval,
            # The loss that a plateau watches is new only after a validation.
            "frequency": validations if isinstance(one, of_torch.ReduceLROnPlateau) else 1,
            "monitor": "val/loss",
            "reduce_on_plateau": isinstance(one, of_torch.ReduceLROnPlateau),
        }
        for one in built
    ]


def _total(trainer: Trainer, interval: Interval) -> float:
    """Return how many epochs or optimizer steps the training has, or infinity."""
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
    if interval == "epoch" and trainer.max_steps == -1:
        return epochs
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    steps = float(trainer.estimated_stepping_batches)
    if interval == "step":
        return steps
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return min(epochs, float(math.ceil(steps / per_epoch)))
