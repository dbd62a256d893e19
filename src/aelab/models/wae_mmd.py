"""Wasserstein autoencoder with MMD: codes need not be noisy, only all of them together look like the prior.

    z    = encoder(seen), (n, D)        e ~ N(0, I), (n, D)
    MMD² = mean_{i≠j} K(z_i, z_j) + mean_{i≠j} K(e_i, e_j) - 2 mean_{ij} K(z_i, e_j)        unbiased, over the batch
    loss = reconstruction + mmd_weight · MMD²

    rbf: K(a, b) = exp(-|a - b|² / C)                              C = 2 D, the mean squared distance under the prior,
    imq: K(a, b) = sum_s s C / (s C + |a - b|²), s = 0.1 … 10      inverse multiquadratics, whose tails reach farther

Tolstikhin, Bousquet, Gelly & Schölkopf, Wasserstein auto-encoders, 2018, algorithm 2 and section 4.
https://arxiv.org/abs/1711.01558
"""

from typing import Literal

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms, standard_normal
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class WAE(Autoencoder):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        mmd_weight: Scheduled,
        kernel: Literal["imq", "rbf"],
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.mmd_weight, self.kernel = mmd_weight, kernel
        self.encoder = net.encoder(latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, batch: Batch) -> Terms:
        z = self.encode(batch.seen, batch.y)
        reconstruction = self.error(z, batch).mean()
        mmd = self.mmd(z, torch.randn_like(z))
        return {
            "loss": reconstruction + self.at_step(self.mmd_weight) * mmd,
            "reconstruction": reconstruction,
            "mmd": mmd,
        }

    def mmd(self, z: Tensor, prior: Tensor) -> Tensor:
        """Unbiased MMD² of two samples (n, D); it may be negative. Zero for one image, which has no pair."""
        n = z.shape[0]
        if n < 2:
            return z.sum() * 0
        within = self.k(z, z).sum() + self.k(prior, prior).sum() - 2 * n * self.k(z[:1], z[:1]).sum()
        return within / (n * (n - 1)) - 2 * self.k(z, prior).mean()

    def k(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, D), (m, D) -> (n, m)."""
        squares = (a[:, None] - b[None]).square().sum(2)
        c = 2.0 * self.latent_dim
        if self.kernel == "rbf":
            return (-squares / c).exp()
        return torch.stack([s * c / (s * c + squares) for s in SCALES]).sum(0)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """`n` images (n, C, H, W) in [0, 1] from codes drawn from the prior."""
        return self.decode(standard_normal(self, n), y)
