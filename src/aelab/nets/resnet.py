"""Residual blocks with the activation first, down to the code and back up.

He, Zhang, Ren & Sun, Identity mappings in deep residual networks, 2016. GroupNorm (Wu & He, 2018) takes the
place of BatchNorm, which would couple the data of a batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from aelab.nets.base import Encoder, Net, activation, halvings, layer
from aelab.ranges import Count


class Block(nn.Module):
    """A residual block on maps (B, channels, *sizes): x + conv(act(norm(conv(act(norm(x))))))."""

    def __init__(self, shape: tuple[int, ...], channels: int, groups: int, act: str) -> None:
        super().__init__()
        conv = layer("Conv", shape)
        self.layers = nn.Sequential(
            *normed(channels, groups, act),
            conv(channels, channels, 3, padding=1),
            *normed(channels, groups, act),
            conv(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


def normed(channels: int, groups: int, act: str) -> list[nn.Module]:
    """Return GroupNorm and an activation. The norm has as many groups as the gcd of `groups` and `channels`."""
    return [nn.GroupNorm(math.gcd(groups, channels), channels), activation(act)]


@dataclass(frozen=True)
class ResNet(Net):
    """A residual encoder and decoder.

    For each of `channels`, a convolution halves the size, and `blocks` residual blocks follow. A linear layer gives the
    code. The decoder mirrors this with nearest upsampling. Any sizes and number of channels will do.
    """

    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    shape: tuple[Count, ...]
    channels: Sequence[Count]
    blocks: Count
    groups: Count
    activation: str

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("net=resnet needs at least one of net.channels")

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([self.shape[0] + extra, *self.channels]):
            layers += [layer("Conv", self.shape)(inputs, outputs, 3, stride=2, padding=1), *self._blocks(outputs)]
        layers += normed(self.channels[-1], self.groups, self.activation)
        return Encoder(*layers, nn.Flatten(), nn.Linear(math.prod(self._last_map()), out_dim))

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(in_dim, math.prod(self._last_map())), nn.Unflatten(1, self._last_map())]
        sizes = halvings(self.shape, len(self.channels))
        widths, conv = [*reversed(self.channels), self.channels[0]], layer("Conv", self.shape)
        for (inputs, outputs), size in zip(pairwise(widths), reversed(sizes[:-1]), strict=True):
            layers += [*self._blocks(inputs), nn.Upsample(size=size), conv(inputs, outputs, 3, padding=1)]
        layers += normed(self.channels[0], self.groups, self.activation)
        return nn.Sequential(*layers, conv(self.channels[0], maps * self.shape[0], 3, padding=1))

    def _blocks(self, channels: int) -> list[nn.Module]:
        return [Block(self.shape, channels, self.groups, self.activation) for _ in range(self.blocks)]

    def _last_map(self) -> tuple[int, ...]:
        return self.channels[-1], *halvings(self.shape, len(self.channels))[-1]
