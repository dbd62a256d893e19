"""Nets that predict each index of a sequence from those before it, for samplers over the indices of a codebook.

Without a state, a net maps indices (B, T) to logits (B, T + 1, size). The logits at place t predict index t from all
indices before t. With the state of an earlier call, it continues that sequence: one index (B, 1) gives the logits (B,
1, size) of the next.

`books` (T,) says which codebook each place belongs to. An index of another codebook is another symbol.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Logits = tuple[Tensor, Any]
"""Logits, and the state from which the sequence goes on."""


class NextIndex(nn.Module):
    """Wiring of such a net: `embed` gives the vectors (B, T, dim) of a start symbol and of the indices after it."""

    books: Tensor

    def __init__(self, size: int, books: Tensor, dim: int) -> None:
        super().__init__()
        self.size = size
        self.books = nn.Buffer(books, persistent=False)
        self.start = size * (int(books[-1]) + 1)
        self.embedding = nn.Embedding(self.start + 1, dim)

    def embed(self, indices: Tensor, place: int | None) -> Tensor:
        """Embed indices (B, T) of the places from `place` on. Without `place`, the start symbol comes before them."""
        books = self.books[place or 0 :][: indices.shape[1]]
        symbols = indices + self.size * books
        vectors: Tensor = self.embedding(F.pad(symbols, (1, 0), value=self.start) if place is None else symbols)
        return vectors

    def forward(self, indices: Tensor, state: Any = None) -> Logits:
        raise NotImplementedError(f"{type(self).__name__} predicts nothing")


class GRU(NextIndex):
    """A recurrent net of one layer."""

    def __init__(self, size: int, books: Tensor, dim: int) -> None:
        super().__init__(size, books, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.logits = nn.Linear(dim, size)

    def forward(self, indices: Tensor, state: Any = None) -> Logits:
        place, hidden = (None, None) if state is None else state
        out, hidden = self.gru(self.embed(indices, place), hidden)
        return self.logits(out), ((place or 0) + indices.shape[1], hidden)


class CausalTransformer(NextIndex):
    """A transformer in which each place attends to the places before it. Its state holds their keys and values.

    Blocks are those of Radford et al., Language models are unsupervised multitask learners, 2019, section 2.3.
    """

    def __init__(self, size: int, books: Tensor, dim: int, depth: int, heads: int) -> None:
        super().__init__(size, books, dim)
        self.places = nn.Parameter(0.02 * torch.randn(len(books) + 1, dim))
        self.blocks = nn.ModuleList(_Block(dim, heads) for _ in range(depth))
        self.logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, size))

    def forward(self, indices: Tensor, state: Any = None) -> Logits:
        place, memories = (None, [None] * len(self.blocks)) if state is None else state
        tokens = self.embed(indices, place)
        tokens = tokens + self.places[0 if place is None else place + 1 :][: tokens.shape[1]]
        kept = []
        for block, memory in zip(self.blocks, memories, strict=True):
            tokens, memory = block(tokens, memory)
            kept.append(memory)
        return self.logits(tokens), ((place or 0) + indices.shape[1], kept)


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * dim))
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor, memory: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.attention(tokens).chunk(3, 2))
        if memory is not None:
            k, v = (torch.cat([old, new], dim=2) for old, new in zip(memory, (k, v), strict=True))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=memory is None)
        tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
        return tokens + self.mlp(tokens), (k, v)
