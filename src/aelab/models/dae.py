"""Denoising autoencoder: rebuilds the clean image from a corrupted one, with emphasis on what was corrupted.

    loss = alpha · sum_{i corrupted} e(x_i, out_i) + beta · sum_{i untouched} e(x_i, out_i)        over pixels i

`e` is the reconstruction error of a pixel. A pixel is corrupted if the noise chose it, also where it kept its value, as
a black one does under masking. Noise that chooses no pixels, such as Gaussian noise, corrupts all of them. With alpha =
beta = 1 it is `ae` under the same noise. `emphasis: changed` takes only the pixels that the noise changed, as runs of
version 0 did.

With beta = 0 nothing is learned about the untouched pixels. `shows: learned` shows them as they were seen, and `output`
the whole output. If it is null, it is `learned` of a model that colours (`noise=luminance`), and `output` of others.

Vincent, Larochelle, Lajoie, Bengio & Manzagol, Stacked denoising autoencoders, 2010, section 4.2 (emphasis).
https://jmlr.org/papers/v11/vincent10a.html
"""

from typing import Literal

import torch
from torch import nn

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms
from aelab.nets.base import Net, activation
from aelab.noise import Luminance, Noise
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Elementwise, Reconstruction


class DAE(Autoencoder):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        code_activation: str,
        alpha: NonNegative,
        beta: NonNegative,
        emphasis: Literal["chosen", "changed"],
        shows: Literal["learned", "output"] | None,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        if not isinstance(reconstruction, Elementwise):
            raise ValueError(
                "model.alpha and model.beta weigh pixels, and this reconstruction term has none: type "
                "reconstruction=mse, or model=ae, which does not weigh them"
            )
        self.alpha, self.beta, self.emphasis, self.shows = alpha, beta, emphasis, shows
        self.elements = reconstruction.elements
        self.encoder = nn.Sequential(net.encoder(latent_dim), activation(code_activation, "model.code_activation"))
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def prepare_for(self, noise: Noise) -> None:
        learned = isinstance(noise, Luminance) if self.shows is None else self.shows == "learned"
        self.completes = self.fills = self.beta == 0 and learned

    def loss(self, batch: Batch) -> Terms:
        error = self.elements(self.out(self.encode(batch.seen, batch.y), batch.y, batch.x), batch.x)
        corrupted = batch.chosen if self.emphasis == "chosen" else batch.seen != batch.x
        loss = (torch.where(corrupted, self.alpha, self.beta) * error).flatten(1).sum(1).mean()
        return {"loss": loss, "reconstruction": error.flatten(1).sum(1).mean()}
