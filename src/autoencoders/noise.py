"""Noise: clean images -> what the encoder is shown. Every noise acts on a whole batch on its device.

`x` is (B, C, H, W) in [0, 1]; the result has the same shape. All draws come from the generator that is handed in.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


class Noise(Protocol):
    """(B, C, H, W) in [0, 1] -> (B, C, H, W)."""

    def __call__(self, x: Tensor, generator: Generator) -> Tensor: ...


def _rand(x: Tensor, generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)


def _check_share(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"noise.{name} is a share between 0 and 1, got {p}")


@dataclass(frozen=True)
class NoNoise:
    """No noise: `seen` is `x` itself."""

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        return x


@dataclass(frozen=True)
class Gaussian:
    """x + sigma * e, e ~ N(0, 1) for each pixel and channel; `clip` brings it back into [0, 1]."""

    sigma: float
    clip: bool

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        seen = x + self.sigma * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return seen.clamp(0, 1) if self.clip else seen


@dataclass(frozen=True)
class SaltPepper:
    """A share `p` of the pixels becomes black or white with equal chance, in all channels together."""

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        u = _rand(x, generator, len(x), 1, *x.shape[2:])
        return x.masked_fill(u < self.p / 2, 0.0).masked_fill(u > 1 - self.p / 2, 1.0)


@dataclass(frozen=True)
class Masking:
    """A share `p` of the pixels becomes 0, in all channels together (Vincent et al., 2010, section 3.3)."""

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        return x.masked_fill(_rand(x, generator, len(x), 1, *x.shape[2:]) < self.p, 0.0)


@dataclass(frozen=True)
class Dropout:
    """Each value is 0 with chance `p`, else divided by 1 - p, so its mean stays: may leave [0, 1]."""

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)
        if self.p == 1:
            raise ValueError("noise.p must be below 1 for dropout: what is left is divided by 1 - p")

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        return x.masked_fill(_rand(x, generator, *x.shape) < self.p, 0.0) / (1 - self.p)


@dataclass(frozen=True)
class Impulse:
    """A share `p` of the values becomes a uniform draw from [0, 1] (random-valued impulse noise)."""

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        hit = _rand(x, generator, *x.shape) < self.p
        return torch.where(hit, _rand(x, generator, *x.shape), x)


@dataclass(frozen=True)
class Speckle:
    """x + sigma * x * e, e ~ N(0, 1): noise that grows with the light; clipped to [0, 1]."""

    sigma: float

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        e = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (x * (1 + self.sigma * e)).clamp(0, 1)


@dataclass(frozen=True)
class BlockMasking:
    """One square a image, its side a share `size` of the shorter side of the image, becomes 0 at a random place."""

    size: float

    def __post_init__(self) -> None:
        _check_share("size", self.size)

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        height, width = x.shape[2:]
        side = round(self.size * min(height, width))
        top = (_rand(x, generator, len(x), 1, 1) * (height - side + 1)).floor()
        left = (_rand(x, generator, len(x), 1, 1) * (width - side + 1)).floor()
        row = torch.arange(height, device=x.device).view(1, -1, 1)
        column = torch.arange(width, device=x.device).view(1, 1, -1)
        block = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)  # (B, H, W)
        return x.masked_fill(block.unsqueeze(1), 0.0)


@dataclass(frozen=True)
class Quadrants:
    """Hides all quadrants of an image but `observed` of them, 1 to 3: the lower left one, then the upper left one,
    then the upper right one. A hidden pixel is -1, which no pixel is. Nothing is drawn.

    Sohn, Lee & Yan, Learning structured output representation, 2015, section 5.1.
    """

    observed: int

    def __post_init__(self) -> None:
        if self.observed not in (1, 2, 3):
            raise ValueError(f"noise.observed is a number of quadrants, 1, 2 or 3, got {self.observed}")

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        middle, centre = x.shape[2] // 2, x.shape[3] // 2
        seen = x.clone()
        seen[:, :, middle:, centre:] = -1
        if self.observed < 3:
            seen[:, :, :middle, centre:] = -1
        if self.observed < 2:
            seen[:, :, :middle, :centre] = -1
        return seen


@dataclass(frozen=True)
class GaussianBlur:
    """Convolution with a normal of deviation `sigma` pixels, cut at 3 sigma; edges are repeated. Nothing is drawn."""

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"noise.sigma of a blur is in pixels and positive, got {self.sigma}")

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        reach = math.ceil(3 * self.sigma)
        at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        line = torch.exp(-at.square() / (2 * self.sigma**2))
        line = line / line.sum()
        kernel = (line[:, None] * line[None, :]).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel, groups=x.shape[1])


@dataclass(frozen=True)
class MotionBlur:
    """The mean along a straight line of `length` pixels, at an angle drawn for each image; edges are repeated."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"noise.length is a number of pixels of at least 1, got {self.length}")

    def __call__(self, x: Tensor, generator: Generator) -> Tensor:
        batch, channels, height, width = x.shape
        angle = math.pi * _rand(x, generator, batch, 1)
        at = torch.linspace(-(self.length - 1) / 2, (self.length - 1) / 2, self.length, device=x.device)
        reach = self.length // 2
        row = (at * angle.sin()).round().long() + reach  # (B, length)
        column = (at * angle.cos()).round().long() + reach
        size = 2 * reach + 1
        kernel = torch.zeros(batch, size * size, device=x.device, dtype=x.dtype)
        kernel.scatter_add_(1, row * size + column, torch.full_like(row, 1 / self.length, dtype=x.dtype))
        # One group an image and channel: each image is convolved with its own line.
        kernel = kernel.view(batch, 1, 1, size, size).expand(-1, channels, -1, -1, -1).reshape(-1, 1, size, size)
        padded = F.pad(x, (reach,) * 4, mode="replicate").reshape(1, -1, height + 2 * reach, width + 2 * reach)
        return F.conv2d(padded, kernel, groups=batch * channels).view_as(x)
