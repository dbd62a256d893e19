"""Adversarial autoencoder: a second net tells codes from draws of the prior, and the encoder learns to fool it.

    D(z)          logit that z came from the prior N(0, I)
    discriminator = -log s(D(e)) - log(1 - s(D(z)))        e ~ N(0, I), z = encoder(seen) held fixed
    loss          = reconstruction + adversarial_weight · -log s(D(z))

A step is one of the discriminator, then one of encoder and decoder, each with an optimizer of its own.

Makhzani, Shlens, Jaitly, Goodfellow & Frey, Adversarial autoencoders, 2016. https://arxiv.org/abs/1511.05644
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Alternating, Terms, standard_normal
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class AAE(Alternating):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        adversarial_weight: Scheduled,
        discriminator_dims: Sequence[Count],
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.adversarial_weight = adversarial_weight
        self.encoder = net.encoder(latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([latent_dim, *discriminator_dims, 1]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.discriminator = nn.Sequential(*layers[:-1])

    def loss(self, batch: Batch) -> Terms:
        z = self.encode(batch.seen, batch.y)
        reconstruction = self.error(z, batch).mean()
        adversarial = F.softplus(-self.discriminator(z)).mean()
        loss = reconstruction + self.at_step(self.adversarial_weight) * adversarial
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "adversarial": adversarial,
            "discriminator": self.discriminator_loss(z.detach()),
        }

    def discriminator_loss(self, z: Tensor) -> Tensor:
        e = standard_normal(self, z.shape[0])
        return (F.softplus(-self.discriminator(e)) + F.softplus(self.discriminator(z))).mean()

    def critic_loss(self, batch: Batch) -> Tensor:
        return self.discriminator_loss(self.encode(batch.seen, batch.y).detach())

    @property
    def critics(self) -> nn.Module:
        return self.discriminator

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """`n` images (n, C, H, W) in [0, 1] from codes drawn from the prior."""
        return self.decode(standard_normal(self, n), y)
