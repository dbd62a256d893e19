"""Generated sprites, after dSprites: every combination of shape, size, rotation and place is one image.

    3 shapes × 6 scales × 10 rotations × 16 × 16 places = 46,080 images, in a few seconds and without a download

Edges are antialiased. Rotations cover a quarter turn, because a square looks the same after it.

Matthey, Higgins, Hassabis & Lerchner, dSprites, 2017.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aelab.data.factors import Factors
from aelab.ranges import Count

FINE = 4  # points a pixel, along each side


@dataclass(eq=False, kw_only=True)
class Sprites(Factors):
    """Sprites of the shape of the data: a sprite of full size reaches over half of the shorter side."""

    scales: Count
    rotations: Count
    positions: Count
    """Number of places along each side."""

    def made(self) -> tuple[Tensor, Tensor, Sequence[str]]:
        channels, height, width = self.shape
        sizes = torch.linspace(0.5, 1, self.scales)
        angles = torch.arange(self.rotations) * (math.pi / 2 / self.rotations)
        kinds = itertools.product((square, ellipse, heart), sizes.tolist(), angles.tolist())
        places = list(itertools.product(range(self.positions), repeat=2))
        images = torch.zeros(3 * self.scales * self.rotations, len(places), height, width, dtype=torch.uint8)
        for sheet, (inside, scale, angle) in zip(images, kinds, strict=True):
            radius = min(height, width) / 4 * scale
            (left, across), (top, down) = (_windows(side, self.positions, radius) for side in (width, height))
            for x, y in places:
                u, v = across[x][None, :] / radius, down[y][:, None] / radius
                right, below = math.cos(angle) * u + math.sin(angle) * v, math.cos(angle) * v - math.sin(angle) * u
                mask = inside(right, below).float()[None]  # (1, fine height, fine width)
                pixels = (F.avg_pool2d(mask, FINE)[0] * 255).round().to(torch.uint8)
                window = sheet[x * self.positions + y, top[y] :, left[x] :][: len(pixels), : pixels.shape[1]]
                window.copy_(pixels[: window.shape[0], : window.shape[1]])
        spans = (3, self.scales, self.rotations, self.positions, self.positions)
        factors = torch.cartesian_prod(*map(torch.arange, spans))
        together = images.view(-1, 1, height, width).expand(-1, channels, -1, -1).contiguous()
        return together, factors, ("shape", "scale", "rotation", "x", "y")


def _windows(side: int, positions: int, radius: float) -> tuple[list[int], Tensor]:
    """Return the windows of pixels that sprites of a radius fill along one side.

    These are the first pixel of each, and the distance of each of its fine points from the centre, (positions, points).
    """
    centres = torch.linspace(side / 4, side * 3 / 4, positions) if positions > 1 else torch.tensor([side / 2])
    first = (centres - radius).floor().clamp_min(0)
    points = (torch.arange((math.ceil(2 * radius) + 1) * FINE) + 0.5) / FINE
    return first.int().tolist(), first[:, None] + points - centres[:, None]


def square(x: Tensor, y: Tensor) -> Tensor:
    """Whether points lie in a square whose corners have distance 1."""
    return torch.maximum(x.abs(), y.abs()) <= math.sqrt(0.5)


def ellipse(x: Tensor, y: Tensor) -> Tensor:
    """Whether points lie in an ellipse of half axes 1 and 1/2."""
    return x.square() + 4 * y.square() <= 1


def heart(x: Tensor, y: Tensor) -> Tensor:
    """Whether points lie in the heart (x² + y² - 1)³ = x² y³, scaled into the unit circle and upright."""
    x, y = 1.3 * x, -1.3 * y
    inner = x.square() + y.square() - 1
    return inner * inner * inner <= x.square() * y * y * y
