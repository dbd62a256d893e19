"""Vector-quantised variational autoencoder: a code is a map of entries of a codebook.

    h    = encoder(seen), (B, D, h, w)        e = the entries that the codebook lets stand for the h·w vectors of h
    loss = -log p(x | decoder(e)) + the terms of the codebook

The codebook (`codebook=`) says which entry a vector takes, what it costs, and how a gradient passes from e to h. That
of the paper is `codebook=loss`: the entry is the nearest one, and the terms are |sg(h) - e|² + 0.25 · |h - sg(e)|²
with no gradient through sg. Without a prior over codes the model cannot sample. A sampler that is fitted to the
indices of a trained model can.

van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation learning, 2017, equations 1-3.
https://arxiv.org/abs/1711.00937
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from aelab.codebooks.base import Codebook
from aelab.data.loader import Batch
from aelab.models.base import Quantized, Terms, once, perplexity
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction


class VQVAE(Quantized):
    def __init__(
        self, net: Net, reconstruction: Reconstruction, codebook: Callable[..., Codebook], latent_dim: Count
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.encoder = net.encoder(latent_dim)
        self.codebook = codebook(dim=latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        self.size, self.codebooks = self.codebook.size, self.codebook.depth
        books = torch.arange(self.codebook.depth).repeat(math.prod(net.code_sizes))
        self.books = nn.Buffer(books, persistent=False)

    @once
    def vectors(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> h (B, latent_dim, height, width), before it is quantised."""
        h: Tensor = self.encoder(x)
        return h

    @once
    def indices(self, x: Tensor) -> Tensor:
        return self.codebook.choose(self.vectors(x)).flatten(1)

    def look_up(self, indices: Tensor) -> Tensor:
        return self.codebook.look_up(indices.view(indices.shape[0], *self.code_shape[1:], self.codebook.depth))

    def loss(self, batch: Batch) -> Terms:
        e, indices, terms = self.codebook(self.vectors(batch.seen), self.at_step)
        reconstruction = self.error(e, batch).mean()
        used = perplexity(self.uses(indices.flatten(1)))  # how many entries the batch uses, were it evenly
        return {**terms, "loss": reconstruction + terms["loss"], "reconstruction": reconstruction, "perplexity": used}
