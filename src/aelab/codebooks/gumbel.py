"""A codebook whose entries are drawn: each vector gives a distribution over the entries.

    p    = softmax(linear(h)), over the K entries
    e    = the entry of argmax(log p + g), g drawn from Gumbel(0, 1)
    loss = kl_weight · KL(p || uniform),   KL = sum_k p_k log(p_k K)        nats, summed over the vectors of a datum

The gradient of e is that of the softmax of (log p + g) / temperature, which is the relaxed choice. With `kl_weight` = 1
the loss of a model with a likelihood is minus a bound of log p(x).

Jang, Gu & Poole, Categorical reparameterization with Gumbel-softmax, 2017, sections 2 and 2.2,
https://arxiv.org/abs/1611.01144; as a codebook: Ramesh et al., Zero-shot text-to-image generation, 2021, section 2.1,
https://arxiv.org/abs/2102.12092.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.codebooks.base import At, Choice, Codebook
from aelab.errors import UserError
from aelab.ranges import Count
from aelab.schedules import Scheduled


class Gumbel(Codebook):
    """Its forward pass raises UserError for a temperature that is not above 0."""

    def __init__(self, dim: Count, size: Count, kl_weight: Scheduled, temperature: Scheduled) -> None:
        super().__init__()
        self.size, self.kl_weight, self.temperature = size, kl_weight, temperature
        self.logits = nn.Linear(dim, size)
        self.entries = nn.Parameter(torch.randn(size, dim))

    def forward(self, h: Tensor, at: At) -> Choice:
        if (temperature := at(self.temperature)) <= 0:
            raise UserError(f"codebook.temperature={temperature:g} must be above 0, from its start to its end")
        log_p = self.logits(h.movedim(1, -1)).log_softmax(-1)  # (B, *sizes, K)
        chosen = F.gumbel_softmax(log_p, temperature, hard=True)
        kl = (log_p.exp() * (log_p + math.log(self.size))).flatten(1).sum(1).mean()
        e = (chosen @ self.entries).movedim(-1, 1)
        return e, chosen.argmax(-1, keepdim=True), {"loss": at(self.kl_weight) * kl, "kl": kl}

    def choose(self, h: Tensor) -> Tensor:
        indices: Tensor = self.logits(h.movedim(1, -1)).argmax(-1, keepdim=True)
        return indices

    def look_up(self, indices: Tensor) -> Tensor:
        return F.embedding(indices[..., 0], self.entries).movedim(-1, 1)
