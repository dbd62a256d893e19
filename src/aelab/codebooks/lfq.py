"""Lookup-free quantisation: each number of a vector becomes its sign, so a vector of b numbers is a word of b bits.

    e    = sign(h), with the gradient of h
    p    = softmax over the 2^b words c of -|h - c|² / temperature
    loss = commitment_weight · |h - sg(e)|² + entropy_weight · (E[H(p)] - diversity · H(E[p]))        sg: no gradient

E is the mean over the vectors of a batch. The first entropy makes each choice sure, the second makes all words used.
Both are in nats and summed over the vectors of a datum. The p of a word is a product over its bits.

Yu et al., Language model beats diffusion: tokenizer is key to visual generation, 2023, section 3.1.
https://arxiv.org/abs/2310.05737
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.codebooks.base import At, Choice, Projected, squared, straight_through
from aelab.errors import UserError
from aelab.ranges import Count, NonNegative, Positive
from aelab.schedules import Scheduled


class LFQ(Projected):
    """Raises UserError for a size that is no power of 2."""

    words: Tensor
    weights: Tensor

    def __init__(
        self,
        dim: Count,
        size: Count,
        commitment_weight: Scheduled,
        entropy_weight: Scheduled,
        diversity: NonNegative,
        temperature: Positive,
    ) -> None:
        bits = size.bit_length() - 1
        if size != 2**bits or not bits:
            raise UserError(f"codebook.size={size} must be a power of 2 for codebook=lfq: type codebook.size={2**bits}")
        super().__init__(dim, bits, size)
        self.commitment_weight, self.entropy_weight = commitment_weight, entropy_weight
        self.diversity, self.temperature = diversity, temperature
        self.weights = nn.Buffer(2 ** torch.arange(bits), persistent=False)
        self.words = nn.Buffer(self.points(torch.arange(size)), persistent=False)  # (size, bits)

    def forward(self, h: Tensor, at: At) -> Choice:
        z = self.into(h.movedim(1, -1))
        indices = self._indices(z)
        signs = self.points(indices[..., 0])
        commitment = squared(z, signs)
        sure, used = self.entropies(z.flatten(0, -2))
        entropy = z[0, ..., 0].numel() * (sure - self.diversity * used)
        loss = at(self.commitment_weight) * commitment + at(self.entropy_weight) * entropy
        e: Tensor = self.out_of(straight_through(signs, z))
        return e.movedim(-1, 1), indices, {"loss": loss, "commitment": commitment, "entropy": entropy}

    def entropies(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[H(p)] and H(E[p]) in nats, for vectors (N, bits)."""
        logits = 4 * z / self.temperature  # of a bit: |z + 1|² - |z - 1|² = 4 z
        on, off = F.logsigmoid(logits), F.logsigmoid(-logits)
        sure = -(on.exp() * on + off.exp() * off).sum(1).mean()
        log_p = on @ (self.words > 0).to(on).T + off @ (self.words < 0).to(off).T  # (N, size)
        return sure, torch.special.entr(log_p.exp().mean(0)).sum()

    def choose(self, h: Tensor) -> Tensor:
        return self._indices(self.into(h.movedim(1, -1)))

    def points(self, indices: Tensor) -> Tensor:
        return (indices[..., None] // self.weights % 2 * 2 - 1).to(torch.get_default_dtype())

    def _indices(self, z: Tensor) -> Tensor:
        return ((z > 0) * self.weights).sum(-1, keepdim=True)
