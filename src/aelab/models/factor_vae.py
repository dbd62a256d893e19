"""FactorVAE: a discriminator measures the total correlation of the code, which the encoder lowers.

    z             ~ q(z | seen)        z' = z with each unit shuffled over the batch, so that units are independent
    discriminator = -log s(D(z)) - log(1 - s(D(z')))        z held fixed
    tc            = E[D(z)], the log ratio of q(z) and the product of its units, if D is optimal
    loss          = reconstruction + KL + tc_weight · tc                             nats per datum

A step is one of the discriminator, then one of encoder and decoder, each with an optimizer of its own. The paper
shuffles a second batch. Here both codes come from one batch.

Kim & Mnih, Disentangling by factorising, 2018, equation 2 and algorithm 1. https://arxiv.org/abs/1802.05983
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Alternating, Terms, Variational, kl
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class FactorVAE(Alternating, Variational):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        tc_weight: Scheduled,
        discriminator_dims: Sequence[Count],
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.tc_weight = tc_weight
        self.encoder = net.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([latent_dim, *discriminator_dims, 1]):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*layers[:-1])

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = self.posterior(batch.seen, batch.y)
        z = self.draw(mu, logvar)
        reconstruction, divergence = self.error(z, batch).mean(), kl(mu, logvar).mean()
        tc = self.discriminator(z).mean()
        loss = reconstruction + divergence + self.at_step(self.tc_weight) * tc
        return {"loss": loss, "reconstruction": reconstruction, "kl": divergence, "tc": tc}

    def critic_loss(self, batch: Batch) -> Tensor:
        z = self.draw(*self.posterior(batch.seen, batch.y)).detach()
        return (F.softplus(-self.discriminator(z)) + F.softplus(self.discriminator(shuffled(z)))).mean()

    @property
    def critics(self) -> nn.Module:
        return self.discriminator


def shuffled(z: Tensor) -> Tensor:
    """Return codes (B, D) in which each unit is permuted over the batch by itself."""
    return z.gather(0, torch.rand_like(z).argsort(0))
