"""A net is a recipe. It knows the shape of an image and its own sizes, and builds encoders and decoders.

It knows nothing of the objective. A model asks for the widths that it needs: a VAE asks for
`net.encoder(2 * latent_dim)`. No layer may couple the images of a batch (GroupNorm, never BatchNorm). Therefore each
image has a Jacobian of its own, and training and test compute the same function. Every layer can be differentiated
twice, because some models penalise a derivative.
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
        """Height and width (h, w) of a map of codes (B, D, h, w). It is () if codes are vectors (B, D)."""
        return ()

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        """Return a module that maps images (B, C, H, W) to (B, out_dim, *code_sizes).

        The module may take further maps (B, n, H, W) beside the images. Together these have `extra` channels.
        """
        ...

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        """Return a module that maps (B, in_dim, *code_sizes) to (B, maps · C, H, W).

        The reconstruction term reads `maps` maps for each channel of the image.
        """
        ...


class Encoder(nn.Sequential):
    """A sequence of layers. The first layer gets the images with the extra maps as further channels."""

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        out: Tensor = super().forward(joined(x, *extra))
        return out


def joined(x: Tensor, *extra: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the maps `extra`, each (B, n, H, W), as further channels."""
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


def halvings(shape: tuple[int, int, int], n: int) -> list[tuple[int, int]]:
    """Return height and width of an image, and of its maps after each of `n` halvings. Odd sizes are rounded up."""
    sizes = [(shape[1], shape[2])]
    for _ in range(n):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes
