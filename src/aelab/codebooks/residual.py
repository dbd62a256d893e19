"""Codebooks in a row: each quantises what the ones before it left over.

    r_1 = h        e_i = the entry of codebook i for r_i        r_{i+1} = r_i - e_i
    e   = e_1 + ... + e_depth
    loss = the terms of all codebooks

Each codebook is one of nearest entries, and its terms are those of its own file. The gradient of e passes straight
through to h.

Zeghidour et al., SoundStream, 2021, section III.C, https://arxiv.org/abs/2107.03312; Lee et al., Autoregressive image
generation using residual quantization, 2022, equations 2-7, https://arxiv.org/abs/2203.01941.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from aelab.codebooks.base import At, Choice, Codebook, Nearest
from aelab.errors import UserError
from aelab.ranges import Count


class Residual(Codebook):
    """Raises UserError for a codebook whose gradient does not pass straight through."""

    def __init__(self, dim: Count, depth: Count, part: Callable[..., Codebook]) -> None:
        super().__init__()
        self.depth = depth
        parts = [part(dim=dim) for _ in range(depth)]
        if not isinstance(parts[0], Nearest):
            raise UserError("codebook=residual takes nearest entries: type codebook@codebook.part=ema, loss or simvq")
        self.parts, self.size = nn.ModuleList(parts), parts[0].size

    @property
    def _parts(self) -> list[Codebook]:
        return cast(list[Codebook], list(self.parts))

    def forward(self, h: Tensor, at: At) -> Choice:
        rest, indices, terms = h, [], dict[str, Tensor]()
        for part in self._parts:
            e, chosen, more = part(rest, at)
            rest = rest - e.detach()
            indices.append(chosen)
            terms = {name: terms.get(name, 0) + value for name, value in more.items()}
        return h - rest.detach(), torch.cat(indices, dim=-1), terms

    def choose(self, h: Tensor) -> Tensor:
        rest, indices = h, list[Tensor]()
        for part in self._parts:
            indices.append(part.choose(rest))
            rest = rest - part.look_up(indices[-1])
        return torch.cat(indices, dim=-1)

    def look_up(self, indices: Tensor) -> Tensor:
        parts = zip(self._parts, indices.split(1, dim=-1), strict=True)
        return torch.stack([part.look_up(chosen) for part, chosen in parts]).sum(0)
