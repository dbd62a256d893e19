"""Speeds up Lightning's training step for small models. Skips hooks and transfers that no callback or model overrides.

Per step, Lightning asks every hook of every callback, opens fifty profiling contexts, and looks for hooks that would
move a batch which is already on its device. The step of a small model takes 0.5 to 4 ms, and this was a quarter of
one of 1.3 ms. A hook, profiler or transfer that somebody did write is left as it is.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import LBFGS, Optimizer

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
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if _idle_at_steps(callback):
            callback.on_train_batch_end = None  # type: ignore[method-assign, assignment]
    for part, base in (*((callback, Callback) for callback in callbacks), (model, LightningModule)):
        for hook in STEP_HOOKS:
            if not _written(part, base, hook):
                setattr(part, hook, None)  # Lightning skips what cannot be called
    stays = not any(_written(part, DataHooks, hook) for part in (model, data) for hook in TRANSFER_HOOKS)
    if stays:
        model._on_before_batch_transfer = model._apply_batch_transfer_handler = _stay  # type: ignore[method-assign]
    loop = trainer.fit_loop.epoch_loop
    loop._build_kwargs = _arguments  # type: ignore[method-assign]
    if (
        stays
        and type(trainer.profiler) is PassThroughProfiler  # type: ignore[attr-defined]
        and type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.strategy.precision_plugin) is Precision
        and model.automatic_optimization
        and trainer.accumulate_grad_batches == 1
        and trainer.gradient_clip_val is None
        and not any(_written(model, LightningModule, hook) for hook in OPTIMIZATION_HOOKS)
        and not any(getattr(part, hook) for part in (model, *callbacks) for hook in STEP_HOOKS[:-1])
    ):
        loop.advance = Steps(loop, model).advance  # type: ignore[method-assign]
    if type(trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
        trainer.profiler = _NoProfiler()  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        # Lightning sets this, and then each "is there a GPU?" opens the driver's library. Optimizers ask at each step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


class Steps:
    """Replaces `advance` of Lightning's loop over the batches of an epoch. Its books stay the same after every batch.

    A step makes the calls of a hand-written loop, in full precision, on one device, without hooks. Lightning makes the
    same ones through twenty others. If nothing is due between two batches, one call trains on all that are left of the
    epoch.
    """

    def __init__(self, loop: Any, model: LightningModule) -> None:
        self.loop, self.model = loop, model
        self.ordinary = loop.advance
        self.plain = False
        """Whether nothing is due between two batches of this epoch: no validation, no step of a scheduler."""

    @cached_property
    def hooks(self) -> list[Callable[..., None]]:
        """What the callbacks do after a step. This and `step` stay the same for a whole fit."""
        return [callback.on_train_batch_end for callback in self.loop.trainer.callbacks if callback.on_train_batch_end]

    def advance(self, data_fetcher: Any) -> None:
        loop, trainer = self.loop, self.loop.trainer
        if loop.restarting:
            self.plain = False
            self.ordinary(data_fetcher)
            return
        loop.val_loop.restarting = False
        if loop.batch_idx == -1:
            self.plain = (
                trainer.val_check_batch == trainer.num_training_batches
                and trainer.check_val_every_n_epoch is not None
                and trainer._val_check_time_interval is None
                and all(config.interval == "epoch" for config in trainer.lr_scheduler_configs)
            )
        left = trainer.num_training_batches - loop.batch_progress.current.ready if self.plain else 1
        if trainer.max_steps != -1:
            left = min(left, trainer.max_steps - trainer.global_step)
        for batch in _batches(data_fetcher):
            left -= 1
            loop.batch_progress.is_last_batch = data_fetcher.done
            self.one(batch, due=left == 0)
            if left == 0 or trainer.should_stop or trainer.received_sigterm:
                return
            loop._batches_that_stepped += 1

    def one(self, batch: Any, due: bool) -> None:
        """Train on one batch. `due`: whether something is due after it."""
        loop, model, progress = self.loop, self.model, self.loop.batch_progress
        trainer, batch_idx = loop.trainer, loop.batch_idx + 1
        results, connector = loop._results, trainer._logger_connector
        count = loop.automatic_optimization.optim_progress.optimizer.step
        progress.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        connector._current_fx = None
        results.batch, results.batch_size = batch, None  # which `self.log` asks for
        progress.increment_started()
        count.increment_ready()
        model._current_fx_name = "training_step"
        outputs = self.step(batch, batch_idx)
        count.increment_completed()
        progress.increment_processed()
        if due:
            loop.update_lr_schedulers("step", update_plateau_schedulers=False)
            if loop._num_ready_batches_reached():
                loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        model._current_fx_name = "on_train_batch_end"
        for hook in self.hooks:
            hook(trainer, model, outputs, batch, batch_idx)
        if model.on_train_batch_end:  # type: ignore[truthy-function]
            model.on_train_batch_end(outputs, batch, batch_idx)
        model._current_fx_name = None
        if connector._current_fx is not None:  # `self.log` was called
            connector.on_batch_end()
            connector.update_train_step_metrics()
        results.batch = results.batch_size = None  # what is logged after the epoch has no batch
        progress.increment_completed()

    @cached_property
    def step(self) -> Callable[[Any, int], dict[str, Any]]:
        """What takes a step of the optimizer, and returns what `training_step` does."""
        optimizer: Optimizer = self.loop.trainer.optimizers[0]
        training_step, zero_grad = self.model.training_step, optimizer.zero_grad

        def forward_and_backward(batch: Any, batch_idx: int) -> dict[str, Any]:
            outputs: dict[str, Any] = training_step(batch, batch_idx)  # type: ignore[assignment]
            zero_grad()
            outputs["loss"].backward()
            outputs["loss"] = outputs["loss"].detach()
            return outputs

        def step(batch: Any, batch_idx: int) -> dict[str, Any]:
            outputs = forward_and_backward(batch, batch_idx)  # which these optimizers would do first
            optimizer.step()
            return outputs

        def step_with_closure(batch: Any, batch_idx: int) -> dict[str, Any]:
            outputs: dict[str, Any] = {}

            @torch.enable_grad()
            def closure() -> Tensor:
                outputs.update(forward_and_backward(batch, batch_idx))
                loss: Tensor = outputs["loss"]
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]
            return outputs

        first = type(optimizer).step.__module__.startswith("torch.optim.") and not isinstance(optimizer, LBFGS)
        return step if first else step_with_closure


def _batches(data_fetcher: Any) -> Iterator[Any]:
    """Yield the batches that `next(data_fetcher)` gives, which asks three others for each. There is one loader."""
    for batch in data_fetcher.iterator._iterator.iterators[0]:
        data_fetcher.fetched += 1
        data_fetcher.done = data_fetcher.fetched >= data_fetcher.length
        yield batch


def _idle_at_steps(callback: Callback) -> bool:
    """Whether a callback of Lightning has nothing to do after a step."""
    if isinstance(callback, ModelCheckpoint):
        return callback._every_n_train_steps < 1 and callback._train_time_interval is None
    return isinstance(callback, RichProgressBar) and callback.is_disabled


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
