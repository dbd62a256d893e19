"""Pictures of a run while it trains: as PNG in its `figures/`, and in every logger that takes images."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from autoencoders import randomness
from autoencoders.data.base import Batch


class Pictures(Callback):
    """After every n-th epoch: `reconstruction`, one column an image (clean, seen, reconstruction from top to bottom),
    and `samples` of a generative model, always from the same draws."""

    def __init__(self, folder: str, images: int, every_n_epochs: int) -> None:
        self.folder, self.images, self.every_n_epochs = Path(folder), images, every_n_epochs

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        due = trainer.current_epoch % self.every_n_epochs == self.every_n_epochs - 1
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if batch_idx > 0 or not trainer.is_global_zero or not (due or last):
            return
        seen, x, y = batch.seen[: self.images], batch.x[: self.images], batch.y[: self.images]
        rows = torch.cat([x, seen.clamp(0, 1), pl_module(seen, y)])
        self._show(trainer, "reconstruction", rows, len(x))
        if pl_module.generative:
            randomness.seed(pl_module.device, "pictures")
            n = self.images**2
            labels = torch.arange(n, device=pl_module.device) % self.images
            self._show(trainer, "samples", pl_module.sample(n, labels), self.images)

    def _show(self, trainer: Trainer, name: str, images: Tensor, columns: int) -> None:
        scale = max(64 // images.shape[-2], 1)  # so that 8×8 images can be seen
        large = F.interpolate(images.float().cpu(), scale_factor=scale, mode="nearest")
        grid = make_grid(large, nrow=columns, padding=2, pad_value=0.5)
        self.folder.mkdir(parents=True, exist_ok=True)
        picture = to_pil_image(grid)
        picture.save(self.folder / f"{name}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, grid, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [picture], step=trainer.global_step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, picture, key=name, step=trainer.global_step)
