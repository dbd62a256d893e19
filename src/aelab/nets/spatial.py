"""Convolutions and residual blocks whose code is a stack of maps, for models that take maps.

This is the encoder and decoder of van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation learning, 2017,
section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import nn

from aelab.nets.base import Encoder, Net, activation, halvings, layer
from aelab.nets.resnet import Block
from aelab.ranges import Count


@dataclass(frozen=True)
class Spatial(Net):
    """A convolutional encoder and decoder whose codes are maps. For each of `channels`, a convolution halves the size.

    `blocks` residual blocks stand before the code, and as many after it.
    """

    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    shape: tuple[Count, ...]
    channels: Sequence[Count]
    blocks: Count
    groups: Count
    activation: str

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("net=spatial needs at least one of net.channels")

    @property
    def code_sizes(self) -> tuple[int, ...]:
        return halvings(self.shape, len(self.channels))[-1]

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        """Return a module that maps data (B, C, *sizes) to (B, out_dim, *code_sizes)."""
        layers: list[nn.Module] = []
        conv = layer("Conv", self.shape)
        for inputs, outputs in pairwise([self.shape[0] + extra, *self.channels]):
            layers += [conv(inputs, outputs, 3, stride=2, padding=1), activation(self.activation)]
        return Encoder(*layers, *self._blocks(), conv(self.channels[-1], out_dim, 1))

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        """Return a module that maps (B, in_dim, *code_sizes) to (B, maps · C, *sizes)."""
        conv = layer("Conv", self.shape)
        layers: list[nn.Module] = [conv(in_dim, self.channels[-1], 3, padding=1), *self._blocks()]
        sizes = halvings(self.shape, len(self.channels))
        widths = [*reversed(self.channels), maps * self.shape[0]]
        for (inputs, outputs), size in zip(pairwise(widths), reversed(sizes[:-1]), strict=True):
            layers += [activation(self.activation), nn.Upsample(size=size), conv(inputs, outputs, 3, padding=1)]
        return nn.Sequential(*layers)

    def _blocks(self) -> list[nn.Module]:
        return [Block(self.shape, self.channels[-1], self.groups, self.activation) for _ in range(self.blocks)]
