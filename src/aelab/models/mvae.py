"""Multimodal VAE: the posterior of any set of modalities is a product of experts, one of each modality.

    q(z | x, y) ∝ N(z; 0, I) q(z | x) q(z | y)            so q(z | x) alone is N(z; 0, I) times its expert
    B(S)  = E_q(z | S)[sum_{m in S} -w_m log p(m | z)] + beta · KL(q(z | S) || N(0, I)),  w_x = 1, w_y = `y_weight`
    loss  = B(x, y) + B(x) + B(y)                         one draw of z for each; nats per datum

Each step takes all three bounds, so that either modality can be encoded alone.

Wu & Goodman, Multimodal generative models for scalable weakly-supervised learning, 2018, equations 3 to 5.
https://arxiv.org/abs/1802.05335
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Normal, Terms, draw, kl, once
from aelab.models.modalities import Bimodal, product
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class MVAE(Bimodal):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        y_net: Net,
        y_reconstruction: Reconstruction,
        y_shape: Sequence[Count] | None,
        num_classes: Count | None,
        beta: Scheduled,
        y_weight: NonNegative,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, y_net, y_reconstruction, y_shape, num_classes)
        self.beta, self.y_weight = beta, y_weight

    @once
    def posterior(self, x: Tensor, y: Tensor | None = None) -> Normal:
        return product(super().posterior(x))

    def y_posterior(self, y: Tensor) -> Normal:
        return product(super().y_posterior(y))

    def both(self, x: Tensor, y: Tensor) -> Normal:
        return product(super().posterior(x), super().y_posterior(y))

    def loss(self, batch: Batch) -> Terms:
        x, y, beta = super().posterior(batch.seen), super().y_posterior(batch.y), self.at_step(self.beta)
        terms: Terms = {}
        for name, q in (("xy", product(x, y)), ("x", product(x)), ("y", product(y))):
            z, errors = draw(*q), []
            if "x" in name:
                errors.append(self.error(z, batch).mean())
                terms.setdefault("reconstruction", errors[0])  # of x from both
            if "y" in name:
                errors.append(self.y_weight * self.y_error(z, batch.y).mean())
            terms[f"bound_{name}"] = torch.stack(errors).sum() + beta * kl(*q).mean()
        return {"loss": terms["bound_xy"] + terms["bound_x"] + terms["bound_y"], **terms}
