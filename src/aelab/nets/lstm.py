"""An LSTM that reads and writes a datum as a sequence along its first size: the steps of a signal, the rows of an
image, the frames or slices of a volume.

Hochreiter & Schmidhuber, Long short-term memory, 1997; sequence autoencoders of Srivastava et al., 2015. The cells
run in a loop, because torch's fused LSTM cannot be differentiated twice.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from aelab.nets.base import Net, joined


class Cells(nn.Module):
    """A stack of LSTM cells. Its state is the hidden and the cell vector of each layer, each (B, hidden_dim)."""

    def __init__(self, in_dim: int, hidden_dim: int, layers: int) -> None:
        super().__init__()
        widths = pairwise([in_dim, *[hidden_dim] * layers])
        self.cells = nn.ModuleList(nn.LSTMCell(inputs, outputs) for inputs, outputs in widths)

    def forward(self, x: Tensor, state: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        result = []
        for cell, before in zip(self.cells, state, strict=True):
            result.append(cell(x, before))
            x = result[-1][0]
        return result


class Encoder(nn.Module):
    """Maps data (B, C, *sizes) to (B, out_dim). A linear layer reads the hidden vector of the last layer and step."""

    def __init__(self, step: int, hidden_dim: int, layers: int, out_dim: int) -> None:
        super().__init__()
        self.cells, self.hidden_dim = Cells(step, hidden_dim, layers), hidden_dim
        self.code = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        x = joined(x, *extra)
        zero = x.new_zeros(x.shape[0], self.hidden_dim)
        state = [(zero, zero) for _ in self.cells.cells]
        for step in x.transpose(1, 2).flatten(2).unbind(1):
            state = self.cells(step, state)
        code: Tensor = self.code(state[-1][0])
        return code


class Decoder(nn.Module):
    """Maps codes (B, in_dim) to (B, C, *sizes). The code sets the first state, and is the input of every step."""

    def __init__(self, shape: tuple[int, ...], hidden_dim: int, layers: int, in_dim: int) -> None:
        super().__init__()
        self.shape = shape
        self.start = nn.Linear(in_dim, layers * hidden_dim)
        self.cells = Cells(in_dim, hidden_dim, layers)
        self.row = nn.Linear(hidden_dim, shape[0] * math.prod(shape[2:]))

    def forward(self, z: Tensor) -> Tensor:
        channels, steps, *sizes = self.shape
        state = [(hidden.tanh(), torch.zeros_like(hidden)) for hidden in self.start(z).chunk(len(self.cells.cells), 1)]
        rows = []
        for _ in range(steps):
            state = self.cells(z, state)
            rows.append(state[-1][0])
        out: Tensor = self.row(torch.stack(rows, 1))
        return out.view(-1, steps, channels, *sizes).transpose(1, 2)


@dataclass(frozen=True)
class LSTM(Net):
    """An LSTM encoder and decoder. Both have `layers` layers of `hidden_dim` cells."""

    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    shape: tuple[int, ...]
    hidden_dim: int
    layers: int

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        return Encoder((self.shape[0] + extra) * math.prod(self.shape[2:]), self.hidden_dim, self.layers, out_dim)

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        channels, *sizes = self.shape
        return Decoder((maps * channels, *sizes), self.hidden_dim, self.layers, in_dim)
