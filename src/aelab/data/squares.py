"""Squares of three colours, each at its own place on a grid: positions are all that changes.

With `step` equal to `side`, squares at two places never overlap, so all places are equally far apart in pixels. Then an
autoencoder has no reason to put places in order, which is the hard case. A smaller step makes them overlap.

Michlo, Klein & James, Overlooked implications of the reconstruction loss for VAE disentanglement, 2023, section 4.
https://arxiv.org/abs/2202.13341
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.data.factors import Factors
from aelab.errors import UserError
from aelab.ranges import Count


@dataclass(eq=False, kw_only=True)
class Squares(Factors):
    """One square per channel. Raises UserError for a square that has one place, and for more than a million images."""

    side: Count
    """Pixels along a side of a square."""
    step: Count
    """Pixels between two places."""

    def made(self) -> tuple[Tensor, Tensor, Sequence[str]]:
        channels, height, width = self.shape
        rows, columns = ((length - self.side) // self.step + 1 for length in (height, width))
        if min(rows, columns) < 1 or rows * columns < 2:
            raise UserError(
                f"data.side={self.side} leaves one place in data.shape={list(self.shape)}: type a smaller one"
            )
        if (n := (rows * columns) ** channels) > 10**6:
            raise UserError(f"data.step={self.step} gives {n} images: type a larger step, side, or fewer channels")
        one = torch.zeros(rows * columns, height, width, dtype=torch.uint8)
        places = list(itertools.product(range(columns), range(rows)))
        for image, (x, y) in zip(one, places, strict=True):
            image[y * self.step :][: self.side, x * self.step :][:, : self.side] = 255
        which = torch.cartesian_prod(*[torch.arange(len(places))] * channels).view(-1, channels)
        factors = torch.tensor(places)[which].flatten(1)
        names = [f"{axis}_{colour}" for colour in range(channels) for axis in "xy"]
        return one[which], factors, names
