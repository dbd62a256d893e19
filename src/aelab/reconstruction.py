"""The reconstruction term: how a decoder's output becomes an image, and what its error is.

`x` (B, C, H, W) is the clean image in [0, 1], and `out` (B, maps · C, H, W) is the decoder's output. An error (B,) is
summed over the pixels and channels of one image.

`out` holds logits. With s the sigmoid, the image is s(out), and the error is measured on this image. The sigmoid keeps
the image in [0, 1] and reaches black and white easily. Two terms have more maps per channel. For
`discretized_logistic`, the image is s of the first of two. For `categorical`, it is the mean of 256 greys.

| term                   | error                                             | a likelihood of                |
|------------------------|---------------------------------------------------|--------------------------------|
| `bce`                  | Bernoulli                                         | binary images                  |
| `mse`, `mae`           | Gaussian, Laplace without their constants         | nothing: not comparable        |
| `gaussian`, `laplace`  | their densities, scale fixed or learned           | real-valued pixels in [0, 1]   |
| `categorical`          | 256 free probabilities a pixel                    | 8-bit images                   |
| `discretized_logistic` | a logistic density, summed over each grey's bin   | 8-bit images                   |
| `ssim`, `mse_ssim`     | structural similarity                             | nothing                        |
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure


class Reconstruction(Protocol):
    """Interface of a reconstruction term."""

    likelihood: ClassVar[bool]
    """Whether `error` is all of -log p(x | out), in nats. Bits per dimension and bounds of log p(x) need that."""
    density: ClassVar[bool]
    """Whether p(x | out) is a density of pixels in [0, 1]. Otherwise it is a probability of greys or bits."""
    maps: ClassVar[int]
    """Number of maps of `out` per channel of the image."""

    def mean(self, out: Tensor) -> Tensor:
        """Return the images (B, C, H, W) in [0, 1] of a decoder's output (B, maps · C, H, W)."""
        ...

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the error (B,) of a decoder's output (B, maps · C, H, W) against images (B, C, H, W) in [0, 1]."""
        ...


@runtime_checkable
class Elementwise(Reconstruction, Protocol):
    """An error that is a sum over pixels."""

    likelihood: ClassVar[bool] = False
    density: ClassVar[bool] = False
    maps: ClassVar[int] = 1

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        """Return the error of each pixel and channel, (B, C, H, W)."""
        ...

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return self.elements(out, x).flatten(1).sum(1)


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
class MSE(Elementwise):
    """Gaussian pixels of known deviation, up to the constant D log(sigma sqrt(2 pi)): sum (x - s(out))² / (2 sigma²).

    `sigma` is in units of the pixel range [0, 1]. It weighs this term against the other terms of the loss.
    """

    sigma: float

    def __post_init__(self) -> None:
        _check_scale("sigma", self.sigma)

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).square() / (2 * self.sigma**2)


@dataclass(frozen=True)
class MAE(Elementwise):
    """Absolute error: sum |x - s(out)|. It is no likelihood, because the constant of a Laplace density is left out."""

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).abs()


class Gaussian(nn.Module, Elementwise):
    """Gaussian pixels: sum (x - s(out))² / (2 sigma²) + log(sigma sqrt(2 pi)), in nats.

    `sigma` is one number for all pixels, in units of the pixel range [0, 1]. With `learned`, training changes it
    (Rybkin, Daniilidis & Levine, 2021, equation 3).
    """

    likelihood = density = True

    def __init__(self, sigma: float, learned: bool) -> None:
        super().__init__()
        self.log_sigma = _log_scale("sigma", sigma, learned)

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        squares = (x - out.sigmoid()).square() / (2 * (2 * self.log_sigma).exp())
        return squares + self.log_sigma + math.log(2 * math.pi) / 2


class Laplace(nn.Module, Elementwise):
    """Laplace pixels: sum |x - s(out)| / scale + log(2 scale), in nats.

    `scale` and `learned` are what `sigma` and `learned` are for `Gaussian`.
    """

    likelihood = density = True

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        self.log_scale = _log_scale("scale", scale, learned)

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).abs() / self.log_scale.exp() + self.log_scale + math.log(2)


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
class SSIM:
    """Structural dissimilarity summed over pixels: D (1 - SSIM), D = C H W. It is no likelihood.

    `sigma` is the deviation of the Gaussian window in pixels. 1.5 gives a window of 11×11. A window that is larger than
    the image is made smaller. Wang, Bovik, Sheikh & Simoncelli, Image quality assessment, 2004.
    """

    sigma: float
    likelihood: ClassVar[bool] = False
    density: ClassVar[bool] = False
    maps: ClassVar[int] = 1

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return x[0].numel() * (1 - ssim(out.sigmoid(), x, self.sigma))


@dataclass(frozen=True)
class MSE_SSIM:
    """A mixture of SSIM and squared error: alpha D (1 - SSIM) + (1 - alpha) sum (x - s(out))². It is no likelihood.

    `alpha` is the weight of SSIM, and `sigma` is the deviation of its window. Zhao, Gallo, Frosio & Kautz, Loss
    functions for image restoration, 2017, mix with L1 instead of the squared error.
    """

    alpha: float
    sigma: float
    likelihood: ClassVar[bool] = False
    density: ClassVar[bool] = False
    maps: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"reconstruction.alpha is a share between 0 and 1, got {self.alpha}")

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        squares = (x - out.sigmoid()).square().flatten(1).sum(1)
        return self.alpha * SSIM(self.sigma).error(out, x) + (1 - self.alpha) * squares


def ssim(image: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Return the structural similarity (B,) of images (B, C, H, W) in [0, 1] to images `x`.

    The window has deviation `sigma` in pixels, or less if it would not fit into the image.
    """
    margin = (min(x.shape[-2:]) - 1) // 2  # pixels on each side of the window's centre, int(3.5 sigma + 0.5)
    fitting = min(sigma, (margin + 0.4) / 3.5)
    similarity = structural_similarity_index_measure(image, x, sigma=fitting, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    return similarity.view(-1)


def _check_scale(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"reconstruction.{name} must be positive, got {value}")


def _log_scale(name: str, value: float, learned: bool) -> Tensor:
    """Return log `value`, as a parameter if it is learned, otherwise as a buffer.

    A plain tensor would be left out of checkpoints, and would not move to a device with the model.
    """
    _check_scale(name, value)
    log = torch.tensor(math.log(value))
    return nn.Parameter(log) if learned else nn.Buffer(log)
