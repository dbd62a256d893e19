"""Fully connected layers: flatten, hidden layers, code; and back in mirrored order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from autoencoders.nets.base import activation


@dataclass(frozen=True)
class MLP:
    """`hidden_dims` from the image to the code; the decoder goes through them backwards. Empty: one linear layer."""

    shape: tuple[int, int, int]
    hidden_dims: Sequence[int]
    activation: str

    def encoder(self, out_dim: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), *self._layers([math.prod(self.shape), *self.hidden_dims, out_dim]))

    def decoder(self, in_dim: int) -> nn.Module:
        layers = self._layers([in_dim, *reversed(self.hidden_dims), math.prod(self.shape)])
        return nn.Sequential(*layers, nn.Unflatten(1, tuple(self.shape)))

    def _layers(self, dims: Sequence[int]) -> list[nn.Module]:
        """Linear layers with an activation between two of them, none after the last."""
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(dims):
            layers += [nn.Linear(inputs, outputs), activation(self.activation)]
        return layers[:-1]
