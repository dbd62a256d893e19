"""Conditional variational autoencoder: the label is known to encoder and decoder, so the code need not hold it.

    q(z | x, y) = N(mu(x, y), diag exp(logvar(x, y)))        p(z) = N(0, I)
    loss        = E_q[-log p(x | z, y)] + KL(q(z | x, y) || p(z))        nats per image: minus a bound of log p(x | y)

The encoder sees the label as one more channel, an H×W map learned for each class; the decoder as a one-hot vector
beside the code. `sample(n, y)` draws images of the classes `y`.

Sohn, Lee & Yan, Learning structured output representation using deep conditional generative models, 2015, equation 4;
Kingma, Rezende, Mohamed & Welling, Semi-supervised learning with deep generative models, 2014 (M2's labelled bound).
"""

from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.models.base import Terms, Variational, kl, once, standard_normal
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction


class CVAE(Variational):
    conditional: ClassVar[bool] = True

    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: Count, num_classes: Count | None) -> None:
        super().__init__(net, reconstruction, latent_dim)
        if num_classes is None:
            raise ValueError("model.num_classes is how many labels there are: type data.num_classes=…")
        self.num_classes = num_classes
        self.label = nn.Embedding(num_classes, prod(net.shape[1:]))
        self.encoder = net.encoder(2 * latent_dim, extra=1)
        self.decoder = net.decoder(latent_dim + num_classes, reconstruction.maps)

    @once
    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        label = self.label(self.known(y)).view(-1, 1, *x.shape[2:])
        mu, logvar = self.encoder(x, label).chunk(2, dim=1)
        return mu, logvar

    def out(self, z: Tensor, y: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        return super().out(torch.cat([z, F.one_hot(self.known(y), self.num_classes).to(z)], dim=1), x=x)

    def loss(self, batch: Batch) -> Terms:
        mu, logvar = self.posterior(batch.seen, batch.y)
        reconstruction = self.error(self.draw(mu, logvar), batch).mean()
        divergence = kl(mu, logvar).mean()
        return {"loss": reconstruction + divergence, "reconstruction": reconstruction, "kl": divergence}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """`n` images of the classes `y` (n,), or of classes drawn at random."""
        z = standard_normal(self, n)
        return self.decode(z, torch.randint(self.num_classes, (n,), device=z.device) if y is None else y)

    def known(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise UserError("a conditional model needs the labels: encode(x, y), decode(z, y), model(x, y)")
        return y
