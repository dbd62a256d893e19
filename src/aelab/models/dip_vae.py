"""DIP-VAE: the aggregate posterior shall have the covariance of the prior, so its units are not correlated.

    C    = Cov_x[mu(x)]                          by=mean, DIP-VAE-I
    C    = Cov_x[mu(x)] + E_x[diag sigma²(x)]    by=code, DIP-VAE-II: the covariance of z
    loss = reconstruction + KL + off_diagonal · sum_{i≠j} C_ij² + diagonal · sum_i (C_ii - 1)²       nats per datum

The covariance is that of the batch.

Kumar, Sattigeri & Balakrishnan, Variational inference of disentangled latent concepts from unlabeled observations,
2018, equations 6 and 7. https://arxiv.org/abs/1711.00848
"""

from typing import Literal

from aelab.data.loader import Batch
from aelab.models.base import Terms, Variational, kl
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class DIPVAE(Variational):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        by: Literal["mean", "code"],
        off_diagonal: Scheduled,
        diagonal: Scheduled,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.by, self.off_diagonal, self.diagonal = by, off_diagonal, diagonal
        self.encoder = net.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = self.posterior(batch.seen, batch.y)
        reconstruction = self.error(self.draw(mu, logvar), batch).mean()
        divergence = kl(mu, logvar).mean()
        centred = mu - mu.mean(0)
        covariance = centred.T @ centred / mu.shape[0]
        if self.by == "code":
            covariance = covariance + logvar.exp().mean(0).diag()
        variances = covariance.diagonal()
        off = (covariance - variances.diag()).square().sum()
        on = (variances - 1).square().sum()
        loss = reconstruction + divergence + self.at_step(self.off_diagonal) * off + self.at_step(self.diagonal) * on
        return {"loss": loss, "reconstruction": reconstruction, "kl": divergence, "off_diagonal": off, "diagonal": on}
