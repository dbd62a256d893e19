"""beta-TCVAE: of the three parts of the KL, the one that ties units together is weighed.

    q(z)  = 1/N sum_n q(z | x_n), the aggregate posterior over the N training data
    mi    = E[log q(z | x) - log q(z)]                    what the code says of the datum
    tc    = E[log q(z) - sum_d log q(z_d)]                total correlation of the units
    dim   = E[sum_d log q(z_d) - log N(z_d; 0, 1)]        how far each unit is from its prior
    loss  = reconstruction + alpha · mi + beta · tc + gamma · dim              nats per datum

With all weights 1 the three add up to the KL of a draw. q(z) and q(z_d) are estimated from the batch of M data: that of
z's own datum counts 1/N, and each other one (N - 1) / (N (M - 1)). The estimate of q(z) has no bias, because the others
stand for the N - 1 other data. If the batch holds all data it is exact.

Chen, Li, Grosse & Duvenaud, Isolating sources of disentanglement in VAEs, 2018, equation 4 and appendix C.2 (where one
of the others has another weight, of the same expectation). https://arxiv.org/abs/1802.04942
"""

import math

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Terms, Variational
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class BetaTCVAE(Variational):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        alpha: Scheduled,
        beta: Scheduled,
        gamma: Scheduled,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.encoder = net.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = self.posterior(batch.seen, batch.y)
        z = self.draw(mu, logvar)
        reconstruction = self.error(z, batch).mean()
        own = log_normal(z, mu, logvar).sum(1)
        joint, units = log_aggregate(z, mu, logvar, self.number(len(z)))
        prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
        mi, tc, dim = (own - joint).mean(), (joint - units).mean(), (units - prior).mean()
        loss = reconstruction + self.at_step(self.alpha) * mi + self.at_step(self.beta) * tc
        loss = loss + self.at_step(self.gamma) * dim
        return {"loss": loss, "reconstruction": reconstruction, "mi": mi, "tc": tc, "dim": dim}

    def number(self, batch: int) -> int:
        """Return the number of training data, or of those of the batch if no data are attached."""
        data = self._data() if self._data is not None else None
        return max(batch, data.size("train")) if data is not None and data.splits else batch


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(z; mu, exp(logvar)) of each unit."""
    return -((z - mu).square() / logvar.exp() + logvar + math.log(2 * math.pi)) / 2


def log_aggregate(z: Tensor, mu: Tensor, logvar: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return log q(z) and sum_d log q(z_d), (M,) each, of codes drawn from M of `n` posteriors, all (M, D)."""
    m = len(z)
    weights = torch.full((m, m), (n - 1) / (n * max(m - 1, 1)), device=z.device, dtype=z.dtype)
    weights.fill_diagonal_(1 / n if m > 1 else 1)
    log_weights = weights.log()
    pairs = log_normal(z[:, None], mu, logvar)  # (M draws, M posteriors, D)
    joint = (pairs.sum(2) + log_weights).logsumexp(1)
    units = (pairs + log_weights[:, :, None]).logsumexp(1).sum(1)
    return joint, units
