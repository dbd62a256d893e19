"""This package touches private parts of Lightning. These tests fail if a release of Lightning renames one.

The name or the docstring of a test says which file touches the parts.
"""

import inspect

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loops import fetchers, progress, training_epoch_loop
from lightning.pytorch.utilities.combined_loader import CombinedLoader


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(logger=False, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False)


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_fast_loop(trainer):
    loop = trainer.fit_loop.epoch_loop
    assert isinstance(loop.automatic_optimization.optim_progress, progress._OptimizationProgress)
    count = loop.automatic_optimization.optim_progress.optimizer.step
    assert {"increment_ready", "increment_completed"} <= set(dir(count))
    assert {"increment_ready", "increment_started", "increment_processed", "increment_completed"} <= set(
        dir(loop.batch_progress)
    )
    assert parameters(loop.advance) == parameters(loop.on_advance_end) == ["data_fetcher"]
    assert parameters(loop.update_lr_schedulers) == ["interval", "update_plateau_schedulers"]
    assert callable(loop._num_ready_batches_reached)
    assert loop._skip_next_val is False
    assert {"batch_idx", "restarting"} <= set(dir(loop))
    assert {"val_check_batch", "_val_check_time_interval"} <= {
        *dir(trainer),
        *trainer.fit_loop.setup_data.__code__.co_names,
    }
    assert callable(trainer._logger_connector.on_batch_start)
    assert callable(trainer._logger_connector.update_train_step_metrics)
    assert trainer._logger_connector._current_fx is None
    assert loop._results.training
    batches = iter(CombinedLoader([[1, 2]]))
    assert list(batches._iterator.iterators[0]) == [1, 2]
    fetcher = fetchers._PrefetchDataFetcher()
    assert {"iterator", "fetched", "done", "length"} <= set(vars(fetcher))
    assert {"_every_n_train_steps", "_train_time_interval"} <= set(vars(ModelCheckpoint()))
    assert parameters(loop._build_kwargs) == ["kwargs", "batch", "batch_idx"]
    assert parameters(LightningModule._on_before_batch_transfer) == ["self", "batch", "dataloader_idx"]
    assert parameters(LightningModule._apply_batch_transfer_handler) == ["self", "batch", "device", "dataloader_idx"]


def test_resume(trainer):
    loop = trainer.fit_loop
    assert loop.restarting is False
    assert callable(loop.reset_restart_stage)
    assert callable(loop.epoch_loop.reset)
    assert loop.epoch_loop._batches_that_stepped == 0
    for place in (loop.epoch_progress, loop.epoch_loop.batch_progress):
        assert {"ready", "started", "processed", "completed"} <= set(vars(place.current)) & set(vars(place.total))


def test_a_pair_of_optimizers(trainer):
    """`Alternating` in models/base.py replaces the methods that count a step."""
    optimizer = LightningOptimizer(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1))
    assert callable(optimizer._on_before_step)
    assert callable(optimizer._on_after_step)


def test_a_logger_that_goes_on(tmp_path):
    """training/fit.py sets `purge_step` in this dict, and TensorBoard drops the entries from that step on."""
    assert TensorBoardLogger(tmp_path)._kwargs == {}


def test_the_name_that_is_set_forty_times_a_step():
    """`Objective` in models/base.py sets this name without torch's checks."""
    assert "_current_fx_name" in inspect.getsource(LightningModule.__init__)


def test_how_long_training_is(trainer):
    """optimizers.py uses `setup_data` and `train_dataloader`."""
    assert callable(trainer.fit_loop.setup_data)
    assert trainer.train_dataloader is None
    assert "_should_check_val_fx" in vars(training_epoch_loop._TrainingEpochLoop), "callbacks/best.py relies on it"
