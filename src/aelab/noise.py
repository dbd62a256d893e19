"""Noise: makes the images that the encoder sees from clean images, and says which pixels it hid.

A noise acts on a whole batch on its device. From `x` (B, C, H, W) in [0, 1] it makes `seen` of the same shape, and the
mask `hidden`. The mask is true at each pixel that the noise chose to replace. Such a pixel may keep its value: a black
pixel that masking sets to black is hidden all the same. If the noise chooses no pixels, `hidden` is None. All draws
come from the argument `generator`.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Noisy = tuple[Tensor, Tensor | None]


class Noise(Protocol):
    """Maps x (B, C, H, W) in [0, 1] to seen (B, C, H, W) and hidden (B, 1 or C, H, W), which is bool or None."""

    def __call__(self, x: Tensor, generator: Generator) -> Noisy: ...


def _rand(x: Tensor, generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)


def _check_share(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"noise.{name} is a share between 0 and 1, got {p}")


@dataclass(frozen=True)
class NoNoise:
    """No noise: `seen` is `x` itself, and nothing is hidden."""

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        return x, None


@dataclass(frozen=True)
class Gaussian:
    """x + sigma * e with e ~ N(0, 1) for each pixel and channel. `clip` brings the result back into [0, 1]."""

    sigma: float
    clip: bool

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        seen = x + self.sigma * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (seen.clamp(0, 1) if self.clip else seen), None


@dataclass(frozen=True)
class SaltPepper:
    """A share `p` of the pixels becomes black or white with equal chance, in all channels together."""

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        u = _rand(x, generator, x.shape[0], 1, *x.shape[2:])
        black, white = u < self.p / 2, u > 1 - self.p / 2
        return x.masked_fill(black, 0.0).masked_fill(white, 1.0), black | white


@dataclass(frozen=True)
class Masking:
    """A share `p` of the pixels becomes 0, in all channels together (Vincent et al., 2010, section 3.3)."""

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _rand(x, generator, x.shape[0], 1, *x.shape[2:]) < self.p
        return x.masked_fill(hidden, 0.0), hidden


@dataclass(frozen=True)
class Dropout:
    """Each value becomes 0 with chance `p`. Otherwise it is divided by 1 - p.

    The expected value stays the same. Values may leave [0, 1].
    """

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)
        if self.p == 1:
            raise ValueError("noise.p must be below 1 for dropout, because the other values are divided by 1 - p")

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _rand(x, generator, *x.shape) < self.p
        return x.masked_fill(hidden, 0.0) / (1 - self.p), hidden


@dataclass(frozen=True)
class Impulse:
    """A share `p` of the values becomes a uniform draw from [0, 1] (random-valued impulse noise)."""

    p: float

    def __post_init__(self) -> None:
        _check_share("p", self.p)

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _rand(x, generator, *x.shape) < self.p
        return torch.where(hidden, _rand(x, generator, *x.shape), x), hidden


@dataclass(frozen=True)
class Speckle:
    """x + sigma * x * e with e ~ N(0, 1), clipped to [0, 1]. The noise grows with the brightness."""

    sigma: float

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        e = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (x * (1 + self.sigma * e)).clamp(0, 1), None


@dataclass(frozen=True)
class BlockMasking:
    """One square at a random place in each image becomes 0. Its side is `size` times the shorter side of the image."""

    size: float

    def __post_init__(self) -> None:
        _check_share("size", self.size)

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        height, width = x.shape[2:]
        side = round(self.size * min(height, width))
        top = (_rand(x, generator, x.shape[0], 1, 1) * (height - side + 1)).floor()
        left = (_rand(x, generator, x.shape[0], 1, 1) * (width - side + 1)).floor()
        row = torch.arange(height, device=x.device).view(1, -1, 1)
        column = torch.arange(width, device=x.device).view(1, 1, -1)
        block = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)  # (B, H, W)
        hidden = block.unsqueeze(1)
        return x.masked_fill(hidden, 0.0), hidden


@dataclass(frozen=True)
class Quadrants:
    """Hides all quadrants of an image except `observed` of them, which is 1, 2 or 3.

    1 shows the lower left quadrant. 2 shows the left half. 3 shows all but the lower right quadrant. A hidden pixel
    becomes -1. The noise is not random.

    Sohn, Lee & Yan, Learning structured output representation, 2015, section 5.1.
    """

    observed: int

    def __post_init__(self) -> None:
        if self.observed not in (1, 2, 3):
            raise ValueError(f"noise.observed is a number of quadrants, 1, 2 or 3, got {self.observed}")

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        middle, centre = x.shape[2] // 2, x.shape[3] // 2
        hidden = torch.zeros_like(x[:, :1], dtype=torch.bool)
        hidden[:, :, middle:, centre:] = True
        if self.observed < 3:
            hidden[:, :, :middle, centre:] = True
        if self.observed < 2:
            hidden[:, :, :middle, :centre] = True
        return x.masked_fill(hidden, -1.0), hidden


@dataclass(frozen=True)
class GaussianBlur:
    """Convolution with a normal density of deviation `sigma` pixels, cut at 3 sigma.

    Edges are repeated. The noise is not random.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"noise.sigma of a blur must be positive, in pixels, got {self.sigma}")

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        reach = math.ceil(3 * self.sigma)
        at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        line = torch.exp(-at.square() / (2 * self.sigma**2))
        line = line / line.sum()
        kernel = (line[:, None] * line[None, :]).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel, groups=x.shape[1]), None


@dataclass(frozen=True)
class MotionBlur:
    """Mean along a straight line of `length` pixels. Each image draws the angle of its line. Edges are repeated."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"noise.length is a number of pixels of at least 1, got {self.length}")

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        batch, channels, height, width = x.shape
        angle = math.pi * _rand(x, generator, batch, 1)
        at = torch.linspace(-(self.length - 1) / 2, (self.length - 1) / 2, self.length, device=x.device)
        reach = self.length // 2
        row = (at * angle.sin()).round().long() + reach  # (B, length)
        column = (at * angle.cos()).round().long() + reach
        size = 2 * reach + 1
        kernel = torch.zeros(batch, size * size, device=x.device, dtype=x.dtype)
        kernel.scatter_add_(1, row * size + column, torch.full_like(row, 1 / self.length, dtype=x.dtype))
        # One group per image and channel, because each image is convolved with its own line.
        kernel = kernel.view(batch, 1, 1, size, size).expand(-1, channels, -1, -1, -1).reshape(-1, 1, size, size)
        padded = F.pad(x, (reach,) * 4, mode="replicate").reshape(1, -1, height + 2 * reach, width + 2 * reach)
        return F.conv2d(padded, kernel, groups=batch * channels).view_as(x), None
