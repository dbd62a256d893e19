"""Structured-output VAE: the many images that what is seen of one leaves open.

    g         = guess(seen)                            one completion, by a net of its own
    p(z | s)  = N(m(s), diag exp(v(s)))                s: `seen`, its hidden pixels (below 0) filled in with g
    q(z | x)  = N(mu(x), diag exp(logvar(x)))          of the whole image, in training
    loss      = E_q[-log p(x_h | z)] + KL(q(z | x) || p(z | s)) + guess_weight · -log p(x_h | g)

x_h are the pixels that the noise changed, and the first two terms are minus a bound of log p(x_h | seen), in nats per
image. The guess learns from its own term alone; a schedule that ends at 0 lets it stop, and then the loss of an
evaluation is the bound. `encode` gives the mean of p(z | s), so `forward` is one completion.

Sohn, Lee & Yan, Learning structured output representation using deep conditional generative models, 2015, equation 4.
"""

from math import prod

import torch
from torch import Tensor

from autoencoders.models.base import Autoencoder, Terms
from autoencoders.nets.base import Net
from autoencoders.reconstruction import Pixelwise, Reconstruction
from autoencoders.schedules import Weight


class StructuredCVAE(Autoencoder):
    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: int, guess_weight: Weight) -> None:
        super().__init__(latent_dim, reconstruction)
        if not isinstance(reconstruction, Pixelwise):
            raise ValueError("model=structured_cvae explains single pixels: type reconstruction=bce, or mse")
        self.pixels = reconstruction.pixels
        self.guess_weight = guess_weight
        self.guess = net.encoder(reconstruction.maps * prod(net.shape))
        self.encoder = net.encoder(2 * latent_dim)  # s -> m, v
        self.recognition = net.encoder(2 * latent_dim)  # x -> mu, logvar
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        hidden = seen != x
        g = self.guessed(seen)
        m, v = self.encoder(self.filled(seen, g.detach())).chunk(2, dim=1)
        mu, logvar = self.recognition(x).chunk(2, dim=1)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        reconstruction = (hidden * self.pixels(self.decoder(z), x)).flatten(1).sum(1).mean()
        kl = (((mu - m).square() + logvar.exp()) / v.exp() - 1 + v - logvar).sum(1).mean() / 2
        guess = (hidden * self.pixels(g, x)).flatten(1).sum(1).mean()
        bound = reconstruction + kl
        loss = bound + self.now(self.guess_weight) * guess
        return {"loss": loss, "bound": bound, "reconstruction": reconstruction, "kl": kl, "guess": guess}

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """What is seen (B, C, H, W), hidden pixels below 0 -> the mean of p(z | s) (B, latent_dim)."""
        m: Tensor = self.encoder(self.filled(x, self.guessed(x)))[:, : self.latent_dim]
        return m

    def guessed(self, seen: Tensor) -> Tensor:
        """(B, C, H, W) -> the guess as the reconstruction term reads it (B, maps · C, H, W)."""
        out: Tensor = self.guess(seen)
        return out.view(len(seen), -1, *seen.shape[2:])

    def filled(self, seen: Tensor, guess: Tensor) -> Tensor:
        return torch.where(seen < 0, self.reconstruction.image(guess), seen)
