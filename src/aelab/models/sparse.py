"""Sparse autoencoder: sigmoid codes, each of which is on for a share `rho` of the images.

    z_j     = s(encoder(seen))_j
    rho_j   = mean over images of z_j
    penalty = sum_j rho log(rho / rho_j) + (1 - rho) log((1 - rho) / (1 - rho_j))
    loss    = reconstruction + sparsity_weight · penalty + weight_decay · |W|²

The mean is over the batch, or a running one: rho_j <- momentum · rho_j + (1 - momentum) · batch mean, corrected for its
start as in Adam, whose gradient is taken to be that of the batch mean. A mini-batch mean is noisier than that of the
paper's full batch, and its penalty larger: compare only like with like.

Ng, Sparse autoencoder (CS294A lecture notes), 2011, section 3; Lee, Ekanadham & Ng, 2008.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms
from aelab.nets.base import Net
from aelab.ranges import Count, ProperShare, ShareBelow1
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class Sparse(Autoencoder):
    running: Tensor
    steps: Tensor

    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        rho: ProperShare,
        sparsity_weight: Scheduled,
        average: Literal["batch", "running"],
        momentum: ShareBelow1,
        weight_decay: Scheduled,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.rho, self.sparsity_weight, self.weight_decay = rho, sparsity_weight, weight_decay
        self.average, self.momentum = average, momentum
        self.register_buffer("running", torch.zeros(latent_dim))
        self.register_buffer("steps", torch.zeros(()))
        self.encoder = nn.Sequential(net.encoder(latent_dim), nn.Sigmoid())
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, batch: Batch) -> Terms:
        z = self.encode(batch.seen, batch.y)
        reconstruction = self.error(z, batch).mean()
        share = self.share(z).clamp(1e-6, 1 - 1e-6)  # a unit that is never on has a finite penalty, and a gradient
        on = self.rho * (self.rho / share).log()
        off = (1 - self.rho) * ((1 - self.rho) / (1 - share)).log()
        sparsity = (on + off).sum()
        terms = {"reconstruction": reconstruction, "sparsity": sparsity, "activation": z.mean()}
        loss = reconstruction + self.at_step(self.sparsity_weight) * sparsity
        if self.weight_decay != 0:
            terms["squared_weights"] = self.squared_weights()
            loss = loss + self.at_step(self.weight_decay) * terms["squared_weights"]
        return {"loss": loss, **terms}

    def share(self, z: Tensor) -> Tensor:
        """rho_j, (latent_dim,)."""
        batch = z.mean(0)
        if self.average == "batch":
            return batch
        if self.training:
            with torch.no_grad():
                self.running.lerp_(batch.to(self.running.dtype), 1 - self.momentum)
                self.steps += 1
        corrected = self.running / (1 - self.momentum ** self.steps.clamp_min(1))
        return corrected + batch - batch.detach()

    def active(self, z: Tensor) -> Tensor:
        """Which units are on: above the share of the images that they may be on for."""
        return z > self.rho
