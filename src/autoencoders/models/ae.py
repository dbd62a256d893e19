"""Autoencoder: a code from which the image can be rebuilt.

    z    = encode(seen)
    loss = -log p(x | decode(z))        or another reconstruction error, summed over pixels

Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, 1986 (the encoder problem);
Hinton & Salakhutdinov, Reducing the dimensionality of data with neural networks, 2006.
"""

from torch import Tensor

from autoencoders.models.base import Autoencoder, Terms
from autoencoders.nets.base import Net
from autoencoders.reconstruction import Reconstruction


class AE(Autoencoder):
    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: int) -> None:
        super().__init__(latent_dim, reconstruction)
        self.encoder = net.encoder(latent_dim)  # seen -> z
        self.decoder = net.decoder(latent_dim)  # z -> out

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        z: Tensor = self.encoder(x)
        return z

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.reconstruction.image(self.decoder(z))

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        z = self.encoder(seen)
        reconstruction = self.reconstruction.error(self.decoder(z), x).mean()
        return {"loss": reconstruction, "reconstruction": reconstruction}
