"""Lower bounds of log p(x), for models with a normal posterior and a reconstruction term that is a likelihood."""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from aelab.composition.trained import Trained
from aelab.ranges import Count
from aelab.reconstruction import BCE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Likelihood:
    """Lower bounds of log p(x), averaged over test images, in nats.

    With log w_i = log p(x | z_i) + log p(z_i) - log q(z_i | x), z_i ~ q(z | x):

    - `elbo`: mean of log w_i over the codes of the largest k;
    - `log_p_k` for each k of `k`: log (1/k) sum_i w_i, the importance-weighted bound L_k. It rises to log p(x) with k
      (Burda, Grosse & Salakhutdinov, 2016, equation 8);
    - `bits_per_dim`: -log_p / (D log 2) of the largest k, with D = C H W. For a density of pixels in [0, 1], 8 is
      added, which rescales the density to 256 greys. BCE of greys has none, because it is no likelihood of them.

    At most `codes_at_once` codes are drawn together, but at least one per image of a batch. They are added up before
    the next are drawn. A larger k therefore costs time, and no memory. At most `images` test images are used, or all
    of them if that is None.
    """

    k: Sequence[Count]
    codes_at_once: Count
    images: Count | None

    def __post_init__(self) -> None:
        if not self.k:
            raise ValueError("metrics.likelihood.k=[] holds no number of codes: type, for example, [1,5000]")

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        model = trained.model
        marks = sorted(set(self.k))
        bounds, elbo, images = torch.zeros(len(marks), dtype=torch.double), 0.0, 0
        for batch in trained.batches("test", limit=self.images):
            n = batch.x.shape[0]
            with model.remembering():  # the posterior is the same for all codes
                draw = functools.partial(model.log_weights, batch)
                of_batch, mean = importance_weighted(draw, marks, n, self.codes_at_once)
            bounds += of_batch
            elbo += mean
            images += n
        values = (bounds / images).tolist()
        numbers = {"elbo": elbo / images} | {f"log_p_{k}": value for k, value in zip(marks, values, strict=True)}
        if not model.density and isinstance(model.reconstruction, BCE) and not ((batch.x == 0) | (batch.x == 1)).all():
            log.info("no likelihood/bits_per_dim: BCE takes greys for chances: data.binarize=dynamic, or another term")
            return numbers
        bits = -values[-1] / (math.log(2) * math.prod(trained.data.shape)) + 8 * model.density
        return numbers | {"bits_per_dim": bits}


def importance_weighted(
    draw: Callable[[int], Tensor], marks: Sequence[int], n: int, codes_at_once: int
) -> tuple[Tensor, float]:
    """Return the bounds log (1/k) sum_i w_i for each k of `marks`, which rise, and the mean of log w, of `n` data.

    Both are sums over the data. `draw(k)` gives k log weights of each datum, (k, n).
    """
    bounds, mean, step = torch.zeros(len(marks), dtype=torch.double), 0.0, max(codes_at_once // n, 1)
    total = torch.full((n,), -math.inf, dtype=torch.double)  # log of the sum of w so far
    for mark, (start, end) in enumerate(pairwise([0, *marks])):
        for done in range(start, end, step):
            log_w = draw(min(step, end - done)).double()
            total = torch.logaddexp(total.to(log_w), log_w.logsumexp(0))
            mean += float(log_w.sum()) / marks[-1]
        bounds[mark] = float((total - math.log(end)).sum())
    return bounds, mean
