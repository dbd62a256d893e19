"""An LSTM that reads and writes a datum as a sequence along its first size: the steps of a signal, the rows of an
image, the frames or slices of a volume.

Hochreiter & Schmidhuber, Long short-term memory, 1997; sequence autoencoders of Srivastava et al., 2015. The cells
run in a loop, because cuDNN's LSTM cannot be differentiated twice.

A decoder that sees the code alone must count its steps, and for a hundred of them it learns only the average. So a
learned vector tells it where it is, and both read and write `patch_size` steps at once. The encoder's code is read from
all steps, because padding follows the end of a short series.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.nets.base import Net, joined
from aelab.ranges import Count, Whole


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
    """Maps data (B, C, *sizes) to (B, out_dim). A linear layer reads the hidden vector of the last layer and step.

    If `pooled`, it also reads the greatest value of each number of the hidden vectors over the steps.
    """

    def __init__(self, recipe: "LSTM", out_dim: int, extra: int) -> None:
        super().__init__()
        self.patch_size, self.hidden_dim = recipe.patch_size, recipe.hidden_dim
        width = recipe.patch_size * (recipe.shape[0] + extra) * math.prod(recipe.shape[2:])
        self.cells = Cells(width, recipe.hidden_dim, recipe.layers)
        self.pooled = recipe.pooled
        self.code = nn.Linear((1 + recipe.pooled) * recipe.hidden_dim, out_dim)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        x = joined(x, *extra)
        zero = x.new_zeros(x.shape[0], self.hidden_dim)
        state = [(zero, zero) for _ in self.cells.cells]
        hidden: list[Tensor] = []
        steps = x.transpose(1, 2).flatten(2)
        steps = F.pad(steps, (0, 0, 0, -steps.shape[1] % self.patch_size))
        for step in steps.reshape(steps.shape[0], -1, self.patch_size * steps.shape[2]).unbind(1):
            state = self.cells(step, state)
            hidden.append(state[-1][0])
        read = [hidden[-1], *([torch.stack(hidden).amax(0)] if self.pooled else [])]
        code: Tensor = self.code(torch.cat(read, 1))
        return code


class Decoder(nn.Module):
    """Maps codes (B, in_dim) to (B, C, *sizes). The code sets the first state, and is the input of every step."""

    def __init__(self, recipe: "LSTM", in_dim: int, maps: int) -> None:
        super().__init__()
        channels, self.length, *self.sizes = recipe.shape
        self.channels, self.patch_size = maps * channels, recipe.patch_size
        self.start = nn.Linear(in_dim, recipe.layers * recipe.hidden_dim)
        self.steps = -(-self.length // recipe.patch_size)
        self.positions = nn.Parameter(torch.randn(self.steps, recipe.positions)) if recipe.positions else None
        self.cells = Cells(in_dim + recipe.positions, recipe.hidden_dim, recipe.layers)
        self.row = nn.Linear(recipe.hidden_dim, recipe.patch_size * self.channels * math.prod(self.sizes))

    def forward(self, z: Tensor) -> Tensor:
        state = [(hidden.tanh(), torch.zeros_like(hidden)) for hidden in self.start(z).chunk(len(self.cells.cells), 1)]
        rows = []
        for step in range(self.steps):
            where = [] if self.positions is None else [self.positions[step].expand(z.shape[0], -1)]
            state = self.cells(torch.cat([z, *where], 1), state)
            rows.append(state[-1][0])
        out: Tensor = self.row(torch.stack(rows, 1))
        out = out.reshape(z.shape[0], self.steps * self.patch_size, self.channels, *self.sizes)[:, : self.length]
        return out.transpose(1, 2)


@dataclass(frozen=True)
class LSTM(Net):
    """An LSTM encoder and decoder. Both have `layers` layers of `hidden_dim` cells."""

    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    shape: tuple[Count, ...]
    hidden_dim: Count
    layers: Count
    patch_size: Count
    """Steps that are read and written at once."""
    positions: Whole
    """Length of the learned vector that tells the decoder its step. 0: none."""
    pooled: bool
    """Whether the code is read from all steps, or from the last one alone."""

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        return Encoder(self, out_dim, extra)

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        return Decoder(self, in_dim, maps)
