"""k-sparse autoencoder: of each code only the k largest units survive, the others are zero.

    z    = h where h is among the k largest of its image, else 0;        h = encoder(seen)
    loss = reconstruction + aux_weight · auxiliary

In evaluation `k_test` survive, which may be more: the paper finds 3 k better for a classifier on the codes. With
`threshold`, those above a running mean of the least survivor do, so that a code does not depend on its rank.

Makhzani & Frey, k-sparse autoencoders, 2014, algorithm 1. https://arxiv.org/abs/1312.5663
The auxiliary loss and the unit norm: Gao et al., Scaling and evaluating sparse autoencoders, 2024, section 2.
https://arxiv.org/abs/2406.04093
"""

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Terms
from aelab.models.sparse_coder import Revived, Threshold
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction


class TopK(Revived):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        k: Count,
        k_test: Count,
        threshold: bool,
        unit_norm: bool,
        pre_bias: bool,
        aux_weight: NonNegative,
        dead_after: Count,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, unit_norm, pre_bias, aux_weight, dead_after)
        for key, value in {"k": k, "k_test": k_test}.items():
            if not 1 <= value <= latent_dim:
                raise ValueError(f"model.{key}={value} must be between 1 and model.latent_dim={latent_dim}")
        self.k, self.k_test = k, k_test
        self.threshold = Threshold() if threshold else None

    def sparse(self, h: Tensor) -> Tensor:
        if self.threshold is not None and not self.training:
            return self.threshold(h)  # type: ignore[no-any-return]
        values, units = h.topk(self.k if self.training else self.k_test, dim=1)
        return torch.zeros_like(h).scatter(1, units, values)

    def loss(self, batch: Batch) -> Terms:
        h = self.pre_activations(batch.seen)
        z = self.sparse(h)
        out = self.out(z, batch.y, batch.x)
        reconstruction = self.reconstruction.error(out, batch.x).mean()
        if self.threshold is not None and self.training:
            self.threshold.see(h.detach().topk(self.k, dim=1).values[:, -1].mean())
        extra = self.auxiliary(h, z, out, batch)
        loss = reconstruction + self.aux_weight * extra.get("auxiliary", 0.0)
        return {"loss": loss, "reconstruction": reconstruction, **extra}
