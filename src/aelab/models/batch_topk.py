"""BatchTopK: of a batch of B data the k · B largest units survive, so that a hard datum may have more of them.

    z    = h where h is among the k B largest of the batch and positive, else 0;        h = encoder(seen)
    loss = reconstruction + aux_weight · auxiliary

In evaluation a datum stands alone: the units that reach the running mean of the least survivor survive.

Bussmann, Leask & Nanda, BatchTopK sparse autoencoders, 2024, section 3. https://arxiv.org/abs/2412.06410
"""

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Terms
from aelab.models.sparse_coder import Revived, Threshold
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction


class BatchTopK(Revived):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        k: Count,
        unit_norm: bool,
        pre_bias: bool,
        aux_weight: NonNegative,
        dead_after: Count,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, unit_norm, pre_bias, aux_weight, dead_after)
        if k > latent_dim:
            raise ValueError(f"model.k={k} must be between 1 and model.latent_dim={latent_dim}")
        self.k, self.threshold = k, Threshold()

    def sparse(self, h: Tensor) -> Tensor:
        if not self.training:
            return self.threshold(h)  # type: ignore[no-any-return]
        flat = h.relu().flatten()
        values, places = flat.topk(self.k * h.shape[0])
        return torch.zeros_like(flat).scatter(0, places, values).view_as(h)

    def loss(self, batch: Batch) -> Terms:
        h = self.pre_activations(batch.seen)
        z = self.sparse(h)
        if self.training:
            self.threshold.see(least(z))
        out = self.out(z, batch.y, batch.x)
        reconstruction = self.reconstruction.error(out, batch.x).mean()
        extra = self.auxiliary(h, z, out, batch)
        loss = reconstruction + self.aux_weight * extra.get("auxiliary", 0.0)
        return {"loss": loss, "reconstruction": reconstruction, "l0": (z != 0).float().sum(1).mean(), **extra}


def least(z: Tensor) -> Tensor:
    """Return the least positive value of codes, a scalar. It is nan if there is none."""
    positive = z.detach().masked_fill(z <= 0, torch.inf).min()
    return torch.where(positive.isinf(), torch.nan, positive)
