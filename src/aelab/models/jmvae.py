"""Joint multimodal VAE: a posterior of both modalities, and one of each alone that is drawn to it.

    loss = E_q(z | x, y)[-log p(x | z) - y_weight · log p(y | z)] + beta · KL(q(z | x, y) || N(0, I))
           + alpha · (KL(q(z | x, y) || q(z | x)) + KL(q(z | x, y) || q(z | y)))      nats per datum

With `beta` and `y_weight` 1 and `alpha` 0 the loss is minus a bound of log p(x, y). q(z | x) and q(z | y) learn from
the last line only, which also draws q(z | x, y) to what they can express.

Suzuki, Nakayama & Matsuo, Joint multimodal learning with deep generative models, 2016, equations 3 and 7.
https://arxiv.org/abs/1611.01891
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Normal, Terms, draw, kl
from aelab.models.modalities import Bimodal
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class JMVAE(Bimodal):
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
        alpha: Scheduled,
        joint_dim: Count,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, y_net, y_reconstruction, y_shape, num_classes)
        self.beta, self.y_weight, self.alpha = beta, y_weight, alpha
        self.features, self.y_features = net.encoder(joint_dim), y_net.at(self.y_shape).encoder(joint_dim)
        self.join = nn.Sequential(nn.ReLU(), nn.Linear(2 * joint_dim, 2 * latent_dim))

    def both(self, x: Tensor, y: Tensor) -> Normal:
        features = torch.cat([self.features(x), self.y_features(self.seen_y(y))], dim=1)
        mu, logvar = self.join(features).chunk(2, dim=1)
        return mu, logvar

    def loss(self, batch: Batch) -> Terms:
        q = self.both(batch.seen, batch.y)
        z, divergence = draw(*q), kl(*q).mean()
        reconstruction, y = self.error(z, batch).mean(), self.y_error(z, batch.y).mean()
        bound = reconstruction + self.y_weight * y + self.at_step(self.beta) * divergence
        x_alone, y_alone = self.posterior(batch.seen, batch.y), self.y_posterior(batch.y)
        unimodal = kl(*q, x_alone).mean() + kl(*q, y_alone).mean()
        loss = bound + self.at_step(self.alpha) * unimodal
        return {"loss": loss, "reconstruction": reconstruction, "y": y, "kl": divergence, "unimodal": unimodal}
