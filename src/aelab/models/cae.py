"""Contractive autoencoder: a code that moves little where the image moves little.

    z    = f(encoder(seen))
    loss = reconstruction + contraction_weight · |J|²        |J|² = sum_ji (dz_j / dx_i)², averaged over images

Estimators of |J|²:

- `hutchinson`: E_v |Jᵀ v|² with one v ~ N(0, I) an image; unbiased, one more backward pass, any net;
- `exact`: all rows of J by torch.func; for small codes, any net;
- `closed_form`: sum_j (z_j (1 - z_j))² sum_i W_ji², for one sigmoid layer, at the cost of a forward pass.

Rifai, Vincent, Muller, Glorot & Bengio, Contractive auto-encoders, 2011, equations 2, 7 and 9.
Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms
from aelab.nets.base import Net, activation
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class CAE(Autoencoder):
    domains: ClassVar[tuple[str, ...]] = ("unit", "real")

    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        code_activation: str,
        contraction_weight: Scheduled,
        estimator: Literal["hutchinson", "exact", "closed_form"],
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.contraction_weight = contraction_weight
        f = activation(code_activation, "model.code_activation")
        self.encoder = nn.Sequential(net.encoder(latent_dim), f)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        estimators = {"hutchinson": self.hutchinson, "exact": self.exact, "closed_form": self.closed_form}
        one_layer = [type(m) for m in self.encoder.modules()][2:] == [nn.Flatten, nn.Linear, nn.Sigmoid]
        if estimator == "closed_form" and not one_layer:
            raise ValueError(
                "model.estimator=closed_form is for one sigmoid layer: type net=mlp net.hidden_dims=[] "
                "model.code_activation=Sigmoid, or model.estimator=hutchinson"
            )
        self.code_and_norm = estimators[estimator]

    def loss(self, batch: Batch) -> Terms:
        with torch.enable_grad():  # the penalty is a derivative in evaluation too
            z, norm = self.code_and_norm(batch.seen.detach().requires_grad_())
        reconstruction = self.error(z, batch).mean()
        contraction = norm.mean()
        loss = reconstruction + self.at_step(self.contraction_weight) * contraction
        return {"loss": loss, "reconstruction": reconstruction, "contraction": contraction}

    # Each: images (B, C, H, W) -> codes (B, latent_dim) and |J|² (B,). A compiled encoder cannot be differentiated
    # twice: `forward` is the one that is not.

    def hutchinson(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder.forward(x)
        (gradient,) = torch.autograd.grad(z, x, torch.randn_like(z), create_graph=self.training)
        return z, gradient.flatten(1).square().sum(1)

    def exact(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def code(image: Tensor) -> Tensor:
            z: Tensor = self.encoder.forward(image[None])[0]
            return z

        jacobian = torch.func.vmap(torch.func.jacrev(code), randomness="different")(x.detach())
        return self.encoder.forward(x), jacobian.flatten(1).square().sum(1)

    def closed_form(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x.detach())
        weight = next(m.weight for m in self.encoder.modules() if isinstance(m, nn.Linear))
        return z, (z * (1 - z)).square() @ weight.square().sum(1)
