"""Hierarchical VAE: levels of codes, each drawn knowing those above, that all add to one state on its way down.

    f_1 = encoder(seen), f_i = up_i(f_{i-1})                          bottom-up
    h_L = a learned constant, h_{i-1} = down_i(h_i + w_i(z_i))        top-down, with residual blocks w_i
    p(z_i | z_{>i})    = N(m_i, exp v_i) of h_i
    q(z_i | z_{>i}, x) = N(mu_i, exp logvar_i) of h_i and f_i
    loss = E_q[-log p(x | h_1 + w_1(z_1))] + beta · sum_i max(free_bits, KL(q_i || p_i))      nats per datum

`free_bits`, in nats a level, is what each level may say without a price. KL is averaged over the batch before. With
`beta` = 1 and no free bits the loss is minus the bound. Each level reaches the datum by the state, so none is needed
to pass another on.

Kingma et al., Improving variational inference with inverse autoregressive flow, 2016, section 4 and appendix C,
https://arxiv.org/abs/1606.04934; Child, Very deep VAEs, 2021, figure 3, https://arxiv.org/abs/2011.10650.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Normal, Terms
from aelab.models.hierarchical import Hierarchical, normal, pointwise, terms
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class HVAE(Hierarchical):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        above: Net,
        latent_dims: Sequence[Count],
        widths: Sequence[Count],
        between: str,
        beta: Scheduled,
        free_bits: NonNegative,
    ) -> None:
        super().__init__(net, reconstruction, above, latent_dims, widths, between)
        self.beta, self.free_bits = beta, free_bits
        self.start = nn.Parameter(torch.randn(self.widths[-1]))  # of 0 a ReLU would hand no gradient on
        pairs = list(zip(self.widths, self.shapes, strict=True))
        self.priors = nn.ModuleList(pointwise(width, 2 * shape[0]) for width, shape in pairs)
        self.posteriors = nn.ModuleList(pointwise((2 * width[0], *width[1:]), 2 * shape[0]) for width, shape in pairs)
        self.add = nn.ModuleList(pointwise(shape, width[0]) for width, shape in pairs)
        self.decoder = net.decoder(widths[0], reconstruction.maps)
        self.fall = nn.ModuleList(recipe.decoder(width, 1) for recipe, width in zip(self.down, widths[1:], strict=True))

    def descend(self, choose: Callable[..., Tensor], n: int) -> Tensor:
        h = self.start.expand(n, *self.start.shape)
        for i in reversed(range(len(self.shapes))):
            h = h + self.add[i](choose(i, normal(self.priors[i](self.between(h))), h))
            if i:
                h = self.fall[i - 1](self.between(h))
        return h

    def infer(self, i: int, f: Tensor, p: Normal, *state: Tensor) -> Normal:
        return normal(self.posteriors[i](self.between(torch.cat([f, *state], dim=1))))

    def loss(self, batch: Batch) -> Terms:
        reconstruction, kl = self.bound(batch)
        price = kl.clamp_min(self.free_bits).sum()
        return terms(reconstruction, kl, reconstruction + self.at_step(self.beta) * price)
