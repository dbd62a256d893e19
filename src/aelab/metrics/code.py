"""Statistics of a code: how many of its units are active, how sparse it is, and how much it moves with the image."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from aelab import randomness
from aelab.composition.trained import Trained
from aelab.models.base import Variational
from aelab.noise import NoNoise
from aelab.ranges import Count

INFORMATION = 2000  # data over which the mutual information is estimated


@dataclass(frozen=True)
class Code:
    """Statistics of the codes z of clean test images. For a variational code, z is the posterior mean.

    - `active_units`: number of units whose variance over images is above 0.01 (Burda, Grosse & Salakhutdinov, 2016,
      section 5.4);
    - `mean`, `std`: mean and deviation over all values of all codes;
    - `zeros`: share of values that are exactly zero;
    - `hoyer`: (sqrt(D) - |z|₁ / |z|₂) / (sqrt(D) - 1), averaged over images. It is 0 if all units are equal, and 1 if
      one unit is on (Hoyer, 2004). It needs D > 1;
    - `saturation`: share of values below 0.05 or above 0.95. Only codes within [0, 1] have it;
    - `jacobian`: sum of the squared entries of dz/dx, averaged over `jacobian_images` images;
    - `unit/I/mean`, `unit/I/std`: mean and deviation of unit I over images;
    - `unit/I/kl`: KL(q(z_I | x) || N(0, 1)) of a variational code in nats, averaged over images;
    - `mutual_information` of datum and variational code in nats: log q(z | x) - log mean_x' q(z | x'), with one draw z
      for each x, averaged over x (Hoffman & Johnson, ELBO surgery, 2016). Both means are over at most 2,000 test data,
      so it is at most 7.6.

    A map has no `jacobian` and no `unit/…`, because its entries are chosen from a codebook. Tokens have no `jacobian`.
    """

    jacobian_images: Count

    def __call__(self, trained: Trained) -> dict[str, float]:
        z = trained.codes("test")[0].double()
        dimensions = z.shape[1]
        result = {
            "active_units": float((z.var(0, correction=0) > 0.01).sum()),
            "mean": float(z.mean()),
            "std": float(z.std()),
            "zeros": float((z == 0).double().mean()),
        }
        if dimensions > 1:
            ratio = z.abs().sum(1) / z.norm(dim=1).clamp_min(1e-12)
            result["hoyer"] = float(((math.sqrt(dimensions) - ratio) / (math.sqrt(dimensions) - 1)).mean())
        if z.min() >= 0 and z.max() <= 1:
            result["saturation"] = float(((z < 0.05) | (z > 0.95)).double().mean())
        if len(trained.model.code_shape) > 1:
            return result
        if trained.data.domain != "tokens":
            result["jacobian"] = self.jacobian(trained)
        units = {"mean": z.mean(0), "std": z.std(0)}
        if hasattr(trained.model, "posterior"):
            units["kl"] = _kl(trained)
            result["mutual_information"] = mutual_information(*_posteriors(trained))
        return result | {
            f"unit/{i}/{name}": float(values[i]) for i in range(dimensions) for name, values in units.items()
        }

    def jacobian(self, trained: Trained) -> float:
        """Return the sum of the squared entries of dz/dx, averaged over images.

        One backward pass per unit serves all images of a batch, because no encoder couples the images of a batch.
        """
        total, images = 0.0, 0
        for batch in trained.batches("test", NoNoise(), self.jacobian_images):
            x = batch.seen.clone().requires_grad_()
            for unit in trained.model.encode(x, batch.y).sum(0):
                (gradient,) = torch.autograd.grad(unit, x, retain_graph=True)
                total += float(gradient.double().square().sum())
            images += len(x)
        return total / images


def mutual_information(mu: Tensor, logvar: Tensor) -> float:
    """Return the estimate of I(x; z) in nats, of the posteriors N(mu, exp(logvar)) of N data, each (N, D)."""
    z = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=randomness.generator("cpu", "information")).to(mu)
    total, constant = 0.0, logvar.sum(1)  # what all densities share is left out
    for rows, own in zip(z.split(100), torch.arange(len(z)).split(100), strict=True):
        log_q = -((rows[:, None] - mu).square() / logvar.exp()).sum(2) / 2 - constant / 2
        total += float((log_q[torch.arange(len(own)), own] - log_q.logsumexp(1) + math.log(len(mu))).sum())
    return total / len(z)


@torch.no_grad()
def _posteriors(trained: Trained) -> tuple[Tensor, Tensor]:
    batches = trained.batches("test", NoNoise(), INFORMATION)
    model = cast(Variational, trained.model)
    mu, logvar = zip(*(model.posterior(batch.seen, batch.y) for batch in batches), strict=True)
    return torch.cat(mu).double().cpu(), torch.cat(logvar).double().cpu()


@torch.no_grad()
def _kl(trained: Trained) -> torch.Tensor:
    batches = trained.batches("test", NoNoise())
    return torch.cat([trained.model.code(batch)["kl"].double() for batch in batches]).mean(0)
