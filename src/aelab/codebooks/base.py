"""What every codebook shares. A codebook lets entries of a list stand for vectors.

It is built for vectors of `dim` numbers, and does not know where they come from. Its forward pass maps `h` (B, dim,
*sizes) to

- the entries that stand for the vectors, (B, dim, *sizes), with a gradient to `h`;
- their indices (B, *sizes, depth), each below `size`: `depth` indices name one vector;
- its terms of the loss, summed over the vectors of a datum and averaged over the batch. "loss" is the weighted sum that
  is minimised.

A weight may be a schedule. `at`, a method of the model, gives its value at this step.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from aelab.ranges import Count, Whole
from aelab.schedules import Scheduled

At = Callable[[Scheduled], float]
Choice = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Entries, indices, and terms of the loss."""


class Codebook(nn.Module):
    size: int
    """Number of values of an index."""
    depth: int = 1
    """Number of indices that name one vector."""

    def forward(self, h: Tensor, at: At) -> Choice:
        """Return entries (B, dim, *sizes), indices (B, *sizes, depth) and terms for vectors `h` (B, dim, *sizes)."""
        raise NotImplementedError(f"{type(self).__name__} chooses no entries")

    def choose(self, h: Tensor) -> Tensor:
        """Return the indices (B, *sizes, depth) of vectors (B, dim, *sizes), without randomness."""
        raise NotImplementedError(f"{type(self).__name__} has no indices")

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the entries (B, dim, *sizes) of indices (B, *sizes, depth)."""
        raise NotImplementedError(f"{type(self).__name__} has no entries")


class Nearest(Codebook):
    """Wiring of a codebook from which a vector takes the nearest of the `entries`, (size, dim)."""

    entries: Tensor

    def __init__(self, size: Count) -> None:
        super().__init__()
        self.size = size

    def choose(self, h: Tensor) -> Tensor:
        entries = self.entries.detach()
        mode = "use_mm_for_euclid_dist"  # by default it depends on the batch, which no exported program may
        indices: Tensor = torch.cdist(rows(h).to(entries.dtype), entries, compute_mode=mode).argmin(1)
        return indices.view(h.shape[0], *h.shape[2:], 1)

    def look_up(self, indices: Tensor) -> Tensor:
        return F.embedding(indices[..., 0], self.entries).movedim(-1, 1)


class Revived(Nearest):
    """Wiring of a codebook that moves idle entries.

    An entry that no vector chose for `revive_after` training steps is moved to a vector of the batch. In the first step
    all entries are moved, so that the codebook begins where the codes are. If `revive_after` is 0, no entry is moved.
    """

    idle: Tensor

    def __init__(self, size: Count, revive_after: Whole) -> None:
        super().__init__(size)
        self.revive_after = revive_after
        self.idle = nn.Buffer(torch.full((size,), revive_after))  # steps since an entry was chosen

    @torch.no_grad()
    def revive(self, h: Tensor) -> Tensor | None:
        """Move idle entries to vectors of `h` that are drawn at random. Return which were moved, (size,) or None."""
        if not self.revive_after:
            return None
        vectors = rows(h).to(self.entries.dtype)
        drawn = vectors[torch.randint(len(vectors), (self.size,), device=h.device)]
        if distributed.is_initialized():
            distributed.broadcast(drawn, 0)
        dead = self.idle >= self.revive_after
        self.entries.copy_(torch.where(dead[:, None], drawn, self.entries))
        self.idle.masked_fill_(dead, 0)
        return dead

    @torch.no_grad()
    def count(self, indices: Tensor) -> Tensor:
        """Take note of the choices of a training step. Return how often each entry was chosen, (size,)."""
        n = torch.bincount(indices.flatten(), minlength=self.size)
        if distributed.is_initialized():
            distributed.all_reduce(n)
        self.idle.copy_(torch.where(n > 0, 0, self.idle + 1))
        return n


def rows(h: Tensor) -> Tensor:
    """Return the vectors (N, dim) of maps (B, dim, *sizes), without a gradient."""
    return h.detach().movedim(1, -1).flatten(0, -2)


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of maps (B, dim, *sizes), summed over a datum and averaged over the batch."""
    return (a - b).square().flatten(1).sum(1).mean()


def straight_through(e: Tensor, h: Tensor) -> Tensor:
    """Return `e` with the gradient of `h`: what reaches the entries passes on to the vectors as it is."""
    return h + (e - h).detach()


class Projected(Codebook):
    """Wiring of a codebook whose entries are the points of a grid of `inner` numbers.

    Linear layers lead from `dim` numbers to the grid and back, unless `dim` is `inner`.
    """

    def __init__(self, dim: int, inner: int, size: Count) -> None:
        super().__init__()
        self.size = size
        self.into = nn.Linear(dim, inner) if dim != inner else nn.Identity()
        self.out_of = nn.Linear(inner, dim) if dim != inner else nn.Identity()

    def points(self, indices: Tensor) -> Tensor:
        """Return the points (..., inner) of indices (...)."""
        raise NotImplementedError(f"{type(self).__name__} has no grid")

    def look_up(self, indices: Tensor) -> Tensor:
        e: Tensor = self.out_of(self.points(indices[..., 0]))
        return e.movedim(-1, 1)
