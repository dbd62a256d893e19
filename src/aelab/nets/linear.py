"""One linear layer from the flattened datum to the code, and one back: the dictionary of a sparse coder, or PCA."""

import math
from dataclasses import dataclass

from torch import nn

from aelab.nets.base import Encoder, Net
from aelab.ranges import Count


@dataclass(frozen=True)
class Linear(Net):
    shape: tuple[Count, ...]

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        channels, *sizes = self.shape
        return Encoder(nn.Flatten(), nn.Linear((channels + extra) * math.prod(sizes), out_dim))

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        channels, *sizes = self.shape
        linear = nn.Linear(in_dim, maps * math.prod(self.shape))
        return nn.Sequential(linear, nn.Unflatten(1, (maps * channels, *sizes)))
