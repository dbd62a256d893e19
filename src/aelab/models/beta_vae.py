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

from aelab.data.loader import Batch
from aelab.models.base import Terms, Variational, kl_per_unit
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class BetaVAE(Variational):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        beta: Scheduled,
        capacity: Scheduled | None,
        free_bits: NonNegative,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.beta, self.capacity, self.free_bits = beta, capacity, free_bits
        self.encoder = net.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = self.posterior(batch.seen, batch.y)
        reconstruction = self.error(self.draw(mu, logvar), batch).mean()
        kl = kl_per_unit(mu, logvar).mean(0)  # (latent_dim,)
        price = kl.clamp_min(self.free_bits).sum()
        if self.capacity is not None:
            price = (price - self.at_step(self.capacity)).abs()
        loss = reconstruction + self.at_step(self.beta) * price
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl.sum()}
