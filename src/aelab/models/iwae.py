"""Importance-weighted autoencoder: k codes an image make a tighter bound of log p(x) than one.

    z_1 … z_k ~ q(z | x) = N(mu(x), diag exp(logvar(x)))        p(z) = N(0, I)
    log w_i   = log p(x | z_i) + log p(z_i) - log q(z_i | x)
    loss      = -log (1/k) sum_i w_i        nats per image; k = 1 is the bound of the VAE, estimated with one draw

The reconstruction term must be a likelihood: a weight that lacks a factor averages to no bound.

Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016, equation 8. https://arxiv.org/abs/1509.00519
"""

import math

from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Terms, Variational
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction


class IWAE(Variational):
    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: Count, k: Count) -> None:
        super().__init__(net, reconstruction, latent_dim)
        if not reconstruction.likelihood:
            raise ValueError("model=iwae needs a likelihood: type reconstruction=bce, or gaussian in the place of mse")
        self.k = k
        self.encoder = net.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = map(self.rows, self.posterior(batch.seen, batch.y))
        z = self.draw(mu, logvar)
        error = self.error(z, batch.map(self.rows))
        log_p = -z.square().sum(1) / 2  # both without log(2 pi) latent_dim / 2, which cancels
        log_q = -((z - mu).square() / logvar.exp() + logvar).sum(1) / 2
        log_w = (log_p - error - log_q).view(-1, self.k)
        loss = math.log(self.k) - log_w.logsumexp(1).mean()
        return {"loss": loss, "reconstruction": error.mean(), "kl": (log_q - log_p).mean(), "elbo": log_w.mean()}

    def rows(self, t: Tensor) -> Tensor:
        """(B, …) -> (k B, …): k equal rows per image, one after the other."""
        return t.repeat_interleave(self.k, dim=0)
