"""Autoencoder: a code from which the image can be rebuilt.

    z    = f(encoder(seen))
    loss = -log p(x | decoder(z)) + weight_decay · |W|²        or another reconstruction error, summed over pixels

Undercomplete with `latent_dim` below the number of pixels, overcomplete above it, where only the penalty on the squared
weights, the noise or the net keeps it from learning the identity. `f` is `code_activation`.

Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, 1986 (the encoder problem);
Hinton & Salakhutdinov, Reducing the dimensionality of data with neural networks, 2006.
"""

from torch import nn

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms
from aelab.nets.base import Net, activation
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class AE(Autoencoder):
    def __init__(
        self, net: Net, reconstruction: Reconstruction, latent_dim: Count, code_activation: str, weight_decay: Scheduled
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.weight_decay = weight_decay
        f = activation(code_activation, "model.code_activation")
        self.encoder = nn.Sequential(net.encoder(latent_dim), f)  # seen -> z
        self.decoder = net.decoder(latent_dim, reconstruction.maps)  # z -> out

    def loss(self, batch: Batch) -> Terms:
        z = self.encode(batch.seen, batch.y)
        reconstruction = self.error(z, batch).mean()
        if self.weight_decay == 0:
            return {"loss": reconstruction, "reconstruction": reconstruction}
        weights = self.squared_weights()
        loss = reconstruction + self.at_step(self.weight_decay) * weights
        return {"loss": loss, "reconstruction": reconstruction, "squared_weights": weights}
