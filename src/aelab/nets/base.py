"""A net is a recipe. It knows the shape of a datum and its own sizes, and builds encoders and decoders.

It knows nothing of the objective. A model asks for the widths that it needs: a VAE asks for
`net.encoder(2 * latent_dim)`. No layer may couple the data of a batch (GroupNorm, never BatchNorm). Therefore each
datum has a Jacobian of its own, and training and test compute the same function. Every layer can be differentiated
twice, because some models penalise a derivative.

A shape is (C, *sizes). Its rank is the number of sizes: 0 of a vector (F,), 1 of a signal (C, L), 2 of an image (C, H,
W), 3 of a volume (C, D, H, W). Tokens (1, T) are ids along one size.
"""

from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activations

from aelab.errors import UserError, did_you_mean


class Net(Protocol):
    """What a model asks of a net. Implementations are frozen dataclasses with `shape` first, then sizes."""

    ranks: ClassVar[tuple[int, ...]] = (0, 1, 2, 3)
    """Ranks of the shapes that it can be built for."""
    domains: ClassVar[tuple[str, ...]] = ("unit", "real")
    """What the numbers of a datum may be: in [0, 1], any, or `tokens`, which are ids."""
    autoregressive: ClassVar[bool] = False
    """Whether the decoder is shown the clean datum in training: decoder(z, x). It generates as decoder(z)."""

    shape: tuple[int, ...]
    """(C, *sizes) of a datum."""

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Sizes of a map of codes, (h, w) of (B, D, h, w). It is () if codes are vectors (B, D)."""
        return ()

    def at(self, shape: tuple[int, ...]) -> Self:
        """Return the same recipe for another shape."""
        return replace(self, shape=shape)  # type: ignore[type-var]

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        """Return a module that maps data (B, C, *sizes) to (B, out_dim, *code_sizes).

        The module may take further maps (B, n, *sizes) beside the data. Together these have `extra` channels.
        """
        ...

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        """Return a module that maps (B, in_dim, *code_sizes) to (B, maps · C, *sizes).

        The reconstruction term reads `maps` maps for each channel of the datum.
        """
        ...

    def translator(self, maps: int, extra: int = 0, condition: int = 0) -> Any:
        """Return a module that maps data (B, C, *sizes) to (B, maps · C, *sizes), around any code.

        It is called as f(x, *extra, condition=…), with `extra` channels of further maps and a vector (B, condition).
        Its parts `down` and `up` give and take the maps between them. Raises UserError for a net that has none.
        """
        raise UserError(f"net={type(self).__name__.lower()} leads through a code: type net=unet")


class Encoder(nn.Sequential):
    """A sequence of layers. The first layer gets the data with the extra maps as further channels."""

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        out: Tensor = super().forward(joined(x, *extra))
        return out


def joined(x: Tensor, *extra: Tensor) -> Tensor:
    """Return data (B, C, *sizes) with the maps `extra`, each (B, n, *sizes), as further channels."""
    return torch.cat([x, *extra], dim=1) if extra else x


def activation(name: str, key: str = "net.activation") -> nn.Module:
    """Return the activation of torch.nn with this name, such as ReLU, GELU, Tanh, Sigmoid, or Identity for none.

    Raises ValueError for a name that torch.nn does not have. `key` is the config key that the message names.
    """
    known = (*activations.__all__, "Identity")
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"{key}: torch.nn has no activation '{name}'{hint or ' (for example ReLU)'}")
    module: nn.Module = getattr(nn, name)()
    return module


def halvings(shape: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    """Return the sizes of a datum, and of its maps after each of `n` halvings. Odd sizes are rounded up."""
    sizes = [tuple(shape[1:])]
    for _ in range(n):
        sizes.append(tuple((size + 1) // 2 for size in sizes[-1]))
    return sizes


def layer(name: str, shape: tuple[int, ...]) -> Any:
    """Return the layer of torch.nn of this name for a shape: `Conv` is Conv1d, Conv2d or Conv3d."""
    return getattr(nn, f"{name}{len(shape) - 1}d")
