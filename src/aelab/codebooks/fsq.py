"""Finite scalar quantisation: each number of a vector is rounded to one of a few levels. No codebook is learned.

    z_i = tanh(h_i + shift_i) · (L_i - 1) / 2 - offset_i        bounded, so that rounding gives L_i values
    e_i = round(z_i) / floor(L_i / 2)                           with the gradient of z_i
    loss = 0

`shift` and `offset` make z symmetric where L_i is even. All combinations of the `levels` L are the entries.

Mentzer et al., Finite scalar quantization: VQ-VAE made simple, 2023, section 3.1 and appendix A.1.
https://arxiv.org/abs/2309.15505
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aelab.codebooks.base import At, Choice, Projected, straight_through
from aelab.errors import UserError
from aelab.ranges import Count


class FSQ(Projected):
    """Raises UserError if a number has fewer than two levels."""

    levels: Tensor
    strides: Tensor

    def __init__(self, dim: Count, levels: Sequence[Count]) -> None:
        if min(levels, default=0) < 2:
            raise UserError(f"codebook.levels={list(levels)} must be two or more of each number, such as [8,5,5,5]")
        super().__init__(dim, len(levels), math.prod(levels))
        self.levels = nn.Buffer(torch.tensor(list(levels)), persistent=False)
        strides = [math.prod(levels[:i]) for i in range(len(levels))]
        self.strides = nn.Buffer(torch.tensor(strides), persistent=False)

    def bounded(self, h: Tensor) -> Tensor:
        """Map vectors (..., inner) into the ranges that rounding turns into levels."""
        half = (self.levels - 1) * (1 + 1e-3) / 2  # a little wider, so that the outer levels can be reached
        offset = 0.5 * (self.levels % 2 == 0)
        return (h + (offset / half).atanh()).tanh() * half - offset

    def forward(self, h: Tensor, at: At) -> Choice:
        z = self.bounded(self.into(h.movedim(1, -1)))
        steps = straight_through(z.round(), z)
        e: Tensor = self.out_of(steps / (self.levels // 2))
        return e.movedim(-1, 1), self._indices(z), {"loss": h.new_zeros(())}

    def choose(self, h: Tensor) -> Tensor:
        return self._indices(self.bounded(self.into(h.movedim(1, -1))))

    def points(self, indices: Tensor) -> Tensor:
        steps = indices[..., None] // self.strides % self.levels - self.levels // 2
        return steps / (self.levels // 2)

    def _indices(self, z: Tensor) -> Tensor:
        steps = z.detach().round().long() + self.levels // 2
        return (steps * self.strides).sum(-1, keepdim=True)
