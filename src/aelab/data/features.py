"""Generated data of a known dictionary: each datum is a sum of a few features, which a sparse coder should find again.

    x = sum_i a_i f_i        f_i (F,) the features, of norm 1;  a_i ≥ 0, most of them 0

Feature i of N fires with probability p_i = `p` · i^-`zipf`, and then a_i is N(`magnitude`, `magnitude_std`²), at
least 0. Data are drawn anew in every epoch, as activations of a large model are never seen twice. Validation and test
data are always the same.

`correlation` ρ ties the features of a block of `block` to each other: feature i fires if
Φ(sqrt(ρ) e_block + sqrt(1 - ρ) e_i) < p_i, with all e normal. Each keeps its p_i.

`children` and `depth` make a forest. The first features are roots, and each has `children` children, which have
children, down to `depth` levels. A child is off if its parent is off, and else it fires with p_i / p_parent, at most 1,
so that each keeps its p_i where p falls. With `exclusive` at most one child of a parent is on, drawn from those that
would be, and children fire less often than p_i.

The parts are those of Chanin & Garriga-Alonso, SynthSAEBench: evaluating sparse autoencoders on scalable realistic
synthetic data, 2026. https://arxiv.org/abs/2602.14687
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from aelab import randomness
from aelab.data.base import DataModule
from aelab.data.loader import Items
from aelab.errors import UserError
from aelab.ranges import Count, NonNegative, ProperShare, ShareBelow1, Whole

ROUNDS = 200  # of gradient descent that lowers the cosines of features


@dataclass(eq=False, kw_only=True)
class Features(DataModule):
    """Raises UserError for data that are no vectors, and for a forest that has no more than its roots."""

    features: Count
    """N."""
    p: ProperShare
    zipf: NonNegative
    magnitude: NonNegative
    magnitude_std: NonNegative
    correlation: ShareBelow1
    block: Count
    children: Whole
    """Number of children of a feature. 0: there is no forest."""
    depth: Count
    """Number of levels of the forest, with that of the roots."""
    exclusive: bool
    data: Count
    """Number of data of an epoch, of which validation is a part. Test data are as many as `test_data`."""
    test_data: Count
    dictionary_seed: Whole
    """Seed of the features. It is not the run's seed, so runs that differ in seed look for the same features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 1:
            raise UserError(f"data.shape={list(self.shape)} is the shape of no vector: type data.shape=[32]")
        if self.children and self.features <= self._roots():
            raise UserError(
                f"data.children={self.children} data.depth={self.depth} leave no child for {self.features} features: "
                "type a depth of at least 2, or more features"
            )

    def read(self, train: bool) -> tuple[Items, Tensor]:
        n = self.data if train else self.test_data
        return torch.zeros(1).expand(n, 1), torch.zeros(n, dtype=torch.long)  # only their number matters

    def identify(self, read: Sequence[tuple[Items, Tensor]]) -> str:
        first = self.draw(100, randomness.generator("cpu", "features"))
        numbers = repr((self.data, self.test_data, self.mixed(first).tolist(), first.tolist()))
        return hashlib.sha256(numbers.encode()).hexdigest()[:16]

    def target(self, items: Tensor, generator: Generator) -> Tensor:
        return self.mixed(self.draw(len(items), generator))

    def mixed(self, a: Tensor) -> Tensor:
        """Return the data (B, F) of activations (B, N) of the features."""
        return a @ self.dictionary.to(a)

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Return the activations (n, N) of the features of `n` new data, on the device of the generator."""
        device = generator.device
        if self.correlation:
            e = torch.randn(n, self.features, generator=generator, device=device)
            shared = torch.randn(n, math.ceil(self.features / self.block), generator=generator, device=device)
            shared = shared.repeat_interleave(self.block, 1)[:, : self.features]
            u = torch.special.ndtr(math.sqrt(self.correlation) * shared + math.sqrt(1 - self.correlation) * e)
        else:
            u = torch.rand(n, self.features, generator=generator, device=device)
        p = self.given_parents.to(u)
        on = u < p
        if self.children:
            on = self._in_forest(on, u / p)
        a = torch.zeros_like(u)
        size = torch.randn(int(on.sum()), generator=generator, device=device)
        a[on] = (self.magnitude + self.magnitude_std * size).relu()
        return a

    @cached_property
    def probabilities(self) -> Tensor:
        """(N,): p_i."""
        rank = torch.arange(1, self.features + 1).float()
        p: Tensor = self.p * rank**-self.zipf
        return p

    @cached_property
    def given_parents(self) -> Tensor:
        """(N,): with which a feature fires if its parent does."""
        p = self.probabilities
        if self.children:
            p = torch.where(self.parents < 0, p, (p / p[self.parents.clamp_min(0)]).clamp_max(1))
        return p

    @cached_property
    def parents(self) -> Tensor:
        """(N,): the parent of each feature in the forest, or -1 of a root."""
        roots = self._roots()
        parents = torch.full((self.features,), -1)
        after = torch.arange(roots, self.features)
        parents[roots:] = (after - roots) // self.children
        return parents

    @cached_property
    def dictionary(self) -> Tensor:
        """(N, F): the features. They are orthogonal if N ≤ F, and else as little alike as descent makes them."""
        (width,) = self.shape
        g = randomness.generator("cpu", "features", self.dictionary_seed)
        f = torch.randn(self.features, width, generator=g)
        if self.features <= width:
            orthogonal: Tensor = torch.linalg.qr(f.T)[0].T.contiguous()
            return orthogonal
        f = torch.nn.functional.normalize(f, dim=1)
        for _ in range(ROUNDS):  # of the sum of squared cosines, whose gradient by f is 4 (f fᵀ - 1) f
            cosines = f @ f.T - torch.eye(self.features)
            f = torch.nn.functional.normalize(f - 0.5 * width / self.features * cosines @ f, dim=1)
        return f

    def _roots(self) -> int:
        """Return the number of roots. Features that would make no whole tree more become children below the others."""
        size = sum(int(self.children**level) for level in range(self.depth))
        return max(1, self.features // size)

    def _in_forest(self, on: Tensor, order: Tensor) -> Tensor:
        """Return which features are on (B, N) if a child needs its parent.

        `order` (B, N) says which of several siblings stays: the one of the least number.
        """
        parents = self.parents.to(on.device)
        children = parents >= 0
        if self.exclusive:
            index = parents.clamp_min(0).expand_as(order)
            order = order.masked_fill(~(on & children), torch.inf)
            least = torch.full_like(order, torch.inf).scatter_reduce(1, index, order, "amin")
            on = on & (~children | (order == least.gather(1, index)))
        start = self._roots()
        while start < self.features:  # level by level, because a parent may be a child too
            end = start + int((parents[start:] < start).sum())
            on[:, start:end] &= on[:, parents[start:end]]
            start = end
        return on
