"""Structured-output VAE: the many images that what is seen of one leaves open.

    g         = guess(seen)                            one completion, by a net of its own
    p(z | s)  = N(m(s), diag exp(v(s)))                s: `seen`, its hidden pixels filled in with g
    q(z | x)  = N(mu(x), diag exp(logvar(x)))          of the whole image, in training
    loss      = E_q[-log p(x_h | z)] + KL(q(z | x) || p(z | s)) + guess_weight · -log p(x_h | g)

x_h are the pixels that the noise hid, and the first two terms are minus a bound of log p(x_h | seen), in nats per
image. The guess learns from its own term alone; a schedule that ends at 0 lets it stop, and then the loss of an
evaluation is the bound. `encode` takes whole images. `reconstruct` completes a batch from the mean of p(z | s). With
`shows: learned` it shows the other pixels as they were seen, and with `output` its whole output. If it is null, it is
`learned` of a model that colours (`noise=luminance`), and `output` of others.

Sohn, Lee & Yan, Learning structured output representation using deep conditional generative models, 2015, equation 4.
"""

from math import prod
from typing import Literal

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms, draw, kl, once
from aelab.nets.base import Net
from aelab.noise import Luminance, Noise
from aelab.ranges import Count
from aelab.reconstruction import Elementwise, Reconstruction
from aelab.schedules import Scheduled


class StructuredCVAE(Autoencoder):
    completes = True

    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        guess_weight: Scheduled,
        shows: Literal["learned", "output"] | None,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.shows = shows
        if not isinstance(reconstruction, Elementwise):
            raise ValueError("model=structured_cvae explains single pixels: type reconstruction=bce, or mse")
        self.elements = reconstruction.elements
        self.guess_weight = guess_weight
        self.guess = net.encoder(reconstruction.maps * prod(net.shape))
        self.encoder = net.encoder(2 * latent_dim)  # s -> m, v
        self.recognition = net.encoder(2 * latent_dim)  # x -> mu, logvar
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def prepare_for(self, noise: Noise) -> None:
        self.fills = isinstance(noise, Luminance) if self.shows is None else self.shows == "learned"

    def loss(self, batch: Batch) -> Terms:
        g, x, hidden = self.guessed(batch.seen), batch.x, batch.chosen
        m, v = self.prior(batch.seen, batch.hidden, g)
        mu, logvar = self.recognition(x).chunk(2, dim=1)
        z = draw(mu, logvar)
        reconstruction = (hidden * self.elements(self.out(z, x=x), x)).flatten(1).sum(1).mean()
        divergence = kl(mu, logvar, (m, v)).mean()
        guess = (hidden * self.elements(g, x)).flatten(1).sum(1).mean()
        bound = reconstruction + divergence
        loss = bound + self.at_step(self.guess_weight) * guess
        return {"loss": loss, "bound": bound, "reconstruction": reconstruction, "kl": divergence, "guess": guess}

    @once
    def prior(self, seen: Tensor, hidden: Tensor | None, g: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen (B, C, H, W), which pixels are hidden, and the guess -> m and v, each (B, latent_dim)."""
        s = seen if hidden is None else torch.where(hidden, self.reconstruction.mean(g.detach()), seen)
        m, v = self.encoder(s).chunk(2, dim=1)
        return m, v

    @once
    def guessed(self, seen: Tensor) -> Tensor:
        """(B, C, H, W) -> the guess as the reconstruction term reads it (B, maps · C, H, W)."""
        out: Tensor = self.guess(seen)
        return out.view(seen.shape[0], -1, *seen.shape[2:])

    @once
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Whole images (B, C, H, W) -> the mean of p(z | s) (B, latent_dim)."""
        m: Tensor = self.encoder(x)[:, : self.latent_dim]
        return m

    def encode_batch(self, batch: Batch) -> Tensor:
        return self.prior(batch.seen, batch.hidden, self.guessed(batch.seen))[0]
