"""Masked autoencoder: fills in the patches that it did not see, from a few that it did.

    t    = encoder(visible patches)                 one token per visible patch; hidden ones never enter the encoder
    out  = decoder(t, one learned token for each hidden patch)
    loss = sum_{i hidden} e(x_i, out_i)             over pixels i

`e` is the reconstruction error of a pixel. With `normalise`, each patch of the target has mean 0 and deviation 1. What
is shown then gets the mean and deviation of the visible pixels. The code (B, net.dim) is the mean of the tokens of all
visible patches. In clean data every patch is visible. Nothing is decoded from a code.

He, Chen, Xie, Li, Dollár & Girshick, Masked autoencoders are scalable vision learners, 2022.
https://arxiv.org/abs/2111.06377
"""

from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.errors import Unsupported, UserError
from aelab.models.base import Autoencoder, Terms, once
from aelab.nets.transformer import Transformer, normalised, visible_places
from aelab.noise import Noise, Patches
from aelab.reconstruction import Elementwise, Reconstruction


class Masked(Autoencoder):
    domains: ClassVar[tuple[str, ...]] = ("unit", "real")
    decodes: ClassVar[bool] = False
    completes = fills = True

    def __init__(self, net: Transformer, reconstruction: Reconstruction, decoder: Transformer, normalise: bool) -> None:
        """Raises UserError for a net without patches, and for a term that cannot explain what it is to explain."""
        if not isinstance(net, Transformer) or net.patch_size != decoder.patch_size:
            raise UserError("model=masked leaves out patches: type net=transformer, and model.decoder like it")
        if not isinstance(reconstruction, Elementwise):
            raise UserError("model=masked explains single pixels: type reconstruction=mse")
        if normalise and "real" not in reconstruction.domains:
            raise UserError("model.normalise=true has real targets: type reconstruction.link=identity")
        super().__init__(net, reconstruction, net.dim)
        self.elements, self.normalise, self.patch_size = reconstruction.elements, normalise, net.patch_size
        self.places = prod(net.counts)  # of patches
        self.encoder = net.visible()
        self.decoder = decoder.filling(net.dim, reconstruction.maps)

    def prepare_for(self, noise: Noise) -> None:
        if not isinstance(noise, Patches) or noise.size != self.patch_size:
            raise UserError(f"model=masked fills in patches: type noise=patches noise.size={self.patch_size}")
        if not 0 < (n := round(noise.p * self.places)) < self.places:
            raise UserError(f"noise.p={noise.p} hides {n} of {self.places} patches: type one that hides some of them")

    @once
    def tokens(self, seen: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, K, D) of the K patches that are seen, and the places (B, K) of these patches."""
        if hidden is None:
            kept = torch.arange(self.places, device=seen.device).expand(seen.shape[0], -1)
        else:
            kept = visible_places(hidden, self.patch_size)
        return self.encoder(seen, kept), kept

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Data (B, C, *sizes) -> the mean of the tokens of all patches (B, D)."""
        return self.tokens(x, None)[0].mean(1)

    def encode_batch(self, batch: Batch) -> Tensor:
        return self.tokens(batch.seen, batch.hidden)[0].mean(1)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        raise Unsupported("a masked autoencoder decodes no codes: its decoder wants the tokens of patches")

    def error(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the error (B,) of the hidden pixels. The codes play no part in it."""
        return (batch.chosen * self.elements(self.filling(batch), self.target(batch.x))).flatten(1).sum(1)

    def filling(self, batch: Batch) -> Tensor:
        """Return the output (B, maps · C, *sizes) for what is seen of a batch."""
        out: Tensor = self.decoder(*self.tokens(batch.seen, batch.hidden))
        return out

    def target(self, x: Tensor) -> Tensor:
        """Return data (B, C, *sizes) as they are explained: as they are, or with normalised patches."""
        return normalised(x, self.patch_size) if self.normalise else x

    def reconstruct(self, batch: Batch) -> Tensor:
        shown = self.reconstruction.mean(self.filling(batch))
        if self.normalise:
            seen = batch.seen.masked_fill(batch.chosen, torch.nan).flatten(1)
            mean = seen.nanmean(1, keepdim=True)
            deviation = (seen - mean).square().nanmean(1, keepdim=True).sqrt()
            shown = (shown.flatten(1) * deviation + mean).nan_to_num(0).view(shown.shape)
        return self.filled(shown, batch)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.reconstruction.mean(self.decoder(*self.tokens(x, None)))

    def loss(self, batch: Batch) -> Terms:
        reconstruction = self.error(batch.x, batch).mean()
        return {"loss": reconstruction, "reconstruction": reconstruction}
