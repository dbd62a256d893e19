"""sigma-VAE: the decoder's variance is learned, so that reconstruction and KL are weighed by the data, not by hand.

    p(x | z) = N(image(z), sigma² I)        one learned sigma for all pixels
    loss     = sum_i [(x_i - image_i)² / (2 sigma²) + log(sigma sqrt(2 pi))] + KL(q(z | x) || N(0, I))

A true density in nats: minus the evidence lower bound of real-valued pixels. The reconstruction term is not asked for
an error, only for how a decoder's output becomes an image. `sigma` is where it starts, in units of the pixel range.

Rybkin, Daniilidis & Levine, Simple and effective VAE training with calibrated decoders, 2021, equation 3.
https://arxiv.org/abs/2006.13202
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Terms, Variational, kl
from aelab.nets.base import Net
from aelab.ranges import Count, Positive
from aelab.reconstruction import Reconstruction


class SigmaVAE(Variational):
    domains: ClassVar[tuple[str, ...]] = ("unit", "real")

    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: Count, sigma: Positive) -> None:
        super().__init__(net, reconstruction, latent_dim)
        if reconstruction.maps != 1 or isinstance(reconstruction, nn.Module):
            raise ValueError("model=sigma_vae has a density of its own: type reconstruction=mse")
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))
        self.encoder = net.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    likelihood = density = True

    def error(self, z: Tensor, batch: Batch) -> Tensor:
        missing = batch.x.isnan()
        difference = (batch.x - self.decode(z, batch.y)).masked_fill(missing, 0)
        density = difference.square() / (2 * (2 * self.log_sigma).exp()) + self.log_sigma + math.log(2 * math.pi) / 2
        return density.masked_fill(missing, 0).flatten(1).sum(1)

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = self.posterior(batch.seen, batch.y)
        reconstruction = self.error(self.draw(mu, logvar), batch).mean()
        divergence = kl(mu, logvar).mean()
        sigma = self.log_sigma.exp()
        loss = reconstruction + divergence
        return {"loss": loss, "reconstruction": reconstruction, "kl": divergence, "sigma": sigma}
