"""Pictures of a run while it trains: as PNG in its `figures/`, and in every logger that takes images."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from autoencoders import randomness
from autoencoders.data.loader import Batch


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
        show(trainer, self.folder, "reconstruction", grid(rows, len(x)))
        if pl_module.generative:
            randomness.seed(pl_module.device, "pictures")
            n = self.images**2
            classes = min(self.images, trainer.datamodule.num_classes or self.images)  # type: ignore[attr-defined]
            labels = torch.arange(n, device=pl_module.device) % self.images % classes  # a column a class
            show(trainer, self.folder, "samples", grid(pl_module.sample(n, labels), self.images))


def grid(images: Tensor, columns: int) -> Image.Image:
    """Images (N, C, H, W) in [0, 1], row by row, small ones enlarged."""
    scale = max(64 // max(images.shape[-2:]), 1)  # so that 8×8 images can be seen
    large = F.interpolate(images.float().cpu(), scale_factor=scale, mode="nearest")
    picture: Image.Image = to_pil_image(make_grid(_as_colours(large), nrow=columns, padding=2, pad_value=0.5))
    return picture


def _as_colours(images: Tensor) -> Tensor:
    """What a picture can hold: grey or RGB. Of any other number of channels their mean is shown."""
    return images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)


def show(trainer: Trainer, folder: Path | str, name: str, picture: Image.Image) -> None:
    """Save a picture as `name`.png in the folder, and send it to every logger that takes pictures."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    picture.save(Path(folder) / f"{name}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pil_to_tensor(picture), trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=trainer.global_step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, key=name, step=trainer.global_step)
