"""Ladder VAE: what the datum says of a level and what the levels above say of it are merged by their precisions.

    f_1 = encoder(seen), f_i = up_i(f_{i-1})                        bottom-up, without randomness
    p(z_L) = N(0, I),  p(z_i | z_{i+1}) = N(m_i, exp v_i) of down_i(z_{i+1})
    N(a_i, exp b_i) of f_i                                          what the datum says
    q(z_i | z_{>i}, x) = N((a_i e^-b_i + m_i e^-v_i) s_i, s_i),  s_i = 1 / (e^-b_i + e^-v_i)      q_L = N(a_L, exp b_L)
    loss = E_q[-log p(x | z_1)] + beta · sum_i KL(q_i || p_i)       nats per datum

With `inference: bottom_up` it is the VAE of several layers that the paper compares with: q(z_1 | x), q(z_i | z_{i-1}),
each drawn before the next, and nothing is merged. Without a warm-up its upper levels tend to die.

With `beta` = 1 the loss is minus the bound. A warm-up (+schedule@model.beta=linear) keeps levels alive.

Sønderby, Raiko, Maaløe, Sønderby & Winther, Ladder variational autoencoders, 2016, equations 6 to 19.
https://arxiv.org/abs/1602.02282
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Normal, Terms, draw, once
from aelab.models.hierarchical import Hierarchical, Level, normal, pointwise, terms
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class LadderVAE(Hierarchical):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        above: Net,
        latent_dims: Sequence[Count],
        widths: Sequence[Count],
        between: str,
        beta: Scheduled,
        inference: Literal["ladder", "bottom_up"],
    ) -> None:
        super().__init__(net, reconstruction, above, latent_dims, widths, between, inference == "bottom_up")
        self.beta, self.inference = beta, inference
        pairs = list(zip(self.widths, latent_dims, strict=True))
        self.heads = nn.ModuleList(pointwise(width, 2 * dim) for width, dim in pairs)
        self.decoder = net.decoder(latent_dims[0], reconstruction.maps)
        self.fall = nn.ModuleList(
            recipe.decoder(dim, 1) for recipe, dim in zip(self.down, latent_dims[1:], strict=True)
        )
        self.priors = nn.ModuleList(pointwise(width, 2 * dim) for width, dim in pairs[:-1])

    def descend(self, choose: Callable[..., Tensor], n: int) -> Tensor:
        m = v = torch.zeros(n, *self.shapes[-1], device=self.device, dtype=next(self.parameters()).dtype)
        for i in reversed(range(len(self.shapes))):
            z = choose(i, (m, v))
            if i:
                m, v = normal(self.priors[i - 1](self.between(self.fall[i - 1](z))))
        return z

    def infer(self, i: int, f: Tensor, p: Normal, *state: Tensor) -> Normal:
        a, b = normal(self.heads[i](self.between(f)))
        if i == len(self.shapes) - 1:
            return a, b
        m, v = p
        return torch.lerp(m, a, (v - b).sigmoid()), -torch.logaddexp(-b, -v)

    @once
    def levels(self, x: Tensor, k: int = 1, drawn: bool = True) -> tuple[Tensor, list[Level]]:
        if self.inference == "ladder":
            return super().levels(x, k, drawn)
        f = self.encoder(x)
        f, zs, qs, ps = f.repeat(k, *[1] * (f.ndim - 1)), list[Tensor](), list[Normal](), list[Normal]()
        for i, head in enumerate(self.heads):
            f = self.rise[i - 1](zs[-1]) if i else f
            qs.append(normal(head(self.between(f))))
            zs.append(draw(*qs[-1]) if drawn else qs[-1][0])

        def choose(i: int, p: Normal) -> Tensor:
            ps.append(p)
            return zs[i]

        h = self.descend(choose, k * x.shape[0])
        return h, [Level(*level) for level in zip(zs, qs, reversed(ps), strict=True)]

    def loss(self, batch: Batch) -> Terms:
        reconstruction, kl = self.bound(batch)
        return terms(reconstruction, kl, reconstruction + self.at_step(self.beta) * kl.sum())
