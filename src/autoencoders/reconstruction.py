"""The reconstruction term: how a decoder's output becomes an image, and what its error is.

`out` and `x` are (B, C, H, W); an error is a sum over the pixels and channels of one image, so (B,). All of them read
`out` as logits: the image is s(out), s the sigmoid, which keeps it in [0, 1] and reaches black and white easily, and
what the error measures is the image that is shown.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor


class Reconstruction(Protocol):
    """What a model asks of its reconstruction term."""

    likelihood: ClassVar[bool]
    """Whether `error` is -log p(x | out) in nats, nothing left out: bits per dimension and bounds need that."""

    def image(self, out: Tensor) -> Tensor:
        """(B, C, H, W) decoder output -> (B, C, H, W) image in [0, 1]."""
        ...

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        """(B, C, H, W), (B, C, H, W) in [0, 1] -> (B,)."""
        ...


@dataclass(frozen=True)
class BCE:
    """Bernoulli pixels, computed from logits: -sum x log s(out) + (1 - x) log(1 - s(out)).

    In nats; a likelihood of binary images (`data.binarize`). Grey targets are explained as expected bits, whose error
    stays above the entropy of the greys, so compare grey numbers only with grey numbers.
    """

    likelihood: ClassVar[bool] = True

    def image(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out, x, reduction="none").flatten(1).sum(1)


@dataclass(frozen=True)
class MSE:
    """Gaussian pixels of known deviation, up to the constant D log(sigma sqrt(2 pi)): sum (x - s(out))² / (2 sigma²).

    `sigma` is in units of the pixel range [0, 1] and weighs this term against every other of the loss.
    """

    sigma: float
    likelihood: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"reconstruction.sigma must be positive, got {self.sigma}")

    def image(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).square().flatten(1).sum(1) / (2 * self.sigma**2)


@dataclass(frozen=True)
class MAE:
    """Absolute error: sum |x - s(out)|. No likelihood: its constant is left out."""

    likelihood: ClassVar[bool] = False

    def image(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, out: Tensor, x: Tensor) -> Tensor:
        return (x - out.sigmoid()).abs().flatten(1).sum(1)
