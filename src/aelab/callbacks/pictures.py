"""Pictures of a run while it trains. They go as PNG into its `figures/`, and to every logger that takes images."""

from collections.abc import Sequence
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

from aelab import randomness
from aelab.data.loader import Batch
from aelab.ranges import Count


class Pictures(Callback):
    """Draws pictures at the validation of every `every_n_epochs`-th epoch and of the last one:

    - `progress`: one column per image. It shows the clean image, what the encoder sees if that differs, and
      the reconstruction, from top to bottom;
    - `samples`: new data of a generative model, always from the same draws. If the model is conditional, each column
      is one class.

    `images` is the number of columns of both pictures. PNG files go into `folder`.
    """

    def __init__(self, folder: str, images: Count, every_n_epochs: Count) -> None:
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
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if batch_idx > 0 or not trainer.is_global_zero or not (due or last):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        first = batch.map(lambda t: t[: self.images])
        seen = [] if torch.equal(first.seen, first.x.nan_to_num(0)) else [first.seen]
        rows = [data.pictures(images) for images in (first.x, *seen, pl_module.reconstruct(first))]
        show(trainer, self.folder, "progress", grid(torch.cat(rows), len(rows[0])))
        if (texts := data.said(first.x)) is not None:
            seen_texts = [data.said(first.seen)] if seen else []
            columns = [texts, *seen_texts, data.said(pl_module.reconstruct(first))]
            show_texts(trainer, self.folder, "progress", list(zip(*columns, strict=True)))
        if pl_module.generative:
            randomness.seed(pl_module.device, "pictures")
            n = self.images**2
            classes = min(self.images, data.num_classes or self.images)
            labels = torch.arange(n, device=pl_module.device) % self.images % classes  # one class per column
            samples = pl_module.sample(n, labels)
            show(trainer, self.folder, "samples", grid(data.pictures(samples), self.images))
            if (texts := data.said(samples[: self.images])) is not None:
                show_texts(trainer, self.folder, "samples", [(text,) for text in texts])


def grid(pictures: Tensor, columns: int) -> Image.Image:
    """Return pictures (N, 3, h, w) in [0, 1] as one picture with `columns` in each row. Small ones are enlarged."""
    scale = max(64 // max(pictures.shape[-2:]), 1)  # an 8×8 image is too small to see
    large = F.interpolate(pictures.float().cpu(), scale_factor=scale, mode="nearest")
    picture: Image.Image = to_pil_image(make_grid(large, nrow=columns, padding=2, pad_value=0.5))
    return picture


def show_texts(trainer: Trainer, folder: Path | str, name: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Save rows of texts as NAME.txt in the folder, and send them to TensorBoard as a table."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{name}.txt").write_text("\n\n".join("\n".join(row) for row in rows) + "\n", encoding="utf-8")
    table = ["|".join(["", *[""] * len(rows[0]), ""]), "|".join(["", *["---"] * len(rows[0]), ""])]
    table += ["|".join(["", *(text.replace("|", "\\|") for text in row), ""]) for row in rows]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, "\n".join(table), trainer.global_step)


def show(trainer: Trainer, folder: Path | str, name: str, picture: Image.Image) -> None:
    """Save a picture as NAME.png in the folder, and send it to every logger that takes pictures."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    picture.save(Path(folder) / f"{name}.png")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pil_to_tensor(picture), trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=trainer.global_step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, key=name, step=trainer.global_step)
