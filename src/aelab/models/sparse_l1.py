"""Sparse autoencoder with an L1 penalty: most codes are exactly or almost zero on most images.

    z    = f(encoder(seen))        f: `code_activation`; ReLU makes zeros exact
    loss = reconstruction + sparsity_weight · sum_j |z_j|        averaged over images

With `decoder_norm` a unit counts with the norm of its column of the decoder: sum_j |z_j| |W_j|. Without it, codes can
be small and columns large, so that the penalty falls and nothing is sparse (Conerly et al., Update on how we train
SAEs, 2024). A linear encoder then begins as the transpose of the decoder.

The penalty is minus the log of a Laplace prior over codes, up to a constant: the encoder amortises the inference of
Olshausen & Field, Emergence of simple-cell receptive field properties by learning a sparse code, 1996, equation 2-4.
"""

from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.models.base import Autoencoder, Terms
from aelab.models.sparse_coder import dictionary, transpose
from aelab.nets.base import Net, activation
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled


class SparseL1(Autoencoder):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        code_activation: str,
        sparsity_weight: Scheduled,
        decoder_norm: bool,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.sparsity_weight, self.decoder_norm = sparsity_weight, decoder_norm
        self.encoder = nn.Sequential(net.encoder(latent_dim), activation(code_activation, "model.code_activation"))
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        if decoder_norm:
            dictionary(self.decoder, latent_dim, "model.decoder_norm")
            transpose(self.encoder, self.decoder)

    def loss(self, batch: Batch) -> Terms:
        z = self.encode(batch.seen, batch.y)
        reconstruction = self.error(z, batch).mean()
        size = z.abs()
        if self.decoder_norm:
            size = size * dictionary(self.decoder, self.latent_dim, "model.decoder_norm").weight.norm(dim=0)
        sparsity = size.sum(1).mean()
        loss = reconstruction + self.at_step(self.sparsity_weight) * sparsity
        return {"loss": loss, "reconstruction": reconstruction, "sparsity": sparsity}

    def active(self, z: Tensor) -> Tensor:
        """Which units are on."""
        return z.abs() > 1e-3
