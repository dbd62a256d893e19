"""A codebook of vectors. It finds the vector of an index, and the index of the nearest vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn


class Codebook(nn.Module):
    """A codebook of `size` entries of `dim` numbers. A vector chooses the entry that is nearest to it.

    With `ema`, each entry is the running mean of the vectors that chose it, and `decay` is the decay of that mean.
    Without `ema`, the entries are parameters. An entry that no vector chose for `revive_after` training steps is moved
    to a vector of the batch. In the first step all entries are moved, so that the codebook begins where the codes are.
    If `revive_after` is 0, no entry is moved.
    """

    entries: Tensor
    counts: Tensor
    totals: Tensor
    idle: Tensor

    def __init__(self, size: int, dim: int, ema: bool, decay: float, revive_after: int) -> None:
        super().__init__()
        self.ema, self.decay, self.revive_after = ema, decay, revive_after
        entries = torch.randn(size, dim)
        self.entries = nn.Buffer(entries) if ema else nn.Parameter(entries)
        self.counts = nn.Buffer(torch.ones(size))  # running number of vectors that chose each entry
        self.totals = nn.Buffer(entries.clone())  # running sum of those vectors
        self.idle = nn.Buffer(torch.full((size,), revive_after))  # steps since an entry was chosen

    def forward(self, indices: Tensor) -> Tensor:
        """Return the entries (B, dim, h, w) of indices (B, h, w)."""
        return F.embedding(indices, self.entries).movedim(-1, 1)

    def nearest(self, h: Tensor) -> Tensor:
        """Return the indices (B, h, w) of the entries that are nearest to the vectors of `h`, (B, dim, h, w)."""
        mode = "use_mm_for_euclid_dist"  # by default it depends on the batch, which no exported program may
        indices: Tensor = torch.cdist(self._vectors(h), self.entries.detach(), compute_mode=mode).argmin(1)
        return indices.view(h.shape[0], *h.shape[2:])

    @torch.no_grad()
    def revive(self, h: Tensor) -> None:
        """Move each entry that was idle for `revive_after` steps to a vector of `h`, which is drawn at random."""
        if not self.revive_after:
            return
        vectors = self._vectors(h)
        chosen = vectors[torch.randint(len(vectors), (len(self.entries),), device=h.device)]
        if distributed.is_initialized():
            distributed.broadcast(chosen, 0)
        dead = self.idle >= self.revive_after
        for kept, fresh in ((self.entries, chosen), (self.totals, chosen), (self.counts, torch.ones_like(self.counts))):
            kept.copy_(torch.where(dead.view(-1, *[1] * (kept.ndim - 1)), fresh, kept))
        self.idle.masked_fill_(dead, 0)

    @torch.no_grad()
    def follow(self, h: Tensor, indices: Tensor) -> None:
        """Count the choices of a training step. With `ema`, update each entry to its running mean."""
        n = torch.bincount(indices.flatten(), minlength=len(self.entries)).to(self.counts)
        sums = torch.zeros_like(self.totals).index_add_(0, indices.flatten(), self._vectors(h))
        if distributed.is_initialized():
            distributed.all_reduce(n)
            distributed.all_reduce(sums)
        self.idle.copy_(torch.where(n > 0, 0, self.idle + 1))
        if self.ema:
            self.counts.lerp_(n, 1 - self.decay)
            self.totals.lerp_(sums, 1 - self.decay)
            self.entries.copy_(self.totals / self.counts.clamp_min(1e-5)[:, None])

    def _vectors(self, h: Tensor) -> Tensor:
        return h.detach().movedim(1, -1).flatten(0, -2).to(self.entries.dtype)
