"""Speeds up Lightning's training step for small models. Skips hooks and transfers that no callback or model overrides.

Per step, Lightning asks every hook of every callback, opens fifty profiling contexts, and looks for hooks that would
move a batch which is already on its device. That takes about 0.2 ms, and the step of a small model takes 0.5 to 4 ms. A
hook, profiler or transfer that somebody did write is left as it is.
"""

import os
from collections import OrderedDict
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.loops.progress import _OptimizationProgress
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
OPTIMIZATION_HOOKS = ("optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping")
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def speed_up(trainer: Trainer, model: LightningModule, data: LightningDataModule) -> None:
    """Prepare a trainer that was not started yet, for this model and for data whose batches are on the device."""
    for part, base in (*((callback, Callback) for callback in trainer.callbacks), (model, LightningModule)):  # type: ignore[attr-defined]
        for hook in STEP_HOOKS:
            if not _written(part, base, hook):
                setattr(part, hook, None)  # Lightning skips what cannot be called
    if not any(_written(part, DataHooks, hook) for part in (model, data) for hook in TRANSFER_HOOKS):
        model._on_before_batch_transfer = model._apply_batch_transfer_handler = _stay  # type: ignore[method-assign]
    loop = trainer.fit_loop.epoch_loop
    loop._build_kwargs = _arguments  # type: ignore[method-assign]
    if (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.strategy.precision_plugin) is Precision
        and trainer.accumulate_grad_batches == 1
        and trainer.gradient_clip_val is None
        and not any(_written(model, LightningModule, hook) for hook in OPTIMIZATION_HOOKS)
        and not any(getattr(part, hook) for part in (model, *trainer.callbacks) for hook in STEP_HOOKS[1:-1])  # type: ignore[attr-defined]
    ):
        loop.automatic_optimization.run = partial(step, loop.automatic_optimization.optim_progress, model)  # type: ignore[method-assign]
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = _NoProfiler()  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        # Lightning sets this, and then each "is there a GPU?" opens the driver's library. Optimizers ask at each step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def step(
    progress: _OptimizationProgress,
    model: LightningModule,
    optimizer: Optimizer,
    batch_idx: int,
    arguments: OrderedDict[str, Any],
) -> dict[str, Any]:
    """Take one step of the optimizer as a hand-written loop does, in full precision, on one device, without hooks.

    Lightning makes the same calls, through twenty others.
    """
    outputs: dict[str, Any] = {}

    def closure() -> Tensor:
        outputs.update(model.training_step(*arguments.values()))  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss: Tensor = outputs["loss"]
        loss.backward()
        return loss

    progress.optimizer.step.increment_ready()
    optimizer.step(torch.enable_grad()(closure))  # type: ignore[arg-type]
    progress.optimizer.step.increment_completed()
    outputs["loss"] = outputs["loss"].detach()
    return outputs


def _written(part: object, base: type, hook: str) -> bool:
    return hook in vars(part) or getattr(type(part), hook) is not getattr(base, hook)


def _stay(batch: Any, *_: Any, **__: Any) -> Any:
    return batch


def _arguments(kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
    """Return the arguments of `training_step`. Lightning inspects its signature at each step to find them."""
    return OrderedDict(batch=batch, batch_idx=batch_idx)


class _NoProfiler(PassThroughProfiler):
    nothing = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing
