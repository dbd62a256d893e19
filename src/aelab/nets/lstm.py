"""An LSTM that reads and writes an image as a sequence of its rows.

Hochreiter & Schmidhuber, Long short-term memory, 1997; sequence autoencoders of Srivastava et al., 2015. The cells
run in a loop, because torch's fused LSTM cannot be differentiated twice.
"""

from dataclasses import dataclass
from itertools import pairwise

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
    """Maps images (B, C, H, W) to (B, out_dim). A linear layer reads the hidden vector of the last layer and row."""

    def __init__(self, row: int, hidden_dim: int, layers: int, out_dim: int) -> None:
        super().__init__()
        self.cells, self.hidden_dim = Cells(row, hidden_dim, layers), hidden_dim
        self.code = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        x = joined(x, *extra)
        zero = x.new_zeros(x.shape[0], self.hidden_dim)
        state = [(zero, zero) for _ in self.cells.cells]
        for row in x.transpose(1, 2).flatten(2).unbind(1):
            state = self.cells(row, state)
        code: Tensor = self.code(state[-1][0])
        return code


class Decoder(nn.Module):
    """Maps codes (B, in_dim) to (B, C, H, W). The code sets the first state, and is the input of every row."""

    def __init__(self, shape: tuple[int, int, int], hidden_dim: int, layers: int, in_dim: int) -> None:
        super().__init__()
        self.shape = shape
        self.start = nn.Linear(in_dim, layers * hidden_dim)
        self.cells = Cells(in_dim, hidden_dim, layers)
        self.row = nn.Linear(hidden_dim, shape[0] * shape[2])

    def forward(self, z: Tensor) -> Tensor:
        channels, height, width = self.shape
        state = [(hidden.tanh(), torch.zeros_like(hidden)) for hidden in self.start(z).chunk(len(self.cells.cells), 1)]
        rows = []
        for _ in range(height):
            state = self.cells(z, state)
            rows.append(state[-1][0])
        out: Tensor = self.row(torch.stack(rows, 1))
        return out.view(-1, height, channels, width).transpose(1, 2)


@dataclass(frozen=True)
class LSTM(Net):
    """An LSTM encoder and decoder. Both have `layers` layers of `hidden_dim` cells."""

    shape: tuple[int, int, int]
    hidden_dim: int
    layers: int

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        return Encoder((self.shape[0] + extra) * self.shape[2], self.hidden_dim, self.layers, out_dim)

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        channels, height, width = self.shape
        return Decoder((maps * channels, height, width), self.hidden_dim, self.layers, in_dim)
