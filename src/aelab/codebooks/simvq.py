"""A fixed codebook under one learned linear layer, so that all entries move together and none dies.

    entries = C W        C is drawn once from N(0, I / dim) and stays, W (dim, dim) is learned
    e       = the entry nearest to h
    loss    = |sg(h) - e|² + commitment_weight · |h - sg(e)|²        sg: no gradient

Zhu et al., Addressing representation collapse in vector quantized models with one linear layer, 2024, section 3.
https://arxiv.org/abs/2411.02038
"""

import torch
from torch import Tensor, nn

from aelab.codebooks.base import At, Choice, Nearest, squared, straight_through
from aelab.ranges import Count
from aelab.schedules import Scheduled


class SimVQ(Nearest):
    fixed: Tensor

    def __init__(self, dim: Count, size: Count, commitment_weight: Scheduled) -> None:
        super().__init__(size)
        self.commitment_weight = commitment_weight
        self.fixed = nn.Buffer(torch.randn(size, dim) / dim**0.5)
        self.linear = nn.Linear(dim, dim, bias=False)

    @property
    def entries(self) -> Tensor:  # type: ignore[override]
        moved: Tensor = self.linear(self.fixed)
        return moved

    def forward(self, h: Tensor, at: At) -> Choice:
        indices = self.choose(h)
        e = self.look_up(indices)
        commitment, codebook = squared(h, e.detach()), squared(h.detach(), e)
        loss = at(self.commitment_weight) * commitment + codebook
        return straight_through(e, h), indices, {"loss": loss, "commitment": commitment, "codebook": codebook}
