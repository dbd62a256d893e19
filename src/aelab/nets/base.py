"""A net is a recipe. It knows the shape of an image and its own sizes, and builds encoders and decoders.

It knows nothing of the objective. A model asks for the widths that it needs: a VAE asks for
`net.encoder(2 * latent_dim)`. No layer may couple the images of a batch (GroupNorm, never BatchNorm). So a Jacobian per
image exists, and training and test compute one function. Every layer can be differentiated twice, because some models
penalise a derivative.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activations

from aelab.errors import did_you_mean


class Net(Protocol):
    """What a model asks of a net. Implementations are frozen dataclasses with `shape` first, then sizes."""

    shape: tuple[int, int, int]
    """C, H, W of an image."""

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Sizes of a map of codes: () if a code is a vector (B, D), (h, w) if it is a stack of maps (B, D, h, w)."""
        return ()

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        """(B, C, H, W), and maps (B, n, H, W) that make `extra` channels together -> (B, out_dim, *code_sizes)."""
        ...

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        """(B, in_dim, *code_sizes) -> (B, maps · C, H, W). The reconstruction term reads `maps` for each channel."""
        ...


class Encoder(nn.Sequential):
    """Layers in a row. The first one is given `x` with the extra channels beside its own."""

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        out: Tensor = super().forward(joined(x, *extra))
        return out


def joined(x: Tensor, *extra: Tensor) -> Tensor:
    """Return (B, C, H, W) with the maps `extra`, (B, n, H, W) each, as further channels."""
    return torch.cat([x, *extra], dim=1) if extra else x


def activation(name: str, key: str = "net.activation") -> nn.Module:
    """Return the activation of torch.nn with this name, such as ReLU, GELU, Tanh, Sigmoid, or Identity for none.

    Raises ValueError for a name that torch.nn does not have. `key` is the config key that the message names.
    """
    known = (*activations.__all__, "Identity")
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"{key}: torch.nn has no activation '{name}'{hint or ' (one is ReLU)'}")
    module: nn.Module = getattr(nn, name)()
    return module


def halvings(shape: tuple[int, int, int], n: int) -> list[tuple[int, int]]:
    """Return height and width of an image, and of its maps after each of `n` halvings. Odd sizes are rounded up."""
    sizes = [(shape[1], shape[2])]
    for _ in range(n):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes
