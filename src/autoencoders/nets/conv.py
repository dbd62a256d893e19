"""Strided convolutions down to the code, transposed convolutions back up: any height, width and channel count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from autoencoders.nets.base import activation


@dataclass(frozen=True)
class Conv:
    """One 3×3 convolution of stride 2 for each of `channels`; a linear layer between the last map and the code."""

    shape: tuple[int, int, int]
    channels: Sequence[int]
    activation: str

    def __post_init__(self) -> None:
        if not self.channels or min(self.shape[1:]) < 8:
            raise ValueError(
                f"net=conv needs at least one of net.channels and images of at least 8×8, got {self.channels} "
                f"and {self.shape[1]}×{self.shape[2]}; for smaller images type net=mlp"
            )

    def encoder(self, out_dim: int) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([self.shape[0], *self.channels]):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), activation(self.activation)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod(self._last_map()), out_dim))

    def decoder(self, in_dim: int) -> nn.Module:
        layers: list[nn.Module] = [
            nn.Linear(in_dim, math.prod(self._last_map())),
            nn.Unflatten(1, self._last_map()),
            activation(self.activation),
        ]
        for (inputs, outputs), (height, width) in zip(
            pairwise([*reversed(self.channels), self.shape[0]]), reversed(self._sizes()[:-1]), strict=True
        ):
            # 2n - 1 pixels without output padding, 2n with one row or column of it: every size is met exactly.
            padding = ((height + 1) % 2, (width + 1) % 2)
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=padding),
                activation(self.activation),
            ]
        return nn.Sequential(*layers[:-1])

    def _sizes(self) -> list[tuple[int, int]]:
        """Height and width of the image and of every map down to the last."""
        sizes = [(self.shape[1], self.shape[2])]
        for _ in self.channels:
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        return sizes

    def _last_map(self) -> tuple[int, int, int]:
        return self.channels[-1], *self._sizes()[-1]
