"""Noise: makes what the encoder sees from clean data, and says what it hid.

A noise acts on a whole batch on its device. From `x` (B, C, *sizes) it makes `seen` of the same shape, and the mask
`hidden`. The mask is true at each place that the noise chose to replace. Such a place may keep its value: a black pixel
that masking sets to black is hidden all the same. If the noise chooses no places, `hidden` is None. All draws come from
the argument `generator`.

A place is a pixel, a step or a voxel, with all its channels. In a vector it is a single number. `domains` and `ranks`
say on what a noise works.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from aelab.ranges import Count, NonNegative, Positive, Share, ShareBelow1, Whole
from aelab.tokens import MASK, PADDING, SPECIAL, UNKNOWN

Noisy = tuple[Tensor, Tensor | None]


class Noise(Protocol):
    """Maps x (B, C, *sizes) to seen (B, C, *sizes) and hidden (B, 1 or C, *sizes), which is bool or None."""

    domains: ClassVar[tuple[str, ...]] = ("unit", "real")
    """What the numbers of a datum may be."""
    ranks: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    """Ranks of the shapes that it works on."""

    def __call__(self, x: Tensor, generator: Generator) -> Noisy: ...


def _rand(x: Tensor, generator: Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)


def _places(x: Tensor) -> tuple[int, ...]:
    """Return the shape of a mask of places: all channels together, or the single numbers of a vector."""
    return (x.shape[0], 1, *x.shape[2:]) if x.ndim > 2 else tuple(x.shape)


@dataclass(frozen=True)
class NoNoise(Noise):
    """No noise: `seen` is `x` itself, and nothing is hidden. Only numbers that are missing are seen as 0."""

    domains = ("unit", "real", "tokens")

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        return x, None


@dataclass(frozen=True)
class Gaussian(Noise):
    """x + sigma * e with e ~ N(0, 1) for each value. `clip` brings the result back into [0, 1]."""

    sigma: NonNegative
    clip: bool

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        seen = x + self.sigma * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (seen.clamp(0, 1) if self.clip else seen), None


@dataclass(frozen=True)
class SaltPepper(Noise):
    """A share `p` of the places becomes black or white with equal chance, in all channels together."""

    domains = ("unit",)

    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        u = _rand(x, generator, *_places(x))
        black, white = u < self.p / 2, u > 1 - self.p / 2
        return x.masked_fill(black, 0.0).masked_fill(white, 1.0), black | white


@dataclass(frozen=True)
class Masking(Noise):
    """A share `p` of the places becomes 0, the mean of standardised data (Vincent et al., 2010, section 3.3)."""

    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _rand(x, generator, *_places(x)) < self.p
        return x.masked_fill(hidden, 0.0), hidden


@dataclass(frozen=True)
class Dropout(Noise):
    """Each value becomes 0 with chance `p`. Otherwise it is divided by 1 - p.

    The expected value stays the same. Values may leave [0, 1].
    """

    p: ShareBelow1

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _rand(x, generator, *x.shape) < self.p
        return x.masked_fill(hidden, 0.0) / (1 - self.p), hidden


@dataclass(frozen=True)
class Impulse(Noise):
    """A share `p` of the values becomes a uniform draw from [0, 1] (random-valued impulse noise)."""

    domains = ("unit",)

    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _rand(x, generator, *x.shape) < self.p
        return torch.where(hidden, _rand(x, generator, *x.shape), x), hidden


@dataclass(frozen=True)
class Speckle(Noise):
    """x + sigma * x * e with e ~ N(0, 1), clipped to [0, 1]. The noise grows with the brightness."""

    domains = ("unit",)

    sigma: NonNegative

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        e = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (x * (1 + self.sigma * e)).clamp(0, 1), None


@dataclass(frozen=True)
class BlockMasking(Noise):
    """One square at a random place in each image becomes 0. Its side is `size` times the shorter side of the image."""

    domains, ranks = ("unit",), (2,)

    size: Share

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
class Quadrants(Noise):
    """Hides all quadrants of an image except `observed` of them, which is 1, 2 or 3.

    1 shows the lower left quadrant. 2 shows the left half. 3 shows all but the lower right quadrant. A hidden pixel
    becomes -1. The noise is not random.

    Sohn, Lee & Yan, Learning structured output representation, 2015, section 5.1.
    """

    domains, ranks = ("unit",), (2,)

    observed: Count

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
class Luminance(Noise):
    """Hides the colours of an image (B, 3, H, W) in Lab or YCbCr, whose first channel is luminance.

    The other channels become 1/2, which is grey. The noise is not random.
    """

    domains, ranks = ("unit",), (2,)

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = torch.ones_like(x, dtype=torch.bool)
        hidden[:, 0] = False
        return x.masked_fill(hidden, 0.5), hidden


@dataclass(frozen=True)
class GaussianBlur(Noise):
    """Convolution with a normal density of deviation `sigma` pixels, cut at 3 sigma.

    Edges are repeated. The noise is not random.
    """

    domains, ranks = ("unit",), (2,)

    sigma: Positive

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        reach = math.ceil(3 * self.sigma)
        at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        line = torch.exp(-at.square() / (2 * self.sigma**2))
        line = line / line.sum()
        kernel = (line[:, None] * line[None, :]).expand(x.shape[1], 1, -1, -1)
        return F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel, groups=x.shape[1]), None


@dataclass(frozen=True)
class MotionBlur(Noise):
    """Mean along a straight line of `length` pixels. Each image draws the angle of its line. Edges are repeated."""

    domains, ranks = ("unit",), (2,)

    length: Count

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


@dataclass(frozen=True)
class Swap(Noise):
    """A share `p` of the values becomes the value of another datum of the batch, at the same place.

    Every number keeps its own distribution. So it is the noise for tables, whose columns differ in kind.
    """

    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _rand(x, generator, *x.shape) < self.p
        other = torch.randint(x.shape[0], x.shape, generator=generator, device=x.device)
        return torch.where(hidden, x.gather(0, other), x), hidden


@dataclass(frozen=True)
class Patches(Noise):
    """Of the patches of a datum, a share `p` becomes 0. They are `size` long in every direction.

    The number of hidden patches is the same for each datum: the rounded share (He et al., Masked autoencoders are
    scalable vision learners, 2022). Patches at the far edges may be smaller.
    """

    ranks = (1, 2, 3)

    size: Count
    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        counts = [-(-length // self.size) for length in x.shape[2:]]
        order = _rand(x, generator, x.shape[0], math.prod(counts)).argsort(1).argsort(1)
        hidden = (order < round(self.p * math.prod(counts))).view(-1, 1, *counts)
        for axis, length in enumerate(x.shape[2:], 2):
            hidden = hidden.repeat_interleave(self.size, axis).narrow(axis, 0, length)
        return x.masked_fill(hidden, 0.0), hidden


@dataclass(frozen=True)
class TimeMasking(Noise):
    """One span at a random time of each signal becomes 0, in all channels. It is a share `size` of the signal.

    Park et al., SpecAugment, 2019, section 2.
    """

    ranks = (1,)

    size: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        length = x.shape[2]
        span = round(self.size * length)
        start = (_rand(x, generator, x.shape[0], 1, 1) * (length - span + 1)).floor()
        at = torch.arange(length, device=x.device)
        hidden = (at >= start) & (at < start + span)
        return x.masked_fill(hidden, 0.0), hidden


@dataclass(frozen=True)
class Jitter(Noise):
    """x + sigma d e with e ~ N(0, 1) for each value, and d the deviation of the channel over this signal.

    Um et al., Data augmentation of wearable sensor data, 2017.
    """

    ranks = (1,)

    sigma: NonNegative

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        e = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x + self.sigma * x.std(2, correction=0, keepdim=True) * e, None


@dataclass(frozen=True)
class Scaling(Noise):
    """Each channel of a signal is multiplied by one number from N(1, sigma²).

    Um et al., Data augmentation of wearable sensor data, 2017.
    """

    ranks = (1,)

    sigma: NonNegative

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        e = torch.randn(*x.shape[:2], 1, generator=generator, device=x.device, dtype=x.dtype)
        return x * (1 + self.sigma * e), None


@dataclass(frozen=True)
class Drift(Noise):
    """A random walk is added to each channel of a signal. Its deviation at the last step is `sigma`."""

    ranks = (1,)

    sigma: NonNegative

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        steps = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x + self.sigma * steps.cumsum(2) / math.sqrt(x.shape[2]), None


class _OfTokens(Noise, Protocol):
    domains: ClassVar[tuple[str, ...]] = ("tokens",)
    ranks: ClassVar[tuple[int, ...]] = (1,)


@dataclass(frozen=True)
class TokenMasking(_OfTokens):
    """Each token but padding becomes the mask token with chance `p` (Devlin et al., BERT, 2019)."""

    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _drawn(x, self.p, generator)
        return x.masked_fill(hidden, MASK), hidden


@dataclass(frozen=True)
class TokenReplacement(_OfTokens):
    """Each token but padding becomes a random entry of the vocabulary with chance `p`. `vocabulary` is its size."""

    p: Share
    vocabulary: Whole

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _drawn(x, self.p, generator)
        other = torch.randint(SPECIAL, self.vocabulary, x.shape, generator=generator, device=x.device)
        return torch.where(hidden, other, x), hidden


@dataclass(frozen=True)
class TokenDropout(_OfTokens):
    """Each token but padding becomes the unknown token with chance `p` (Bowman et al., 2016, word dropout)."""

    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        hidden = _drawn(x, self.p, generator)
        return x.masked_fill(hidden, UNKNOWN), hidden


@dataclass(frozen=True)
class TokenDeletion(_OfTokens):
    """Each token is deleted with chance `p`, and the others move up (Lewis et al., BART, 2020). No place is hidden."""

    p: Share

    def __call__(self, x: Tensor, generator: Generator) -> Noisy:
        gone = _drawn(x, self.p, generator)
        order = gone.long().argsort(stable=True, dim=2)
        return x.masked_fill(gone, PADDING).gather(2, order), None


def _drawn(x: Tensor, p: float, generator: Generator) -> Tensor:
    """Return which tokens are chosen with chance `p`. Padding is never chosen."""
    return (torch.rand(x.shape, generator=generator, device=x.device) < p) & (x != PADDING)
