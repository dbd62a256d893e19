"""Variational autoencoder: a code is a distribution, kept close to a standard normal.

    q(z | x) = N(mu(x), diag exp(logvar(x)))        p(z) = N(0, I)
    loss     = E_q[-log p(x | z)] + KL(q(z | x) || p(z))        one draw of z per image; nats per image
    KL       = 1/2 sum_d (mu_d² + exp(logvar_d) - 1 - logvar_d)

With `beta` = 1 and a likelihood as reconstruction term, the loss is minus the evidence lower bound.

Kingma & Welling, Auto-Encoding Variational Bayes, 2014, equation 10 and appendix B.
https://arxiv.org/abs/1312.6114
"""

import torch
from torch import Tensor

from autoencoders.models.base import Autoencoder, Terms
from autoencoders.nets.base import Net
from autoencoders.reconstruction import Reconstruction
from autoencoders.schedules import Weight


class VAE(Autoencoder):
    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: int, beta: Weight) -> None:
        super().__init__(latent_dim, reconstruction)
        self.beta = beta
        self.encoder = net.encoder(2 * latent_dim)  # seen -> mu, logvar
        self.decoder = net.decoder(latent_dim)  # z -> out

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mu: Tensor = self.encoder(x).chunk(2, dim=1)[0]
        return mu

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.reconstruction.image(self.decoder(z))

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        mu, logvar = self.encoder(seen).chunk(2, dim=1)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        reconstruction = self.reconstruction.error(self.decoder(z), x).mean()
        kl = (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean() / 2
        return {"loss": reconstruction + self.now(self.beta) * kl, "reconstruction": reconstruction, "kl": kl}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """`n` images (n, C, H, W) in [0, 1] from codes drawn from the prior."""
        return self.decode(self.standard_normal(n), y)
