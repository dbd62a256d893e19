"""The reconstruction term: how a decoder's output becomes an image, and what its error is.

`x` is (B, C, H, W) in [0, 1] and `out` (B, maps · C, H, W); an error is a sum over the pixels and channels of one
image, so (B,). All of them read `out` as logits: the image is s(out), s the sigmoid, which keeps it in [0, 1] and
reaches black and white easily, and what the error measures is the image that is shown.

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
    """What a model asks of its reconstruction term."""

    likelihood: ClassVar[bool]
    """Whether `error` is -log p(x | out) in nats, nothing left out: bits per dimension and bounds need that."""
    density: ClassVar[bool]
    """Whether that p is a density of pixels in [0, 1], not a probability of greys or bits."""
    maps: ClassVar[int]
    """Maps of `out` for each channel of the image."""

    def mean(self, out: Tensor) -> Tensor:
        """(B, maps · C, H, W) decoder output -> (B, C, H, W) image in [0, 1]."""
        ...

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        """(B, maps · C, H, W), (B, C, H, W) in [0, 1] -> (B,)."""
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
        """The error of each pixel and channel: (B, C, H, W)."""
        ...

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return self.elements(out, x).flatten(1).sum(1)


@dataclass(frozen=True)
class BCE(Elementwise):
    """Bernoulli pixels, computed from logits: -sum x log s(out) + (1 - x) log(1 - s(out)).

    In nats; a likelihood of binary images (`data.binarize`). Grey targets are explained as expected bits, whose error
    stays above the entropy of the greys, so compare grey numbers only with grey numbers.
    """

    likelihood = True

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out, x, reduction="none")


@dataclass(frozen=True)
class MSE(Elementwise):
    """Gaussian pixels of known deviation, up to the constant D log(sigma sqrt(2 pi)): sum (x - s(out))² / (2 sigma²).

    `sigma` is in units of the pixel range [0, 1] and weighs this term against every other of the loss.
    """

    sigma: float

    def __post_init__(self) -> None:
        _check_scale("sigma", self.sigma)

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).square() / (2 * self.sigma**2)


@dataclass(frozen=True)
class MAE(Elementwise):
    """Absolute error: sum |x - s(out)|. No likelihood: its constant is left out."""

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).abs()


class Gaussian(nn.Module, Elementwise):
    """Gaussian pixels: sum (x - s(out))² / (2 sigma²) + log(sigma sqrt(2 pi)), in nats.

    `sigma` in units of the pixel range; with `learned`, one number for all pixels that training moves from there
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
    """Laplace pixels: sum |x - s(out)| / scale + log(2 scale), in nats; `scale` and `learned` as for `gaussian`."""

    likelihood = density = True

    def __init__(self, scale: float, learned: bool) -> None:
        super().__init__()
        self.log_scale = _log_scale("scale", scale, learned)

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).abs() / self.log_scale.exp() + self.log_scale + math.log(2)


@dataclass(frozen=True)
class Categorical(Elementwise):
    """256 greys with free probabilities: -sum log softmax(out)[255 x], in nats of an 8-bit image.

    `out` holds 256 maps a channel (van den Oord et al., Pixel recurrent neural networks, 2016); the image is the mean.
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
    """A logistic density over greys, each of the 256 given the mass of its bin; in nats of an 8-bit image.

        p(x) = F((x + w/2 - m) / t) - F((x - w/2 - m) / t),  w = 1/255,  F the sigmoid; black and white keep the tails

    `out` holds m's logit and log t for each channel (Kingma et al., 2016, appendix; Salimans et al., 2017, equation 2).
    """

    likelihood = True
    maps = 2

    def mean(self, out: Tensor) -> Tensor:
        return out.chunk(2, dim=1)[0].sigmoid()

    def elements(self, out: Tensor, x: Tensor) -> Tensor:
        m, log_t = out.chunk(2, dim=1)
        inverse = (-log_t.clamp_min(-7)).exp()  # narrower than a bin by far, and still finite
        upper = (x - m.sigmoid() + 1 / 510) * inverse
        lower = (x - m.sigmoid() - 1 / 510) * inverse
        # F(a) - F(b) = F(a) F(-b) (1 - exp(b - a)): no difference of two numbers that are almost equal.
        above, below = F.logsigmoid(upper), F.logsigmoid(-lower)
        inside = above + below + (-torch.expm1(-inverse / 255)).log()
        return -torch.where(x < 0.5 / 255, above, torch.where(x > 254.5 / 255, below, inside))


@dataclass(frozen=True)
class SSIM:
    """Structural dissimilarity summed over pixels: D (1 - SSIM), D = C H W. No likelihood.

    `sigma`: deviation in pixels of the Gaussian window (1.5: 11×11), made smaller where the image is smaller than it.
    Wang, Bovik, Sheikh & Simoncelli, Image quality assessment, 2004.
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
    """alpha D (1 - SSIM) + (1 - alpha) sum (x - s(out))². No likelihood.

    After Zhao, Gallo, Frosio & Kautz, Loss functions for image restoration, 2017, which mixes with L1.
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
    """Structural similarity of each image, (B, C, H, W) in [0, 1] -> (B,), with a window that fits the image."""
    margin = (min(x.shape[-2:]) - 1) // 2  # pixels on each side of the window's centre, int(3.5 sigma + 0.5)
    fitting = min(sigma, (margin + 0.4) / 3.5)
    similarity = structural_similarity_index_measure(image, x, sigma=fitting, data_range=1.0, reduction="none")
    assert isinstance(similarity, Tensor)
    return similarity.view(-1)


def _check_scale(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"reconstruction.{name} must be positive, got {value}")


def _log_scale(name: str, value: float, learned: bool) -> Tensor:
    """As a parameter where it is learned; else as a buffer, so that a checkpoint holds it and a device moves it."""
    _check_scale(name, value)
    log = torch.tensor(math.log(value))
    return nn.Parameter(log) if learned else nn.Buffer(log)
