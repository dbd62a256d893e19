"""Checkpoints that are written as a whole or not at all, and the one that training goes on from."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from aelab.atomic import replacing
from aelab.runs.run import Run

log = logging.getLogger(__name__)


class Atomic(TorchCheckpointIO):
    """Writes checkpoints through `aelab.atomic`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)


def last_state(run: Run) -> tuple[Path, int] | None:
    """Return the newest whole checkpoint that training can go on from, and the number of steps it was saved after."""
    for which in ("last", "previous"):
        path = run.checkpoint(which)
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if "place" in state:
                return path, int(state["global_step"])
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("%s is broken (%s): training goes on from what was saved before", path.name, reason)
    return None
