"""Priors fitted to the codes of a trained model, so that any autoencoder can make new images.

Ghosh, Sajjadi, Vergari, Black & Schölkopf, From variational to deterministic autoencoders, 2020, section 4: a density
estimated after training. https://arxiv.org/abs/1903.12436
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

from aelab import randomness
from aelab.composition.trained import Trained
from aelab.errors import Unsupported
from aelab.models.base import Quantized
from aelab.noise import NoNoise

IMAGES = 10_000  # whose codes a density is fitted to
AT_ONCE = 500  # images decoded together


class Sampler(Protocol):
    """Raises Unsupported for a model whose codes are of another kind."""

    def __call__(self, trained: Trained, n: int) -> Tensor:
        """`n` new images (n, C, H, W) in [0, 1], on the CPU, from a prior fitted to the codes of training images."""
        ...


@dataclass(frozen=True)
class Prior:
    """The model's own prior."""

    @torch.no_grad()
    def __call__(self, trained: Trained, n: int) -> Tensor:
        if not trained.model.generative:
            raise Unsupported(f"{type(trained.model).__name__} has no prior of its own")
        randomness.seed(trained.device, "prior")
        return torch.cat([trained.model.sample(min(AT_ONCE, n - i)).cpu() for i in range(0, n, AT_ONCE)])


class Fitted(Sampler, Protocol):
    """A density of vector codes. A conditional model is told the labels of training images drawn at random."""

    def draw(self, codes: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        """Fit to codes (N, D), and draw (n, D)."""
        ...

    @torch.no_grad()
    def __call__(self, trained: Trained, n: int) -> Tensor:
        if len(trained.model.code_shape) > 1:
            raise Unsupported("a code of this model is a map of entries: type the sampler autoregressive")
        codes, labels = trained.codes("train", IMAGES)
        z = torch.from_numpy(self.draw(codes.double().numpy(), n)).float()
        g = randomness.generator("cpu", "labels of samples")
        y = labels[torch.randint(len(labels), (n,), generator=g)]
        return torch.cat(
            [
                trained.model.decode(a.to(trained.device), b.to(trained.device)).cpu()
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

    components: int

    def draw(self, codes: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        drawn = GaussianMixture(min(self.components, len(codes)), random_state=0).fit(codes).sample(n)[0]
        return np.asarray(np.random.default_rng(0).permutation(drawn))  # they come component by component


@dataclass(frozen=True)
class KDE(Fitted):
    """A normal kernel on every code, its width by Scott's rule: N^(-1 / (D + 4)) times the codes' mean deviation."""

    def draw(self, codes: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        width = float(codes.std(0).mean()) * len(codes) ** (-1 / (codes.shape[1] + 4))
        return np.asarray(KernelDensity(bandwidth=max(width, 1e-6)).fit(codes).sample(n, random_state=0))


@dataclass(frozen=True)
class Autoregressive:
    """Of a codebook's indices, row by row: a recurrent net predicts each from those before it (a GRU in the place of
    the PixelCNN of van den Oord, Vinyals & Kavukcuoglu, 2017)."""

    hidden_dim: int
    epochs: int

    def __call__(self, trained: Trained, n: int) -> Tensor:
        model, device = trained.model, trained.device
        if not isinstance(model, Quantized):
            raise Unsupported("the sampler autoregressive is for the indices of a codebook: type gmm, kde or gaussian")
        with torch.no_grad():
            maps = torch.cat([model.indices(batch.x) for batch in trained.batches("train", NoNoise(), IMAGES)])
        randomness.seed(device, "autoregressive")
        net = _Next(len(model.entries), self.hidden_dim).to(device)
        _fit(net, maps.flatten(1), self.epochs)
        with torch.no_grad():
            indices, state = torch.zeros(n, 0, dtype=torch.long, device=device), None
            for _ in range(maps[0].numel()):
                logits, state = net(indices[:, -1:], state)
                indices = torch.cat([indices, torch.multinomial(logits[:, -1].softmax(1), 1)], dim=1)
            drawn = indices.view(n, *maps.shape[1:]).split(AT_ONCE)
            return torch.cat([model.decode(model.look_up(part)).cpu() for part in drawn])


@torch.enable_grad()
def _fit(net: "_Next", sequences: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(sequences), device=sequences.device).split(64):
            logits, _ = net(sequences[rows])
            optimizer.zero_grad()
            F.cross_entropy(logits[:, :-1].flatten(0, 1), sequences[rows].flatten()).backward()
            optimizer.step()


class _Next(nn.Module):
    """(B, T) indices -> (B, T + 1, size) logits of what stands at each place, the first from nothing; with the state
    of an earlier call (B, 1) -> (B, 1, size), which goes on from there."""

    def __init__(self, size: int, hidden_dim: int) -> None:
        super().__init__()
        self.start = size
        self.embedding = nn.Embedding(size + 1, hidden_dim)
        self.gru = nn.GRU(hidden_dim, hidden_dim, batch_first=True)
        self.logits = nn.Linear(hidden_dim, size)

    def forward(self, indices: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if state is None:
            indices = F.pad(indices, (1, 0), value=self.start)
        out, state = self.gru(self.embedding(indices), state)
        return self.logits(out), state
