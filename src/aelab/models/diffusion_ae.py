"""Diffusion autoencoder: a code says what a datum is, and a diffusion model that is told the code draws the rest.

    z    = encoder(seen)                                  the semantic code, of any net
    x_t  = sqrt(a_t) x + sqrt(1 - a_t) e,  e ~ N(0, I)    t uniform from 1 to `steps`
    loss = |target - step(x_t, t, z)|²                    summed over the datum

The target is e (`predicts: epsilon`), or sqrt(a_t) e - sqrt(1 - a_t) x (`predicts: v`). A share `drop_code` of codes
is 0 in training. DDIM leads from x_T to a datum and back. `decode` starts from one x_T for all codes, `generate` from a
drawn one, and `reconstruct` from the datum's own, so it is nearly exact; under noise, which that gives back, it draws.

Preechakul, Chatthee, Wizadwongsa & Suwajanakorn, Diffusion autoencoders, 2022. https://arxiv.org/abs/2111.15640
"""

from typing import Literal

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.models.base import Autoencoder, Terms
from aelab.nets.base import Net
from aelab.nets.ddim import DDIM, Predict
from aelab.noise import Noise, NoNoise
from aelab.ranges import Count, ShareBelow1
from aelab.reconstruction import MSE, Reconstruction


class DiffusionAE(Autoencoder):
    domains = ("unit", "real")
    walks = True
    x_T: Tensor

    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        step: Net,
        steps: Count,
        sampling_steps: Count,
        schedule: Literal["cosine", "linear"],
        predicts: Literal["epsilon", "v"],
        condition_dim: Count,
        drop_code: ShareBelow1,
    ) -> None:
        """Raises UserError for another term than mse, and for a step net of other data."""
        super().__init__(net, reconstruction, latent_dim)
        if not isinstance(reconstruction, MSE):
            raise UserError("model=diffusion_ae has a squared error of its own: type reconstruction=mse")
        if len(net.shape) - 1 not in step.ranks:
            raise UserError("model=diffusion_ae is for signals, images and volumes: its model.step takes no vectors")
        self.scaled, self.drop_code, self.inverts = "real" not in reconstruction.domains, drop_code, True
        self.encoder = net.encoder(latent_dim)
        self.ddim = DDIM(steps, sampling_steps, schedule, predicts)
        first, last = (nn.Linear(n, condition_dim) for n in (2 * DDIM.frequencies + latent_dim, condition_dim))
        self.told = nn.Sequential(first, nn.SiLU(), last)
        self.decoder = step.translator(1, condition=condition_dim)
        self.register_buffer("x_T", torch.randn(1, *net.shape))

    def prepare_for(self, noise: Noise) -> None:
        self.inverts = isinstance(noise, NoNoise)

    def step(self, z: Tensor) -> Predict:
        """Return the step net, told codes (B, latent_dim): x_t (B, C, *sizes) and times (B,) -> the target."""
        return lambda x, t: self.decoder(x, condition=self.told(torch.cat([self.ddim.embedding(t).to(z), z], dim=1)))

    def error(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the squared error (B,) of the target for codes (B, latent_dim), at one time drawn for each."""
        x_t, target, t = self.ddim.noised(self.diffused(batch.x))
        return (~batch.x.isnan() * (target - self.step(z)(x_t, t)).square()).flatten(1).sum(1)

    def loss(self, batch: Batch) -> Terms:
        z = self.encode(batch.seen, batch.y)
        if self.training and self.drop_code:
            z = z * (torch.rand(z.shape[0], 1, device=z.device) >= self.drop_code)
        return {"loss": self.error(z, batch).mean()}

    def decode(self, z: Tensor, y: Tensor | None = None, x_T: Tensor | None = None) -> Tensor:
        """Return data (B, C, *sizes) for codes (B, latent_dim), from `x_T` or from the one x_T of all codes."""
        x = self.ddim.down(self.step(z), self.x_T.expand(z.shape[0], *self.x_T.shape[1:]) if x_T is None else x_T)
        return x.clamp(-1, 1) / 2 + 0.5 if self.scaled else x

    def generate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.decode(z, x_T=torch.randn(z.shape[0], *self.x_T.shape[1:], device=z.device, dtype=z.dtype))

    def invert(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the x_T (B, C, *sizes) from which codes (B, latent_dim) lead to data (B, C, *sizes)."""
        return self.ddim.up(self.step(z), self.diffused(x))

    def reconstruct(self, batch: Batch) -> Tensor:
        z = self.encode_batch(batch)
        return self.decode(z, x_T=self.invert(batch.seen, z)) if self.inverts else self.generate(z)

    def diffused(self, x: Tensor) -> Tensor:
        """Return data as they are diffused: those of [0, 1] in [-1, 1], and what is missing as 0."""
        return (2 * x - 1 if self.scaled else x).nan_to_num(0)
