"""JumpReLU: a unit is on if it exceeds a threshold of its own, which is learned.

    z    = h · H(h - θ)        h = encoder(seen), θ = exp(log_threshold) > 0, H the step function
    loss = reconstruction + l0_weight · sum_d H(h_d - θ_d)        averaged over images

The step has no derivative, so the derivative of its expectation by θ is estimated within `bandwidth` ε of the
threshold, with the kernel K(u) = 1 for |u| < 1/2:

    d z / d θ = -(θ / ε) K((h - θ) / ε)        d H / d θ = -(1 / ε) K((h - θ) / ε)

ε is in units of h. Data with numbers of about 1 suit its default.

Rajamanoharan, Lieberum, Sonnerat, Conmy, Varma, Kramár & Nanda, Jumping ahead: improving reconstruction fidelity with
JumpReLU sparse autoencoders, 2024, section 3 and appendix J. https://arxiv.org/abs/2407.14435
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Terms
from aelab.models.sparse_coder import SparseCoder
from aelab.nets.base import Net
from aelab.ranges import Count, Positive
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class Step(torch.autograd.Function):
    """H(h - θ) for h (B, D) and θ (D,). Only θ gets a gradient."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(h, theta)
        ctx.bandwidth = bandwidth
        return (h > theta).to(h)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        h, theta = ctx.saved_tensors
        near = ((h - theta) / ctx.bandwidth).abs() < 0.5
        return None, (-near.to(h) / ctx.bandwidth * gradients[0]).sum(0), None


class JumpReLU(SparseCoder):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        l0_weight: Scheduled,
        threshold: Positive,
        bandwidth: Positive,
        unit_norm: bool,
        pre_bias: bool,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, unit_norm, pre_bias)
        self.l0_weight, self.bandwidth = l0_weight, bandwidth
        self.log_threshold = nn.Parameter(torch.full((latent_dim,), math.log(threshold)))

    def on(self, h: Tensor) -> Tensor:
        """Return H(h - θ) (B, D)."""
        gate: Tensor = Step.apply(h, self.log_threshold.exp(), self.bandwidth)
        return gate

    def sparse(self, h: Tensor) -> Tensor:
        return self.passed(h, self.on(h))

    def passed(self, h: Tensor, on: Tensor) -> Tensor:
        """Return the code z (B, D) of h (B, D) and H(h - θ) (B, D)."""
        # The second summand is 0. Its derivative by θ is θ dH/dθ, where that of h · H would be h dH/dθ.
        return h * on.detach() + self.log_threshold.exp().detach() * (on - on.detach())

    def loss(self, batch: Batch) -> Terms:
        h = self.pre_activations(batch.seen)
        on = self.on(h)
        reconstruction = self.error(self.passed(h, on), batch).mean()
        l0 = on.sum(1).mean()
        loss = reconstruction + self.at_step(self.l0_weight) * l0
        return {"loss": loss, "reconstruction": reconstruction, "l0": l0}
