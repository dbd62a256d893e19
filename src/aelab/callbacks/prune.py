"""Ends a hopeless trial of a search early. Optuna judges a trial by how the other trials went."""

import logging
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from aelab.ranges import Whole

log = logging.getLogger(__name__)


def storage(folder: Path) -> Any:
    """Return the storage of the study in a sweep's folder. It is one file, and several processes may write to it."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # Optuna breaks the lock of a killed process after 30 s. The lock is a link, which dangles if the path is relative,
    # and then Optuna waits for ever.
    return JournalStorage(JournalFileBackend(str(folder.resolve() / "study.log")))


class Prune(Callback):
    """Reports the metric `monitor` to Optuna after every validation. Ends the trial if Optuna says so.

    `folder` is the run's folder. The study lies in its parent, and without a study nothing is reported. The median
    pruner ends no trial in the first `warmup_epochs` epochs.
    """

    def __init__(self, folder: str, monitor: str, pruner: Literal["median", "hyperband"], warmup_epochs: Whole) -> None:
        self.folder, self.monitor = Path(folder), monitor
        self.pruner, self.warmup_epochs = pruner, warmup_epochs
        self.trial: Any = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (self.folder.parent / "study.log").exists():
            return  # the run is not part of a search
        from optuna import load_study
        from optuna.pruners import HyperbandPruner, MedianPruner
        from optuna.trial import Trial, TrialState

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
