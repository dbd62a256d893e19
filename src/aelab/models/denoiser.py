"""Denoiser: gives the clean datum back from what is seen of it. There is no code that all must pass through.

    loss = sum_i e(x_i, out_i),  out = up(down(seen))

`e` is the reconstruction error. The noise decides whether the model denoises, deblurs, fills in or colours. With
`explains: hidden` only what the noise chose counts, and all else is shown as it was seen. Noise that chooses no places
counts as one that chooses all.

`encode` gives the bottleneck of the net, averaged over its places. That is a description of a datum, and nothing is
decoded from it.

Zhang, Zuo, Chen, Meng & Zhang, Beyond a Gaussian denoiser, 2017, https://arxiv.org/abs/1608.03981 (one net for many
noises); Mao, Shen & Yang, Image restoration using convolutional auto-encoders with symmetric skip connections, 2016.
"""

from typing import ClassVar, Literal

from torch import Tensor

from aelab.data.loader import Batch
from aelab.errors import Unsupported
from aelab.models.base import Autoencoder, Terms, once
from aelab.nets.base import Net
from aelab.reconstruction import Elementwise, Reconstruction


class Denoiser(Autoencoder):
    decodes: ClassVar[bool] = False
    domains: ClassVar[tuple[str, ...]] = ("unit", "real")

    def __init__(self, net: Net, reconstruction: Reconstruction, explains: Literal["all", "hidden"]) -> None:
        translator = net.translator(reconstruction.maps)
        super().__init__(net, reconstruction, net.channels[-1])  # type: ignore[attr-defined]
        if explains == "hidden" and not isinstance(reconstruction, Elementwise):
            raise ValueError("model.explains=hidden weighs single pixels: type reconstruction=mse")
        self.completes = self.fills = explains == "hidden"
        self.encoder, self.decoder = translator.down, translator.up

    @once
    def maps(self, seen: Tensor) -> list[Tensor]:
        """Data (B, C, *sizes) -> the maps of each size, and the bottleneck (B, D, *sizes)."""
        maps: list[Tensor] = self.encoder(seen)
        return maps

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Data (B, C, *sizes) -> the mean of the bottleneck over its places (B, D)."""
        return self.maps(x)[-1].flatten(2).mean(2)

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        raise Unsupported("a denoiser decodes no codes: its skips lead around them")

    def error(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the error (B,) of what is given back, or of its hidden places. The codes play no part in it."""
        out = self.decoder(self.maps(batch.seen))
        if not self.completes:
            return self.reconstruction.error(out, batch.x)
        elements: Tensor = self.reconstruction.elements(out, batch.x)  # type: ignore[attr-defined]
        return (batch.chosen * elements).flatten(1).sum(1)

    def reconstruct(self, batch: Batch) -> Tensor:
        return self.filled(self.forward(batch.seen), batch)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return what is given back (B, C, *sizes) of data (B, C, *sizes) that are seen."""
        return self.reconstruction.mean(self.decoder(self.maps(x)))

    def loss(self, batch: Batch) -> Terms:
        reconstruction = self.error(batch.x, batch).mean()
        return {"loss": reconstruction, "reconstruction": reconstruction}
