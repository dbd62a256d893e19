"""Images as data: padding, grey, black and white, and spaces of colour."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from aelab import randomness
from aelab.colours import Space, of_rgb, to_rgb
from aelab.data.base import DataModule
from aelab.data.drawing import draw
from aelab.data.loader import as_floats
from aelab.errors import UserError
from aelab.noise import Luminance
from aelab.ranges import Count


@dataclass(eq=False, kw_only=True)
class Images(DataModule):
    """Images (C, H, W). Those that are stored as uint8 are divided by 255."""

    shape: tuple[Count, Count, Count]
    binarize: Literal["none", "dynamic", "static", "threshold"]
    """How pixels become black or white. A grey value is the chance of a white pixel.

    `dynamic` draws anew for each batch. `static` draws once. `threshold` cuts at 1/2. `none` keeps the grey values.
    """

    colours: Literal["rgb", "lab", "ycbcr", "grey"] | None
    """What the channels are (see `aelab.colours`). None: RGB of three channels, grey of one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain != "unit":
            raise UserError(f"data.domain={self.domain}: pixels lie in [0, 1], so type data.domain=unit")
        wanted = {None: self.shape[0], "grey": 1}.get(self.colours, 3)
        if self.shape[0] != wanted:
            raise UserError(
                f"data.colours={self.colours} has {wanted} channels, and data.shape={list(self.shape)} has "
                f"{self.shape[0]}: type data.shape={[wanted, *self.shape[1:]]}, if the images have colours"
            )
        if self.space != "rgb" and self.binarize != "none":
            raise UserError(f"data.binarize={self.binarize} makes bits of pixels: type data.colours=null")
        if isinstance(self.noise, Luminance) and self.space == "rgb":
            raise UserError("noise=luminance hides colours beside luminance: type data.colours=lab (or ycbcr)")

    @property
    def space(self) -> Space:
        """The space of colours."""
        return "rgb" if self.colours in (None, "grey") else cast(Space, self.colours)

    def kept(self, items: Tensor, split: str) -> Tensor:
        """Bring images into the declared shape, and binarise them if that happens once."""
        pixels = fit(items, self.shape)
        if self.binarize == "threshold":
            return (pixels >= 128).to(torch.uint8) * 255
        if self.binarize == "static":
            g = randomness.generator("cpu", "static binarisation", split)
            return torch.bernoulli(pixels / 255, generator=g).to(torch.uint8) * 255
        return pixels

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.binarize == "static" and not isinstance(self.splits["train"][0], Tensor):
            raise UserError("data.binarize=static needs images in memory: type threshold or dynamic")

    def target(self, items: Tensor, generator: Generator) -> Tensor:
        x = as_floats(items)
        return torch.bernoulli(x, generator=generator) if self.binarize == "dynamic" else of_rgb(x, self.space)

    def restored(self, x: Tensor) -> Tensor:
        return to_rgb(x, self.space)

    def pictures(self, x: Tensor) -> Tensor:
        return draw(self.restored(x), self.domain)


def fit(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return uint8 images (N, C, H, W) in the declared shape.

    They are padded with zeros around the centre, and colour is turned grey. Nothing else is changed. Raises UserError
    if that does not lead to `shape`.
    """
    channels, height, width = images.shape[1:]
    if tuple(shape) == (channels, height, width):
        return images
    down, right = shape[1] - height, shape[2] - width
    if down < 0 or right < 0 or (channels, shape[0]) not in {(1, 1), (3, 3), (3, 1)}:
        raise UserError(
            f"data.shape={list(shape)} does not fit images of {[channels, height, width]}: type that, "
            "a greater height or width (pads with zeros), or one channel for colour images (turns them grey)"
        )
    if channels > shape[0]:
        images = rgb_to_grayscale(images)
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
