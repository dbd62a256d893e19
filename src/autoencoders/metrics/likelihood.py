"""Bounds of log p(x), for models with a normal posterior and a reconstruction term that is a likelihood."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from autoencoders.metrics.base import Subject, Unsupported
from autoencoders.models.base import Variational


@dataclass(frozen=True)
class Likelihood:
    """With log w_i = log p(x | z_i) + log p(z_i) - log q(z_i | x), z_i ~ q(z | x), means over images, in nats:

    - `elbo`: log w_i, its mean over the largest k;
    - `log_p_k` for each k of `k`: log (1/k) sum_i w_i, the importance-weighted bound L_k, which rises to log p(x)
      (Burda, Grosse & Salakhutdinov, 2016, equation 8);
    - `bits_per_dim`: -log_p / (D log 2) of the largest k, D = C H W; of a density of pixels in [0, 1] plus 8, which
      makes it one of 256 greys.

    Codes are drawn `codes_at_once` and added up as they come, so that k costs time and no memory. Of at most `images`
    of the test split; null: all.
    """

    k: Sequence[int]
    codes_at_once: int
    images: int | None

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise ValueError(f"metrics.likelihood.k must be numbers of codes of at least 1, got {list(self.k)}")

    @torch.no_grad()
    def __call__(self, subject: Subject) -> dict[str, float]:
        model = subject.model
        if not isinstance(model, Variational):
            raise Unsupported(f"{type(model).__name__} has no posterior, so there is no bound of log p(x)")
        if not model.likelihood:
            raise Unsupported("its reconstruction term is no likelihood: train with reconstruction=bce or gaussian")
        marks = sorted(set(self.k))
        bounds, elbo, images = torch.zeros(len(marks), dtype=torch.double), 0.0, 0
        for batch in subject.batches("test", limit=self.images):
            mu, logvar = model.posterior(batch.seen, batch.y)
            step = max(self.codes_at_once // len(mu), 1)
            total = torch.full((len(mu),), -math.inf, dtype=torch.double, device=mu.device)  # log of the sum of w
            for mark, (start, end) in enumerate(pairwise([0, *marks])):
                for done in range(start, end, step):
                    log_w = log_weights(model, batch.x, batch.y, mu, logvar, min(step, end - done)).double()
                    total = torch.logaddexp(total, log_w.logsumexp(0))
                    elbo += float(log_w.sum()) / marks[-1]
                bounds[mark] += float((total - math.log(end)).sum())
            images += len(mu)
        values = (bounds / images).tolist()
        bits = -values[-1] / (math.log(2) * math.prod(subject.data.shape)) + 8 * model.density
        named = {f"log_p_{k}": value for k, value in zip(marks, values, strict=True)}
        return {"elbo": elbo / images, **named, "bits_per_dim": bits}


def log_weights(model: Variational, x: Tensor, y: Tensor, mu: Tensor, logvar: Tensor, k: int) -> Tensor:
    """log p(x | z) + log p(z) - log q(z | x) of `k` codes drawn for each image: (k, B)."""
    mu, logvar, x, y = (t.repeat(k, *[1] * (t.ndim - 1)) for t in (mu, logvar, x, y))
    z = model.draw(mu, logvar)
    log_ratio = ((z - mu).square() / logvar.exp() + logvar - z.square()).sum(1) / 2  # of p(z) to q(z | x)
    return (log_ratio - model.error(z, x, y)).view(k, -1)
