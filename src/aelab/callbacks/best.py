"""The checkpoint with the best validation loss, `best.ckpt`."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


class Best(ModelCheckpoint):
    """Lightning's ModelCheckpoint for a run folder that may be moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with every path in it moved into this run's folder.

        A checkpoint from a stranger therefore cannot choose which file is deleted when a better one is saved.
        """

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        models = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": models, "dirpath": self.dirpath})


class ValidateAtMaxSteps(Callback):
    """Lets Lightning validate when `trainer.max_steps` ends training in the middle of an epoch.

    Without that validation, the state after the last steps could not become the best checkpoint.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
