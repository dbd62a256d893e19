"""Convolutions down to the code and back up, for signals, images and volumes of any sizes and number of channels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import nn

from aelab.nets.base import Encoder, Net, activation, halvings, layer
from aelab.ranges import Count, Whole


@dataclass(frozen=True)
class Conv(Net):
    """A convolutional encoder and decoder. For each of `channels`, one convolution halves each size. Its
    kernels are 3 wide.

    A linear layer stands between the last map and the code.

    `down` halves by a stride of 2 or by max-pooling. `up` doubles by a transposed convolution, or by nearest upsampling
    before a convolution, which leaves no checkerboard (Odena, Dumoulin & Olah, 2016). `between` is the number of
    convolutions that keep size and channels, after each halving but the last, and after each doubling but the last.

    Without `bias`, and with ReLU, the net is homogeneous: data of twice the contrast give twice the codes and twice the
    output, so it takes contrasts that it was not trained on (Mohan, Kadkhodaie, Simoncelli & Fernandez-Granda, Robust
    and interpretable blind image denoising via bias-free convolutional neural networks, 2020).
    """

    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    shape: tuple[Count, ...]
    channels: Sequence[Count]
    activation: str
    down: Literal["stride", "max_pool"]
    up: Literal["transposed", "upsample"]
    between: Whole
    bias: bool

    def __post_init__(self) -> None:
        if not self.channels or min(self.shape[1:], default=8) < 8:
            raise ValueError(
                f"net=conv needs at least one of net.channels and sizes of at least 8, got {self.channels} "
                f"and {'×'.join(map(str, self.shape[1:]))}; for smaller data type net=mlp"
            )

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([self.shape[0] + extra, *self.channels]):
            if layers:
                layers += self._between(inputs)
            stride = 2 if self.down == "stride" else 1
            conv = layer("Conv", self.shape)(inputs, outputs, 3, stride=stride, padding=1, bias=self.bias)
            layers += [conv, activation(self.activation)]
            if self.down == "max_pool":
                layers += [layer("MaxPool", self.shape)(2, ceil_mode=True)]
        return Encoder(*layers, nn.Flatten(), nn.Linear(math.prod(self._last_map()), out_dim, self.bias))

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        layers: list[nn.Module] = [
            nn.Linear(in_dim, math.prod(self._last_map()), self.bias),
            nn.Unflatten(1, self._last_map()),
        ]
        sizes = halvings(self.shape, len(self.channels))
        for (inputs, outputs), size in zip(
            pairwise([*reversed(self.channels), maps * self.shape[0]]), reversed(sizes[:-1]), strict=True
        ):
            layers += [activation(self.activation)]
            if len(layers) > 3:
                layers += self._between(inputs)
            if self.up == "upsample":
                layers += [
                    nn.Upsample(size=size),
                    layer("Conv", self.shape)(inputs, outputs, 3, padding=1, bias=self.bias),
                ]
            else:
                # Without output padding n becomes 2n - 1. With it n becomes 2n. So every size is met exactly.
                more = tuple((n + 1) % 2 for n in size)
                up = layer("ConvTranspose", self.shape)
                layers += [up(inputs, outputs, 3, stride=2, padding=1, output_padding=more, bias=self.bias)]
        return nn.Sequential(*layers)

    def _between(self, channels: int) -> list[nn.Module]:
        conv = layer("Conv", self.shape)
        pairs = [
            (conv(channels, channels, 3, padding=1, bias=self.bias), activation(self.activation))
            for _ in range(self.between)
        ]
        return [module for pair in pairs for module in pair]

    def _last_map(self) -> tuple[int, ...]:
        return self.channels[-1], *halvings(self.shape, len(self.channels))[-1]
