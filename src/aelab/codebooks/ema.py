"""A codebook of running means: each entry follows the vectors that chose it, and no gradient moves it.

    e      = the entry nearest to h
    n, s   = number and sum of the vectors that chose an entry, as running means of decay `decay`
    entry  = s / n
    loss   = commitment_weight · |h - sg(e)|²        sg: no gradient

van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation learning, 2017, appendix A.1,
https://arxiv.org/abs/1711.00937; revival of idle entries: Dhariwal et al., Jukebox, 2020, section 3.1,
https://arxiv.org/abs/2005.00341.
"""

import torch
from torch import Tensor, distributed, nn

from aelab.codebooks.base import At, Choice, Revived, rows, squared, straight_through
from aelab.ranges import Count, Share, Whole
from aelab.schedules import Scheduled


class EMA(Revived):
    counts: Tensor
    totals: Tensor

    def __init__(
        self, dim: Count, size: Count, commitment_weight: Scheduled, decay: Share, revive_after: Whole
    ) -> None:
        super().__init__(size, revive_after)
        self.commitment_weight, self.decay = commitment_weight, decay
        self.entries = nn.Buffer(torch.randn(size, dim))
        self.counts = nn.Buffer(torch.ones(size))  # running number of vectors that chose each entry
        self.totals = nn.Buffer(self.entries.clone())  # running sum of those vectors

    def forward(self, h: Tensor, at: At) -> Choice:
        if self.training:
            self.revive(h)
        indices = self.choose(h)
        e = self.look_up(indices)
        if self.training:
            self.follow(h, indices)
        commitment = squared(h, e)
        terms = {"loss": at(self.commitment_weight) * commitment, "commitment": commitment}
        return straight_through(e, h), indices, terms

    def revive(self, h: Tensor) -> Tensor | None:
        dead = super().revive(h)
        if dead is not None:
            self.totals.copy_(torch.where(dead[:, None], self.entries, self.totals))
            self.counts.masked_fill_(dead, 1)
        return dead

    @torch.no_grad()
    def follow(self, h: Tensor, indices: Tensor) -> None:
        """Update each entry to the running mean of the vectors that chose it."""
        n = self.count(indices).to(self.counts)
        sums = torch.zeros_like(self.totals).index_add_(0, indices.flatten(), rows(h).to(self.totals))
        if distributed.is_initialized():
            distributed.all_reduce(sums)
        self.counts.lerp_(n, 1 - self.decay)
        self.totals.lerp_(sums, 1 - self.decay)
        self.entries.copy_(self.totals / self.counts.clamp_min(1e-5)[:, None])
