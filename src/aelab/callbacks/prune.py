"""Ends a trial of a search that has no hope, as Optuna judges from how the other trials went."""

import logging
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)


def storage(folder: Path) -> Any:
    """Where the study of a sweep's folder lies: one file, safe under several writers."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / "study.log")))


class Prune(Callback):
    """Reports `monitor` after every validation. `folder`: of the run, beside which the study lies."""

    def __init__(self, folder: str, monitor: str, pruner: Literal["median", "hyperband"], warmup_epochs: int) -> None:
        self.folder, self.monitor = Path(folder), monitor
        self.pruner, self.warmup_epochs = pruner, warmup_epochs
        self.trial: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from optuna import load_study
        from optuna.pruners import HyperbandPruner, MedianPruner
        from optuna.trial import Trial, TrialState

        if not (self.folder.parent / "study.log").exists():
            return  # not in a search
        pruner = MedianPruner(n_warmup_steps=self.warmup_epochs) if self.pruner == "median" else HyperbandPruner()
        study = load_study(study_name="study", storage=storage(self.folder.parent), pruner=pruner)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("folder") == self.folder.name:
                self.trial = Trial(study, trial._trial_id)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.trial is None or trainer.sanity_checking:
            return
        self.trial.report(float(trainer.callback_metrics[self.monitor]), trainer.current_epoch)
        if self.trial.should_prune():
            self.trial.set_user_attr("pruned", True)
            trainer.should_stop = True
            log.info("pruned after epoch %d", trainer.current_epoch + 1)
