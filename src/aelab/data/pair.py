"""Two views of each image: x, which is data as any other, and y, which stands where labels stand."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from aelab.colours import of_rgb
from aelab.data.base import DataModule
from aelab.data.images import Images
from aelab.data.loader import as_floats
from aelab.errors import UserError
from aelab.ranges import Count


@dataclass(eq=False, kw_only=True)
class Pair(Images):
    """Views of the images of another source. Its labels are left out.

    `halves`: x is the left half of an image, and y the right one. `colours`: x is the luminance of Lab, and y the two
    channels of colour. Raises UserError for images that are not in memory.
    """

    of: DataModule
    """Where the images come from. `aelab.composition.build` supplies it."""
    by: Literal["halves", "colours"]
    y_shape: tuple[Count, ...]

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        items, _ = self.of.read(train)
        if not isinstance(items, Tensor):
            raise UserError("data=pair keeps its images in memory: type a source of fewer, or data=arrays with x and y")
        images = as_floats(self.of.kept(items, "train" if train else "test"))
        if self.by == "colours":
            images = torch.cat([of_rgb(part, "lab") for part in images.split(1000)])
            return images[:, :1], images[:, 1:].contiguous()
        width = self.shape[2]
        return images[..., :width].contiguous(), images[..., width:].contiguous()

    def validation(self, n: int) -> Tensor:
        return self.of.validation(n)

    def facts(self) -> dict[str, Any]:
        return {"classes": [], "images": {split: {"all": self.size(split)} for split in self.splits}}

    def _check_classes(self, labels: Tensor) -> None:
        """There are none: y is a view."""
