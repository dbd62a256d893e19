"""A codebook that a term of the loss draws to the vectors.

    e    = the entry nearest to h
    loss = |sg(h) - e|² + commitment_weight · |h - sg(e)|²        sg: no gradient

Without revival of idle entries, few entries are used in the end, because one that no vector chooses never moves.

van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation learning, 2017, equation 3.
https://arxiv.org/abs/1711.00937
"""

from typing import Any

import torch
from torch import Tensor, nn

from aelab.codebooks.base import At, Choice, Revived, squared, straight_through
from aelab.ranges import Count, Whole
from aelab.schedules import Scheduled


class Loss(Revived):
    def __init__(self, dim: Count, size: Count, commitment_weight: Scheduled, revive_after: Whole) -> None:
        super().__init__(size, revive_after)
        self.commitment_weight = commitment_weight
        self.entries = nn.Parameter(torch.randn(size, dim))

    def forward(self, h: Tensor, at: At) -> Choice:
        if self.training:
            self.revive(h)
        indices = self.choose(h)
        e = self.look_up(indices)
        if self.training:
            self.count(indices)
        commitment, codebook = squared(h, e.detach()), squared(h.detach(), e)
        loss = at(self.commitment_weight) * commitment + codebook
        return straight_through(e, h), indices, {"loss": loss, "commitment": commitment, "codebook": codebook}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name in ("counts", "totals"):  # runs before version 10 kept running means that nothing read
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
