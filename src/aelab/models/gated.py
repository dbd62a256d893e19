"""Gated sparse autoencoder: one path says which units are on, another one how much, so the penalty shrinks nothing.

    gate = h + b_gate,  magnitude = relu(exp(r) h + b_magnitude)        h = encoder(seen)
    z    = H(gate) · magnitude        H the step function
    loss = reconstruction(z) + sparsity_weight · sum_d relu(gate_d) + reconstruction of the frozen decoder(relu(gate))

The last term, `auxiliary`, trains the gates, which the first one gives no gradient. The decoder gets none from it.

Rajamanoharan, Conmy, Smith, Lieberum, Varma, Kramár, Shah & Nanda, Improving dictionary learning with gated sparse
autoencoders, 2024, equation 8. https://arxiv.org/abs/2404.16014
"""

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Terms
from aelab.models.sparse_coder import SparseCoder
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class Gated(SparseCoder):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        sparsity_weight: Scheduled,
        unit_norm: bool,
        pre_bias: bool,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, unit_norm, pre_bias)
        self.sparsity_weight = sparsity_weight
        self.gate_bias, self.magnitude_bias, self.log_scale = (nn.Parameter(torch.zeros(latent_dim)) for _ in range(3))

    def sparse(self, h: Tensor) -> Tensor:
        magnitude = (self.log_scale.exp() * h + self.magnitude_bias).relu()
        return torch.where(h + self.gate_bias > 0, magnitude, 0)

    def loss(self, batch: Batch) -> Terms:
        h = self.pre_activations(batch.seen)
        reconstruction = self.error(self.sparse(h), batch).mean()
        gate = (h + self.gate_bias).relu()
        sparsity = gate.sum(1).mean()
        frozen = {name: value.detach() for name, value in self.decoder.named_parameters()}
        given = (gate, batch.x) if self.autoregressive else (gate,)
        out = torch.func.functional_call(self.decoder, frozen, given)
        auxiliary = self.reconstruction.error(out, batch.x).mean()
        loss = reconstruction + self.at_step(self.sparsity_weight) * sparsity + auxiliary
        return {"loss": loss, "reconstruction": reconstruction, "sparsity": sparsity, "auxiliary": auxiliary}
