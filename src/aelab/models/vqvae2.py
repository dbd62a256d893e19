"""VQ-VAE-2: a code of two levels. The small top map holds what is global, the bottom map holds the rest.

    h      = encoder(seen), (B, width, h, w)
    t      = entries for top.encoder(h), (B, D, h', w')                       a codebook of its own
    b      = entries for linear(h, top.decoder(t)), (B, D, h, w)              another
    loss   = -log p(x | decoder(b, t at the size of b)) + the terms of both codebooks

The code is what the decoder reads, (B, 2 D, h, w). A sampler draws the indices of the top first.

Razavi, van den Oord & Vinyals, Generating diverse high-fidelity images with VQ-VAE-2, 2019, algorithm 1. There the
decoder reads t through a learned upsampling, here each entry of t fills its share of the map.
https://arxiv.org/abs/1906.00446
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.codebooks.base import Codebook
from aelab.data.loader import Batch
from aelab.models.base import Quantized, Terms, once, perplexity
from aelab.nets.base import Net, layer
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction


class VQVAE2(Quantized):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        codebook: Callable[..., Codebook],
        top: Net,
        latent_dim: Count,
        width: Count,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.code_shape = (2 * latent_dim, *net.code_sizes)
        top = top.at((width, *net.code_sizes))
        self.encoder = net.encoder(width)
        self.top_encoder, self.top_decoder = top.encoder(latent_dim), top.decoder(latent_dim, 1)
        self.joint = layer("Conv", net.shape)(2 * width, latent_dim, 1)
        self.top_codebook, self.codebook = codebook(dim=latent_dim), codebook(dim=latent_dim)
        self.decoder = net.decoder(2 * latent_dim, reconstruction.maps)
        self.size, self.top_sizes = self.codebook.size, top.code_sizes
        depth = self.codebook.depth
        self.codebooks = 2 * depth
        books = [torch.arange(depth).repeat(math.prod(sizes)) for sizes in (top.code_sizes, net.code_sizes)]
        self.books = nn.Buffer(torch.cat([books[0], books[1] + depth]), persistent=False)

    @once
    def vectors(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> h (B, width, height, width), before it is quantised."""
        h: Tensor = self.encoder(x)
        return h

    @once
    def indices(self, x: Tensor) -> Tensor:
        h = self.vectors(x)
        top = self.top_codebook.choose(self.top_encoder(h))
        bottom = self.codebook.choose(self.bottom(h, self.top_codebook.look_up(top)))
        return torch.cat([top.flatten(1), bottom.flatten(1)], dim=1)

    def bottom(self, h: Tensor, t: Tensor) -> Tensor:
        """Return the vectors (B, latent_dim, h, w) of the bottom level, for the entries of the top level."""
        vectors: Tensor = self.joint(torch.cat([h, self.top_decoder(t)], dim=1))
        return vectors

    def both(self, t: Tensor, b: Tensor) -> Tensor:
        """Return the code (B, 2 latent_dim, h, w) of the entries of both levels."""
        return torch.cat([b, F.interpolate(t, size=b.shape[2:])], dim=1)

    def look_up(self, indices: Tensor) -> Tensor:
        n, depth = indices.shape[0], self.codebook.depth
        first = math.prod(self.top_sizes) * depth  # places of the top
        t = self.top_codebook.look_up(indices[:, :first].view(n, *self.top_sizes, depth))
        b = self.codebook.look_up(indices[:, first:].view(n, *self.code_shape[1:], depth))
        return self.both(t, b)

    def loss(self, batch: Batch) -> Terms:
        h = self.vectors(batch.seen)
        t, top, of_top = self.top_codebook(self.top_encoder(h), self.at_step)
        b, bottom, of_bottom = self.codebook(self.bottom(h, t), self.at_step)
        reconstruction = self.error(self.both(t, b), batch).mean()
        terms = {name: of_top[name] + value for name, value in of_bottom.items()}
        used = perplexity(self.uses(torch.cat([top.flatten(1), bottom.flatten(1)], dim=1)))
        return {**terms, "loss": reconstruction + terms["loss"], "reconstruction": reconstruction, "perplexity": used}
