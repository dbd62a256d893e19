"""Variational autoencoder: a code is a distribution, kept close to a standard normal.

    q(z | x) = N(mu(x), diag exp(logvar(x)))        p(z) = N(0, I)
    loss     = E_q[-log p(x | z)] + beta · KL(q(z | x) || p(z))        one draw of z per image; nats per image
    KL       = 1/2 sum_d (mu_d² + exp(logvar_d) - 1 - logvar_d)

With `beta` = 1 and a likelihood as reconstruction term, the loss is minus the evidence lower bound.

Kingma & Welling, Auto-Encoding Variational Bayes, 2014, equation 10 and appendix B.
https://arxiv.org/abs/1312.6114
"""

from aelab.data.loader import Batch
from aelab.models.base import Terms, Variational, kl
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class VAE(Variational):
    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: Count, beta: Scheduled) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.beta = beta
        self.encoder = net.encoder(2 * latent_dim)  # seen -> mu, logvar
        self.decoder = net.decoder(latent_dim, reconstruction.maps)  # z -> out

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = self.posterior(batch.seen, batch.y)
        reconstruction = self.error(self.draw(mu, logvar), batch).mean()
        divergence = kl(mu, logvar).mean()
        loss = reconstruction + self.at_step(self.beta) * divergence
        return {"loss": loss, "reconstruction": reconstruction, "kl": divergence}
