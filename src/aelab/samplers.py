"""Samplers: priors fitted to the codes of a trained model, so that any autoencoder can generate data.

Ghosh, Sajjadi, Vergari, Black & Schölkopf, From variational to deterministic autoencoders, 2020, section 4, estimate
such a density after training. https://arxiv.org/abs/1903.12436
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import Tensor

from aelab import randomness
from aelab.composition.trained import Trained
from aelab.errors import Unsupported
from aelab.models.base import Quantized
from aelab.nets.next_index import GRU, CausalTransformer, NextIndex
from aelab.noise import NoNoise
from aelab.ranges import Count

IMAGES = 10_000  # a density is fitted to the codes of at most this many training images
AT_ONCE = 500  # images decoded together


class Sampler(Protocol):
    """Generates data with a trained model. Raises Unsupported for a model that it cannot sample from."""

    def __call__(self, trained: Trained, n: int) -> Tensor:
        """Return `n` new images (n, C, *sizes), on the CPU."""
        ...


@dataclass(frozen=True)
class Prior:
    """The model's own prior. Nothing is fitted."""

    @torch.no_grad()
    def __call__(self, trained: Trained, n: int) -> Tensor:
        if not trained.model.generative:
            raise Unsupported(f"{type(trained.model).__name__} has no prior of its own")
        randomness.seed(trained.device, "prior")
        return torch.cat([trained.model.sample(min(AT_ONCE, n - i)).cpu() for i in range(0, n, AT_ONCE)])


class Fitted(Sampler, Protocol):
    """A density fitted to the vector codes of training images.

    A conditional model gets the labels of training images that are drawn at random.
    """

    def draw(self, codes: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        """Fit the density to codes (N, D), and draw `n` codes (n, D)."""
        ...

    @torch.no_grad()
    def __call__(self, trained: Trained, n: int) -> Tensor:
        if len(trained.model.code_shape) > 1:
            raise Unsupported("the codes of this model are maps of entries: use the sampler autoregressive")
        codes, labels = trained.codes("train", IMAGES)
        if len(codes) < 2:
            raise Unsupported("a density is fitted to the codes of two training images or more")
        z = torch.from_numpy(self.draw(codes.double().numpy(), n)).float()
        g = randomness.generator("cpu", "labels of samples")
        y = labels[torch.randint(len(labels), (n,), generator=g)]
        randomness.seed(trained.device, "samples")
        return torch.cat(
            [
                trained.model.generate(a.to(trained.device), b.to(trained.device)).cpu()
                for a, b in zip(z.split(AT_ONCE), y.split(AT_ONCE), strict=True)
            ]
        )


@dataclass(frozen=True)
class Gaussian(Fitted):
    """One normal distribution with a full covariance."""

    def draw(self, codes: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        return np.asarray(GaussianMixture(1, random_state=0).fit(codes).sample(n)[0])


@dataclass(frozen=True)
class GMM(Fitted):
    """A mixture of `components` normal distributions with full covariances."""

    components: Count

    def draw(self, codes: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        drawn = GaussianMixture(min(self.components, len(codes)), random_state=0).fit(codes).sample(n)[0]
        return np.asarray(np.random.default_rng(0).permutation(drawn))  # scikit-learn returns them sorted by component


@dataclass(frozen=True)
class KDE(Fitted):
    """A kernel density estimate with a normal kernel on every code.

    The kernel's width follows Scott's rule: N^(-1 / (D + 4)) times the deviation of the codes, averaged over units.
    """

    def draw(self, codes: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        width = float(codes.std(0).mean()) * len(codes) ** (-1 / (codes.shape[1] + 4))
        return np.asarray(KernelDensity(bandwidth=max(width, 1e-6)).fit(codes).sample(n, random_state=0))


class OfIndices(Sampler, Protocol):
    """An autoregressive model of a code's indices, place by place. See `Quantized.books` for their order."""

    epochs: Count

    def net(self, size: int, books: Tensor) -> NextIndex:
        """Return a net that predicts indices below `size`. `books` (N,) is the codebook of each place."""
        ...

    def __call__(self, trained: Trained, n: int) -> Tensor:
        model, device = trained.model, trained.device
        if not isinstance(model, Quantized):
            raise Unsupported("it needs the indices of a codebook: use gmm, kde or gaussian")
        with torch.no_grad():
            indices = torch.cat([model.indices(batch.x) for batch in trained.batches("train", NoNoise(), IMAGES)])
        randomness.seed(device, "autoregressive")
        net = self.net(model.size, model.books).to(device)
        _fit(net, indices, self.epochs)
        with torch.no_grad():
            drawn, state = torch.zeros(n, 0, dtype=torch.long, device=device), None
            for _ in range(indices.shape[1]):
                logits, state = net(drawn[:, -1:], state)
                drawn = torch.cat([drawn, torch.multinomial(logits[:, -1].softmax(1), 1)], dim=1)
            return torch.cat([model.decode(model.look_up(part)).cpu() for part in drawn.split(AT_ONCE)])


@dataclass(frozen=True)
class Autoregressive(OfIndices):
    """A recurrent net (GRU) predicts each index from those before it.

    van den Oord, Vinyals & Kavukcuoglu, 2017, use a PixelCNN instead of the GRU.
    """

    hidden_dim: Count
    epochs: Count

    def net(self, size: int, books: Tensor) -> NextIndex:
        return GRU(size, books, self.hidden_dim)


@dataclass(frozen=True)
class Transformer(OfIndices):
    """A causal transformer predicts each index from those before it, as in Esser et al., VQGAN, 2021, section 3.2."""

    dim: Count
    depth: Count
    heads: Count
    epochs: Count

    def net(self, size: int, books: Tensor) -> NextIndex:
        return CausalTransformer(size, books, self.dim, self.depth, self.heads)


@torch.enable_grad()
def _fit(net: NextIndex, sequences: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(sequences), device=sequences.device).split(64):
            logits, _ = net(sequences[rows])
            optimizer.zero_grad()
            F.cross_entropy(logits[:, :-1].flatten(0, 1), sequences[rows].flatten()).backward()
            optimizer.step()
