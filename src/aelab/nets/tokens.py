"""Any net of signals on tokens: each id becomes a vector, so a text is a signal of as many channels."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from aelab.nets.base import Net
from aelab.ranges import Count, Whole
from aelab.tokens import PADDING


class Encoder(nn.Module):
    """Maps ids (B, 1, T) to what the inner encoder gives for their vectors (B, dim, T). Padding is 0."""

    def __init__(self, vocabulary: int, dim: int, inner: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=PADDING)
        self.inner = inner

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        code: Tensor = self.inner(self.embedding(x[:, 0]).transpose(1, 2), *extra)
        return code


@dataclass(frozen=True)
class Tokens(Net):
    """An embedding of `dim` numbers per token around the net `inner`. A linear layer gives the logits of each token."""

    ranks: ClassVar[tuple[int, ...]] = (1,)
    domains: ClassVar[tuple[str, ...]] = ("tokens",)

    shape: tuple[Count, ...]
    vocabulary: Whole
    dim: Count
    inner: Net

    @property
    def code_sizes(self) -> tuple[int, ...]:
        return self._inner().code_sizes

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        return Encoder(self.vocabulary, self.dim, self._inner().encoder(out_dim, extra))

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        return nn.Sequential(self._inner().decoder(in_dim, 1), nn.Conv1d(self.dim, maps * self.shape[0], 1))

    def _inner(self) -> Net:
        return self.inner.at((self.dim, *self.shape[1:]))
