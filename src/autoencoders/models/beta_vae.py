"""beta-VAE: how much a code may say is weighed, or aimed at, so that its units come apart.

    kl_d = KL(q(z_d | x) || N(0, 1)), averaged over images
    loss = reconstruction + beta · sum_d max(free_bits, kl_d)                      (capacity: null)
    loss = reconstruction + beta · |sum_d max(free_bits, kl_d) - capacity|         the capacity form

beta > 1 disentangles; `capacity`, in nats, is usually a schedule that rises over training; `free_bits`, in nats a unit
in spite of its name, is what each unit may say without a price, so that none of them collapses.

Higgins et al., beta-VAE, 2017, equation 4; Burgess et al., Understanding disentangling in beta-VAE, 2018, equation 8,
https://arxiv.org/abs/1804.03599; Kingma et al., Improving variational inference with inverse autoregressive flow,
2016, equation 15, https://arxiv.org/abs/1606.04934.
"""

from torch import Tensor

from autoencoders.models.base import Terms, Variational
from autoencoders.nets.base import Net
from autoencoders.reconstruction import Reconstruction
from autoencoders.schedules import Weight


class BetaVAE(Variational):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: int,
        beta: Weight,
        capacity: Weight | None,
        free_bits: float,
    ) -> None:
        super().__init__(latent_dim, reconstruction)
        self.beta, self.capacity, self.free_bits = beta, capacity, free_bits
        self.encoder = net.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        mu, logvar = self.posterior(seen)
        reconstruction = self.reconstruction.error(self.decoder(self.draw(mu, logvar)), x).mean()
        kl = (mu.square() + logvar.exp() - 1 - logvar).mean(0) / 2  # (latent_dim,)
        price = kl.clamp_min(self.free_bits).sum()
        if self.capacity is not None:
            price = (price - self.now(self.capacity)).abs()
        loss = reconstruction + self.now(self.beta) * price
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl.sum()}
