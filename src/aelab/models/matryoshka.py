"""Matryoshka sparse autoencoder: a BatchTopK whose first units are a smaller dictionary of their own.

    loss = sum over prefixes m of |x - x̂(z_1 … z_m)|² or another reconstruction  +  aux_weight · auxiliary

The prefixes are D, D / 2, D / 4, …, of a code of length D. Early units hold what is general, because each prefix must
explain the datum alone. So a general unit is not absorbed by the special ones below it.

Bussmann, Nabeshima, Karvonen & Nanda, Learning multi-level features with Matryoshka sparse autoencoders, 2025,
section 3. https://arxiv.org/abs/2503.17547
"""

import torch

from aelab.data.loader import Batch
from aelab.models.base import Terms
from aelab.models.batch_topk import BatchTopK, least
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction


class Matryoshka(BatchTopK):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        k: Count,
        levels: Count,
        unit_norm: bool,
        pre_bias: bool,
        aux_weight: NonNegative,
        dead_after: Count,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, k, unit_norm, pre_bias, aux_weight, dead_after)
        self.prefixes = sorted({max(1, latent_dim >> level) for level in range(levels)})

    def loss(self, batch: Batch) -> Terms:
        h = self.pre_activations(batch.seen)
        z = self.sparse(h)
        if self.training:
            self.threshold.see(least(z))
        units = torch.arange(self.latent_dim, device=z.device)
        outs = [self.out(torch.where(units < m, z, 0), batch.y, batch.x) for m in self.prefixes]
        errors = [self.reconstruction.error(out, batch.x).mean() for out in outs]
        extra = self.auxiliary(h, z, outs[-1], batch)
        loss = torch.stack(errors).sum() + self.aux_weight * extra.get("auxiliary", 0.0)
        return {"loss": loss, "reconstruction": errors[-1], "l0": (z != 0).float().sum(1).mean(), **extra}
