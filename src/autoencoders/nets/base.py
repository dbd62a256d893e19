"""A net is a recipe: it knows the shape of an image and its own sizes, and is asked for an encoder or a decoder.

It hears of no objective: a model asks for the widths that it needs, `net.encoder(2 * latent_dim)` for a VAE. No layer
may couple the images of a batch (GroupNorm, never BatchNorm), so that per-image Jacobians exist and training and test
compute one function.
"""

from typing import Protocol

from torch import nn
from torch.nn.modules import activation as activations

from autoencoders.errors import did_you_mean


class Net(Protocol):
    """Implementations are frozen dataclasses: `shape` first, then sizes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of an image."""
        ...

    def encoder(self, out_dim: int) -> nn.Module:
        """(B, C, H, W) -> (B, out_dim)."""
        ...

    def decoder(self, in_dim: int) -> nn.Module:
        """(B, in_dim) -> (B, C, H, W)."""
        ...


def activation(name: str) -> nn.Module:
    """The activation of torch.nn by its name there, such as ReLU, GELU, Tanh or Sigmoid.

    Raises ValueError for a name that torch.nn does not have.
    """
    if name not in activations.__all__:
        hint = did_you_mean(name, activations.__all__)
        raise ValueError(f"net.activation: torch.nn has no activation '{name}'{hint or ' (one is ReLU)'}")
    module: nn.Module = getattr(nn, name)()
    return module
