"""Variational autoencoder: a code is a distribution, kept close to a standard normal.

    q(z | x) = N(mu(x), diag exp(logvar(x)))        p(z) = N(0, I)
    loss     = E_q[-log p(x | z)] + beta · KL(q(z | x) || p(z))        one draw of z per image; nats per image
    KL       = 1/2 sum_d (mu_d² + exp(logvar_d) - 1 - logvar_d)

With `beta` = 1 and a likelihood as reconstruction term, the loss is minus the evidence lower bound.

Kingma & Welling, Auto-Encoding Variational Bayes, 2014, equation 10 and appendix B.
https://arxiv.org/abs/1312.6114
"""

from torch import Tensor

from autoencoders.models.base import Terms, Variational
from autoencoders.nets.base import Net
from autoencoders.reconstruction import Reconstruction
from autoencoders.schedules import Weight


class VAE(Variational):
    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: int, beta: Weight) -> None:
        super().__init__(latent_dim, reconstruction)
        self.beta = beta
        self.encoder = net.encoder(2 * latent_dim)  # seen -> mu, logvar
        self.decoder = net.decoder(latent_dim, reconstruction.maps)  # z -> out

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        mu, logvar = self.posterior(seen)
        z = self.draw(mu, logvar)
        reconstruction = self.reconstruction.error(self.decoder(z), x).mean()
        kl = (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean() / 2
        return {"loss": reconstruction + self.now(self.beta) * kl, "reconstruction": reconstruction, "kl": kl}
