"""k-sparse autoencoder: of each code only the k largest units survive, the others are zero.

    z    = h where h is among the k largest of its image, else 0;        h = encoder(seen)
    loss = reconstruction

In evaluation `k_test` survive, which may be more: the paper finds 3 k better for a classifier on the codes.

Makhzani & Frey, k-sparse autoencoders, 2014, algorithm 1. https://arxiv.org/abs/1312.5663
"""

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms, once
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction


class TopK(Autoencoder):
    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: Count, k: Count, k_test: Count) -> None:
        super().__init__(net, reconstruction, latent_dim)
        for key, value in {"k": k, "k_test": k_test}.items():
            if not 1 <= value <= latent_dim:
                raise ValueError(f"model.{key}={value} must be between 1 and model.latent_dim={latent_dim}")
        self.k, self.k_test = k, k_test
        self.encoder = net.encoder(latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    @once
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.encoder(x)
        values, units = h.topk(self.k if self.training else self.k_test, dim=1)
        return torch.zeros_like(h).scatter(1, units, values)

    def loss(self, batch: Batch) -> Terms:
        reconstruction = self.error(self.encode(batch.seen, batch.y), batch).mean()
        return {"loss": reconstruction, "reconstruction": reconstruction}

    def active(self, z: Tensor) -> Tensor:
        """Which units survived."""
        return z != 0
