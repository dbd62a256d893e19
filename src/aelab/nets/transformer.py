"""A transformer from the patches of a datum to one code, and back.

A learned token collects the code, as in Dosovitskiy et al., An image is worth 16x16 words, 2021. In the decoder every
patch has a learned query, to which the code is added. If `patch_size` does not divide a size, data are padded, and the
output is cropped.

Positions and queries begin with deviation 1. With 0.02, the usual value of vision transformers, all queries are nearly
one vector at first, and a decoder of 128 steps stays at the mean for many epochs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.errors import Unsupported
from aelab.nets.base import Net, joined
from aelab.ranges import Count

EPSILON = 1e-6  # added to variances of patches, as by He et al.


class Block(nn.Module):
    """A transformer block on tokens (B, tokens, dim). It consists of self-attention and a two-layer net.

    Each of the two has a LayerNorm before it, and its output is added to its input.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm(tokens)
        # With need_weights, torch computes attention by operations that can be differentiated twice.
        tokens = tokens + self.attention(normed, normed, normed, need_weights=True)[0]
        out: Tensor = tokens + self.mlp(tokens)
        return out


class Encoder(nn.Module):
    def __init__(self, recipe: "Transformer", out_dim: int, extra: int) -> None:
        super().__init__()
        self.patch_size = recipe.patch_size
        self.embed = nn.Linear((recipe.shape[0] + extra) * recipe.values, recipe.dim)
        self.positions = nn.Parameter(torch.randn(1, 1 + math.prod(recipe.counts), recipe.dim))
        self.blocks = nn.Sequential(*(Block(recipe.dim, recipe.heads) for _ in range(recipe.depth)))
        self.code = nn.Sequential(nn.LayerNorm(recipe.dim), nn.Linear(recipe.dim, out_dim))

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        embedded = self.embed(patches(joined(x, *extra), self.patch_size))
        # The first token has no patch of its own, and collects the code.
        tokens = F.pad(embedded, (0, 0, 1, 0)) + self.positions
        code: Tensor = self.code(self.blocks(tokens)[:, 0])
        return code


class Decoder(nn.Module):
    def __init__(self, recipe: "Transformer", in_dim: int, maps: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.start = nn.Linear(in_dim, recipe.dim)
        self.queries = nn.Parameter(torch.randn(1, math.prod(recipe.counts), recipe.dim))
        self.blocks = nn.Sequential(*(Block(recipe.dim, recipe.heads) for _ in range(recipe.depth)))
        values = maps * recipe.shape[0] * recipe.values
        self.patch = nn.Sequential(nn.LayerNorm(recipe.dim), nn.Linear(recipe.dim, values))

    def forward(self, z: Tensor) -> Tensor:
        tokens = self.blocks(self.start(z)[:, None] + self.queries)
        return whole(self.patch(tokens), self.recipe.shape[1:], self.recipe.patch_size)


class Visible(nn.Module):
    """Maps data (B, C, *sizes), and the places (B, K) of patches that may be seen, to tokens of these (B, K, dim)."""

    def __init__(self, recipe: "Transformer") -> None:
        super().__init__()
        self.patch_size = recipe.patch_size
        self.embed = nn.Linear(recipe.shape[0] * recipe.values, recipe.dim)
        self.positions = nn.Parameter(torch.randn(1, math.prod(recipe.counts), recipe.dim))
        self.blocks = nn.Sequential(*(Block(recipe.dim, recipe.heads) for _ in range(recipe.depth)))
        self.norm = nn.LayerNorm(recipe.dim)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        seen = _at(patches(x, self.patch_size), kept)
        positions = _at(self.positions.expand(x.shape[0], -1, -1), kept)
        tokens: Tensor = self.norm(self.blocks(self.embed(seen) + positions))
        return tokens


class Filling(nn.Module):
    """Maps the tokens (B, K, in_dim) of the patches at places (B, K) to all patches of a datum (B, maps · C, *sizes).

    One learned token stands for each patch that has none.
    """

    def __init__(self, recipe: "Transformer", in_dim: int, maps: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.start = nn.Linear(in_dim, recipe.dim)
        self.hidden = nn.Parameter(torch.randn(1, 1, recipe.dim))
        self.positions = nn.Parameter(torch.randn(1, math.prod(recipe.counts), recipe.dim))
        self.blocks = nn.Sequential(*(Block(recipe.dim, recipe.heads) for _ in range(recipe.depth)))
        self.patch = nn.Sequential(
            nn.LayerNorm(recipe.dim), nn.Linear(recipe.dim, maps * recipe.shape[0] * recipe.values)
        )

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        started = self.start(tokens)
        every = self.hidden.expand(tokens.shape[0], self.positions.shape[1], -1).to(started.dtype)
        every = every.scatter(1, kept[..., None].expand_as(started), started)
        out = self.patch(self.blocks(every + self.positions))
        return whole(out, self.recipe.shape[1:], self.recipe.patch_size)


def patches(x: Tensor, size: int) -> Tensor:
    """Return the patches (B, N, C · size^rank) of data (B, C, *sizes), which are padded with zeros at the far edges."""
    return cut(F.pad(x, [n for length in reversed(x.shape[2:]) for n in (0, -length % size)]), size)


def whole(patches: Tensor, sizes: Sequence[int], size: int) -> Tensor:
    """Return the data (B, C, *sizes) of patches (B, N, C · size^rank), which is the inverse of `patches`."""
    x = joined_patches(patches, [-(-length // size) for length in sizes], size)
    for axis, length in enumerate(sizes, 2):
        x = x.narrow(axis, 0, length)
    return x


def normalised(x: Tensor, size: int) -> Tensor:
    """Return data (B, C, *sizes) of which each patch has mean 0 and deviation 1."""
    found = patches(x, size)
    variance, mean = torch.var_mean(found, dim=2, keepdim=True)
    return whole((found - mean) / (variance + EPSILON).sqrt(), x.shape[2:], size)


def visible_places(hidden: Tensor, size: int) -> Tensor:
    """Return the places (B, K) of the patches of which `hidden` (B, C, *sizes) hides nothing.

    Raises Unsupported if the data of a batch have unequal numbers of them, or none.
    """
    gone = patches(hidden[:, :1].float(), size).amax(2) > 0
    counts = gone.sum(1)
    if counts.min() != counts.max() or counts[0] == gone.shape[1]:
        raise Unsupported("model=masked wants as many visible patches in each datum: type noise=patches")
    return gone.long().argsort(dim=1, stable=True)[:, : gone.shape[1] - int(counts[0])]


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Return the values (B, K, D) at places (B, K) of (B, N, D)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def cut(x: Tensor, size: int) -> Tensor:
    """Return the patches (B, N, C · size^rank) of data (B, C, *sizes), whose sizes are multiples of `size`."""
    rank = x.ndim - 2
    x = x.reshape(*x.shape[:2], *(n for length in x.shape[2:] for n in (length // size, size)))
    return x.permute(0, *range(2, 2 * rank + 2, 2), 1, *range(3, 2 * rank + 3, 2)).flatten(rank + 1).flatten(1, rank)


def joined_patches(patches: Tensor, counts: Sequence[int], size: int) -> Tensor:
    """Return the data (B, C, *sizes) of patches (B, N, C · size^rank), which is the inverse of `cut`."""
    rank = len(counts)
    x = patches.reshape(patches.shape[0], *counts, -1, *[size] * rank)
    x = x.permute(0, rank + 1, *(axis for i in range(rank) for axis in (1 + i, rank + 2 + i)))
    return x.reshape(*x.shape[:2], *(count * size for count in counts))


@dataclass(frozen=True)
class Transformer(Net):
    """A transformer encoder and decoder of `depth` blocks each, with `heads` attention heads.

    Patches are `patch_size` long in every direction, and tokens have `dim` numbers.
    """

    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    shape: tuple[Count, ...]
    patch_size: Count
    dim: Count
    depth: Count
    heads: Count

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"net.dim={self.dim} must be a multiple of net.heads={self.heads}")

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of patches in each direction."""
        return tuple(-(-size // self.patch_size) for size in self.shape[1:])

    @property
    def values(self) -> int:
        """Number of values of one channel in a patch."""
        return int(self.patch_size ** (len(self.shape) - 1))

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        return Encoder(self, out_dim, extra)

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        return Decoder(self, in_dim, maps)

    def visible(self) -> Visible:
        """Return the encoder of a masked autoencoder."""
        return Visible(self)

    def filling(self, in_dim: int, maps: int) -> Filling:
        """Return the decoder of a masked autoencoder, for tokens of `in_dim` numbers."""
        return Filling(self, in_dim, maps)
