"""Denoising autoencoder: rebuilds the clean image from a corrupted one, with emphasis on what was corrupted.

    loss = alpha · sum_{i corrupted} e(x_i, out_i) + beta · sum_{i untouched} e(x_i, out_i)        over pixels i

`e` is the reconstruction error of a pixel; a pixel is corrupted where `seen` differs from `x`. With alpha = beta = 1
it is `ae` under the same noise.

Vincent, Larochelle, Lajoie, Bengio & Manzagol, Stacked denoising autoencoders, 2010, section 4.2 (emphasis).
https://jmlr.org/papers/v11/vincent10a.html
"""

import torch
from torch import Tensor, nn

from autoencoders.models.base import Autoencoder, Terms
from autoencoders.nets.base import Net, activation
from autoencoders.reconstruction import Pixelwise, Reconstruction


class DAE(Autoencoder):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: int,
        code_activation: str,
        alpha: float,
        beta: float,
    ) -> None:
        super().__init__(latent_dim, reconstruction)
        if not isinstance(reconstruction, Pixelwise):
            raise ValueError(
                "model.alpha and model.beta weigh pixels, and this reconstruction term has none: type "
                "reconstruction=mse, or model=ae, which does not weigh them"
            )
        self.alpha, self.beta = alpha, beta
        self.pixels = reconstruction.pixels
        self.encoder = nn.Sequential(net.encoder(latent_dim), activation(code_activation, "model.code_activation"))
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        error = self.pixels(self.decoder(self.encoder(seen)), x)
        emphasis = torch.where(seen != x, self.alpha, self.beta)
        loss = (emphasis * error).flatten(1).sum(1).mean()
        return {"loss": loss, "reconstruction": error.flatten(1).sum(1).mean()}
