"""The reconstruction term: how a decoder's output becomes a datum, and what its error is.

`x` (B, C, *sizes) is the clean datum, and `out` (B, maps · C, *sizes) is the decoder's output. An error (B,) is summed
over the values of one datum.

With `link: sigmoid`, `out` holds logits. With s the sigmoid, the datum is s(out), and the error is measured on it. The
sigmoid keeps the datum in [0, 1] and reaches 0 and 1 easily. With `link: identity`, the datum is `out`, as real numbers
need it, and numbers that are missing (nan) add nothing to an error. The link follows `data.domain`. `bce`,
`categorical` and `discretized_logistic` always read logits. For the last two, the image is the mean of 256 greys, and s
of the first of two maps.

| term                   | error                                             | a likelihood of                |
|------------------------|---------------------------------------------------|--------------------------------|
| `bce`                  | Bernoulli                                         | binary images                  |
| `mse`, `mae`, `huber`  | Gaussian, Laplace, both, without their constants  | nothing: not comparable        |
| `gaussian`, `laplace`  | their densities, scale fixed or learned           | numbers in [0, 1], or real     |
| `student_t`            | its density, scale fixed or learned               | numbers in [0, 1], or real     |
| `categorical`          | 256 free probabilities a pixel                    | 8-bit images                   |
| `discretized_logistic` | a logistic density, summed over each grey's bin   | 8-bit images                   |
| `tokens`               | free probabilities of each token                  | texts                          |
| `ssim`, `mse_ssim`     | structural similarity                             | nothing                        |
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from aelab.ranges import Positive, Share, Whole
from aelab.tokens import PADDING

Link = Literal["sigmoid", "identity"]


class Reconstruction(Protocol):
    """Interface of a reconstruction term."""

    likelihood: ClassVar[bool]
    """Whether `error` is all of -log p(x | out), in nats. Bits per dimension and bounds of log p(x) need that."""
    density: ClassVar[bool]
    """Whether p(x | out) is a density. Otherwise it is a probability of greys, bits or tokens."""
    maps: int
    """Number of maps of `out` per channel of the datum."""
    domains: tuple[str, ...]
    """What the numbers of a datum may be."""
    ranks: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    """Ranks of the shapes that it can explain."""

    def mean(self, out: Tensor) -> Tensor:
        """Return the data (B, C, *sizes) of a decoder's output (B, maps · C, *sizes)."""
        ...

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the error (B,) of a decoder's output (B, maps · C, *sizes) against data (B, C, *sizes)."""
        ...


@runtime_checkable
class Elementwise(Reconstruction, Protocol):
    """An error that is a sum over the values of a datum."""

    likelihood: ClassVar[bool] = False
    density: ClassVar[bool] = False
    maps: int = 1
    domains: tuple[str, ...] = ("unit",)

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the error of each value, (B, C, *sizes)."""
        ...

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return self.elements(out, x).flatten(1).sum(1)


@runtime_checkable
class Difference(Elementwise, Protocol):
    """An error of the difference x - link(out). A subclass supplies `of`."""

    link: Link

    @property
    def domains(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("unit",) if self.link == "sigmoid" else ("unit", "real")

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid() if self.link == "sigmoid" else out

    def of(self, difference: Tensor) -> Tensor:
        """Return the error of each difference."""
        ...

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        if self.link == "sigmoid":
            return self.of(x - out.sigmoid())
        missing = x.isnan()
        return self.of((x - out).masked_fill(missing, 0)).masked_fill(missing, 0)


@dataclass(frozen=True)
class BCE(Elementwise):
    """Bernoulli pixels, computed from logits: -sum x log s(out) + (1 - x) log(1 - s(out)).

    The error is in nats. It is a likelihood of binary images (`data.binarize`). A grey target counts as the chance of a
    white pixel, so its error cannot fall below the entropy of that chance. Compare the errors of grey images only with
    those of grey images.
    """

    likelihood = True

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out, x, reduction="none")


@dataclass(frozen=True)
class MSE(Difference):
    """Normal values of known deviation, up to the constant D log(sigma sqrt(2 pi)): sum (x - x̂)² / (2 sigma²).

    `sigma` is in units of the data. It weighs this term against the other terms of the loss.
    """

    sigma: Positive
    link: Link

    def of(self, difference: Tensor) -> Tensor:
        return difference.square() / (2 * self.sigma**2)


@dataclass(frozen=True)
class MAE(Difference):
    """Absolute error: sum |x - x̂|. It is no likelihood, because the constant of a Laplace density is left out."""

    link: Link

    def of(self, difference: Tensor) -> Tensor:
        return difference.abs()


@dataclass(frozen=True)
class Huber(Difference):
    """Squares near zero, and lines beyond: sum of d² / 2 if |d| <= delta, else delta (|d| - delta / 2), d = x - x̂.

    Outliers count less than with `mse`. Huber, Robust estimation of a location parameter, 1964.
    """

    delta: Positive
    link: Link

    def of(self, difference: Tensor) -> Tensor:
        return F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=self.delta)


class Gaussian(nn.Module, Difference):
    """Normal values: sum (x - x̂)² / (2 sigma²) + log(sigma sqrt(2 pi)), in nats.

    `sigma` is one number for all values, in units of the data. With `learned`, training changes it (Rybkin, Daniilidis
    & Levine, 2021, equation 3).
    """

    likelihood = density = True

    def __init__(self, sigma: Positive, learned: bool, link: Link) -> None:
        super().__init__()
        self.link = link
        self.log_sigma = _log_scale(sigma, learned)

    def of(self, difference: Tensor) -> Tensor:
        squares = difference.square() / (2 * (2 * self.log_sigma).exp())
        return squares + self.log_sigma + math.log(2 * math.pi) / 2


class Laplace(nn.Module, Difference):
    """Laplace values: sum |x - x̂| / scale + log(2 scale), in nats.

    `scale` and `learned` are what `sigma` and `learned` are for `Gaussian`.
    """

    likelihood = density = True

    def __init__(self, scale: Positive, learned: bool, link: Link) -> None:
        super().__init__()
        self.link = link
        self.log_scale = _log_scale(scale, learned)

    def of(self, difference: Tensor) -> Tensor:
        return difference.abs() / self.log_scale.exp() + self.log_scale + math.log(2)


class StudentT(nn.Module, Difference):
    """Student's t values of `df` degrees of freedom: sum (df + 1) / 2 log(1 + d² / (df scale²)) + log scale + c.

    d = x - x̂, c = log Gamma(df / 2) - log Gamma((df + 1) / 2) + log(df pi) / 2. The error is in nats. Its tails are
    heavy, so outliers count less. `scale` and `learned` are what `sigma` and `learned` are for `Gaussian`. Lange,
    Little & Taylor, Robust statistical modeling using the t distribution, 1989.
    """

    likelihood = density = True

    def __init__(self, df: Positive, scale: Positive, learned: bool, link: Link) -> None:
        super().__init__()
        self.df, self.link = df, link
        self.log_scale = _log_scale(scale, learned)
        self.constant = math.lgamma(df / 2) - math.lgamma((df + 1) / 2) + math.log(df * math.pi) / 2

    def of(self, difference: Tensor) -> Tensor:
        squares = difference.square() / (self.df * (2 * self.log_scale).exp())
        return (self.df + 1) / 2 * squares.log1p() + self.log_scale + self.constant


@dataclass(frozen=True)
class Tokens(Elementwise):
    """Free probabilities of each token: -sum log softmax(out)[x], in nats of a text. Padding adds nothing.

    `out` holds one map per entry of the vocabulary. The datum is the most probable token of each place.
    """

    vocabulary: Whole
    likelihood = True
    domains = ("tokens",)
    ranks: ClassVar[tuple[int, ...]] = (1,)

    @property
    def maps(self) -> int:  # type: ignore[override]
        return self.vocabulary

    def mean(self, out: Tensor) -> Tensor:
        return out.argmax(1, keepdim=True)

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        kept = x[:, 0] != PADDING
        errors = F.cross_entropy(out.transpose(1, 2)[kept], x[:, 0][kept], reduction="none")
        return errors.new_zeros(kept.shape).masked_scatter(kept, errors)[:, None]


@dataclass(frozen=True)
class Categorical(Elementwise):
    """256 greys with free probabilities: -sum log softmax(out)[255 x], in nats of an 8-bit image.

    `out` holds 256 maps per channel (van den Oord et al., Pixel recurrent neural networks, 2016). The image is the mean
    grey.
    """

    likelihood = True
    maps = 256

    def mean(self, out: Tensor) -> Tensor:
        greys = torch.linspace(0, 1, 256, device=out.device, dtype=out.dtype)
        return torch.einsum("bgchw,g->bchw", out.unflatten(1, (256, -1)).softmax(1), greys).clamp(0, 1)

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return F.cross_entropy(out.unflatten(1, (256, -1)), (255 * x).round().long(), reduction="none")


@dataclass(frozen=True)
class DiscretizedLogistic(Elementwise):
    """A logistic density, summed over the bin of each of 256 greys. The error is in nats of an 8-bit image.

        p(x) = F((x + w/2 - m) / t) - F((x - w/2 - m) / t),  w = 1/255,  F the sigmoid; black and white keep the tails

    `out` holds the logit of m and log t for each channel (Kingma et al., 2016, appendix; Salimans et al., 2017,
    equation 2).
    """

    likelihood = True
    maps = 2

    def mean(self, out: Tensor) -> Tensor:
        return out.chunk(2, dim=1)[0].sigmoid()

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        m, log_t = out.chunk(2, dim=1)
        inverse = (-log_t.clamp_min(-7)).exp()  # t is at least 0.23 of a bin, so 1 / t is finite
        upper = (x - m.sigmoid() + 1 / 510) * inverse
        lower = (x - m.sigmoid() - 1 / 510) * inverse
        # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)) avoids the difference of two numbers that are almost equal.
        above, below = F.logsigmoid(upper), F.logsigmoid(-lower)
        inside = above + below + (-torch.expm1(-inverse / 255)).log()
        return -torch.where(x < 0.5 / 255, above, torch.where(x > 254.5 / 255, below, inside))


@dataclass(frozen=True)
class SSIM(Reconstruction):
    """Structural dissimilarity summed over pixels: D (1 - SSIM), D = C H W. It is no likelihood.

    `sigma` is the deviation of the Gaussian window in pixels. 1.5 gives a window of 11×11. A window that is larger than
    the image is made smaller. Wang, Bovik, Sheikh & Simoncelli, Image quality assessment, 2004.
    """

    sigma: Positive
    likelihood: ClassVar[bool] = False
    density: ClassVar[bool] = False
    maps: int = field(default=1, init=False)
    domains: tuple[str, ...] = field(default=("unit",), init=False)
    ranks: ClassVar[tuple[int, ...]] = (2,)

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return x[0].numel() * (1 - ssim(out.sigmoid(), x, self.sigma))


@dataclass(frozen=True)
class MSE_SSIM(Reconstruction):
    """A mixture of SSIM and squared error: alpha D (1 - SSIM) + (1 - alpha) sum (x - s(out))². It is no likelihood.

    `alpha` is the weight of SSIM, and `sigma` is the deviation of its window. Zhao, Gallo, Frosio & Kautz, Loss
    functions for image restoration, 2017, mix with L1 instead of the squared error.
    """

    alpha: Share
    sigma: Positive
    likelihood: ClassVar[bool] = False
    density: ClassVar[bool] = False
    maps: int = field(default=1, init=False)
    domains: tuple[str, ...] = field(default=("unit",), init=False)
    ranks: ClassVar[tuple[int, ...]] = (2,)

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        squares = (x - out.sigmoid()).square().flatten(1).sum(1)
        return self.alpha * SSIM(self.sigma).error(out, x) + (1 - self.alpha) * squares


def ssim(image: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Return the structural similarity (B,) of images or volumes (B, C, *sizes) in [0, 1] to `x`.

    The window has deviation `sigma` in pixels, or less if it would not fit into the image.
    """
    margin = (min(x.shape[2:]) - 1) // 2  # pixels on each side of the window's centre, int(3.5 sigma + 0.5)
    fitting = min(sigma, (margin + 0.4) / 3.5)
    if x.ndim == 5:
        return _ssim_of_volumes(image, x, fitting)
    similarity = structural_similarity_index_measure(image, x, sigma=fitting, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    return similarity.view(-1)


def _ssim_of_volumes(image: Tensor, x: Tensor, sigma: float) -> Tensor:
    """torchmetrics takes twenty times as long, because it does not blur each size by itself. It needs 11 voxels."""
    margin = int(3.5 * sigma + 0.5)
    window = torch.exp(-torch.arange(-margin, margin + 1.0, device=x.device, dtype=x.dtype).square() / (2 * sigma**2))
    local = torch.stack([image, x, image.square(), x.square(), image * x])
    for size in x.shape[2:]:  # each size in turn becomes the last one
        unit = F.pad(torch.eye(size, device=x.device, dtype=x.dtype)[:, None], (margin, margin), mode="reflect")
        blur = F.conv1d(unit, (window / window.sum()).view(1, 1, -1))[:, 0]
        local = local.movedim(3, -1) @ blur
    a, b, aa, bb, ab = local.flatten(2).unbind()
    c1, c2 = 0.01**2, 0.03**2
    variances = (aa - a.square()).clamp_min(0) + (bb - b.square()).clamp_min(0)
    similarity: Tensor = (2 * a * b + c1) * (2 * (ab - a * b) + c2)
    similarity = similarity / ((a.square() + b.square() + c1) * (variances + c2))
    return similarity.mean(1)


def _log_scale(value: float, learned: bool) -> Tensor:
    """Return log `value`, as a parameter if it is learned, otherwise as a buffer.

    A plain tensor would be left out of checkpoints, and would not move to a device with the model.
    """
    log = torch.tensor(math.log(value))
    return nn.Parameter(log) if learned else nn.Buffer(log)
