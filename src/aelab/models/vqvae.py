"""Vector-quantised variational autoencoder: a code is a map of entries of a learned codebook.

    h    = encoder(seen), (B, D, h, w)        e = the codebook's entry nearest to each of its h·w vectors
    loss = -log p(x | decoder(e)) + |sg(h) - e|² + commitment_weight · |h - sg(e)|²        sg: no gradient

The decoder's gradient passes straight through from e to h. With `codebook: ema` no gradient moves the entries: each is
the running mean of the vectors that chose it, and the middle term is left out. Without a prior over codes it cannot
sample; a sampler that is fitted to the codes of a trained model can.

van den Oord, Vinyals & Kavukcuoglu, Neural discrete representation learning, 2017, equations 1-3 and appendix A.1,
https://arxiv.org/abs/1711.00937; revival of idle entries: Dhariwal et al., Jukebox, 2020, section 3.1.
"""

from typing import Literal

import torch
from torch import Tensor

from aelab.data.loader import Batch
from aelab.models.base import Quantized, Terms, once
from aelab.nets.base import Net
from aelab.nets.codebook import Codebook
from aelab.ranges import Count, Share, Whole
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class VQVAE(Quantized):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        codebook_size: Count,
        codebook: Literal["ema", "loss"],
        commitment_weight: Scheduled,
        decay: Share,
        revive_after: Whole,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.commitment_weight = commitment_weight
        self.encoder = net.encoder(latent_dim)
        self.codebook = Codebook(codebook_size, latent_dim, codebook == "ema", decay, revive_after)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) -> the entries of their codes (B, latent_dim, h, w)."""
        e: Tensor = self.codebook(self.indices(x))
        return e

    @once
    def vectors(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> h (B, latent_dim, height, width), before it is quantised."""
        h: Tensor = self.encoder(x)
        return h

    @once
    def indices(self, x: Tensor) -> Tensor:
        return self.codebook.nearest(self.vectors(x))

    @property
    def entries(self) -> Tensor:
        return self.codebook.entries

    def loss(self, batch: Batch) -> Terms:
        h = self.vectors(batch.seen)
        if self.training:
            self.codebook.revive(h)
        indices = self.codebook.nearest(h)
        e = self.codebook(indices)
        reconstruction = self.error(h + (e - h).detach(), batch).mean()
        commitment = (h - e.detach()).square().flatten(1).sum(1).mean()
        terms = {"reconstruction": reconstruction, "commitment": commitment}
        loss = reconstruction + self.at_step(self.commitment_weight) * commitment
        if not self.codebook.ema:
            terms["codebook"] = (h.detach() - e).square().flatten(1).sum(1).mean()
            loss = loss + terms["codebook"]
        share = torch.bincount(indices.flatten(), minlength=len(self.codebook.entries)) / indices.numel()
        terms["perplexity"] = torch.special.entr(share).sum().exp()  # how many entries the batch uses, were it evenly
        if self.training:
            self.codebook.follow(h, indices)
        return {"loss": loss, **terms}
