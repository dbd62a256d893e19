"""Wiring of models whose code has several levels, each of which is told what the levels above it hold."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.models.base import Autoencoder, Normal, Terms, draw, kl_per_unit, once
from aelab.nets.base import Net, activation, layer
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction


class Level(NamedTuple):
    """A level of the code: what was drawn, and the posterior and the prior of it."""

    z: Tensor
    q: Normal
    p: Normal

    def kl(self) -> Tensor:
        """Return KL(q || p) of each unit, (B, units)."""
        return kl_per_unit(*self.q, self.p).flatten(1)


class Hierarchical(Autoencoder):
    """A model of levels 1 to L, the lowest first. Level 1 is the nearest to the datum.

    The net of the run leads from the datum to level 1. `above`, the same recipe `at` the shape of each level, leads
    from each level to the next. So levels are vectors, or maps if the net has maps. Levels are joined by `widths`
    numbers, or maps, with an activation. The code is all levels, flattened, the lowest first.
    """

    codes = ("vector", "map")

    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        above: Net,
        latent_dims: Sequence[Count],
        widths: Sequence[Count],
        between: str,
        stochastic: bool = False,
    ) -> None:
        """`stochastic`: what leads up reads the codes of the level below, instead of its features.

        Raises UserError for lists of unequal length, and for a net `above` that takes no such levels.
        """
        if len(latent_dims) != len(widths) or len(widths) < 2:
            raise UserError(
                "model.latent_dims and model.widths have a number for each of two levels or more: got "
                f"{list(latent_dims)} and {list(widths)}"
            )
        super().__init__(net, reconstruction, min(latent_dims))
        recipes, self.shapes = [net], list[tuple[int, ...]]()
        for latent_dim, width in zip(latent_dims, widths, strict=True):
            sizes = recipes[-1].code_sizes
            self.shapes.append((latent_dim, *sizes))
            if len(self.shapes) < len(widths):
                if len(sizes) not in above.ranks:
                    raise UserError(f"model.above takes no level of {len(sizes)} sizes: type net@model.above=mlp")
                recipes.append(above.at((latent_dim if stochastic else width, *sizes)))
        self.latent_dim = sum(map(prod, self.shapes))
        self.code_shape = (self.latent_dim,)
        self.widths = [(width, *sizes) for width, (_, *sizes) in zip(widths, self.shapes, strict=True)]
        self.between = activation(between, "model.between")
        self.encoder, *rise = (recipe.encoder(width) for recipe, width in zip(recipes, widths, strict=True))
        self.rise = nn.ModuleList(rise)
        self.down = [above.at(width) for width in self.widths[:-1]]  # recipes, each from the level above

    def descend(self, choose: Callable[..., Tensor], n: int) -> Tensor:
        """Walk from the highest level to the lowest, and return what the decoder reads, for `n` data.

        At level i (from 0) with prior p, the code is `choose(i, p, …)`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no way down")

    def infer(self, i: int, f: Tensor, p: Normal, *state: Tensor) -> Normal:
        """Return the posterior of level i, of its features f and what came from above."""
        raise NotImplementedError(f"{type(self).__name__} defines no posterior")

    @once
    def features(self, x: Tensor) -> list[Tensor]:
        """Data (B, C, *sizes) -> the features (B, width, *sizes) of each level."""
        found = [self.encoder(x)]
        for up in self.rise:
            found.append(up(self.between(found[-1])))
        return found

    @once
    def levels(self, x: Tensor, k: int = 1, drawn: bool = True) -> tuple[Tensor, list[Level]]:
        """Return what the decoder reads, and the levels, of `k` codes (k B, …) of data (B, C, *sizes).

        If not `drawn`, each level is the mean of its posterior.
        """
        features, levels = [f.repeat(k, *[1] * (f.ndim - 1)) for f in self.features(x)], list[Level]()

        def choose(i: int, p: Normal, *state: Tensor) -> Tensor:
            q = self.infer(i, features[i], p, *state)
            levels.append(Level(draw(*q) if drawn else q[0], q, p))
            return levels[-1].z

        h = self.descend(choose, k * x.shape[0])
        return h, levels[::-1]

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Data (B, C, *sizes) -> the means of all levels (B, latent_dim), the lowest first."""
        return torch.cat([level.z.flatten(1) for level in self.levels(x, 1, False)[1]], dim=1)

    def split(self, z: Tensor) -> list[Tensor]:
        """Codes (B, latent_dim) -> the code of each level (B, *shape)."""
        parts = z.split([prod(shape) for shape in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def out(self, z: Tensor, y: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        levels = self.split(z)
        return super().out(self.descend(lambda i, *_: levels[i], z.shape[0]), x=x)

    def bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the reconstruction term, and the KL of each level (L,), of a batch."""
        h, levels = self.levels(batch.seen)
        error = self.reconstruction.error(super().out(h, x=batch.x), batch.x)
        return error.mean(), torch.stack([level.kl().sum(1).mean() for level in levels])

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        self.check_likelihood()
        h, levels = self.levels(batch.seen, k)
        x = batch.x.repeat(k, *[1] * (batch.x.ndim - 1))
        log_w = -self.reconstruction.error(super().out(h, x=x), x)
        for z, q, p in levels:
            log_w = log_w + (log_density(z, p) - log_density(z, q))
        return log_w.view(k, -1)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return `n` data (n, C, *sizes). Each level is drawn from its prior, the highest first."""
        return self.reconstruction.mean(super().out(self.descend(lambda i, p, *_: draw(*p), n)))

    def code(self, batch: Batch) -> Terms:
        """`z`, the means; `kl`, the KL of each unit; `kl_per_level`, the KL of each level (B, L)."""
        levels = [level.kl() for level in self.levels(batch.seen)[1]]
        per_level = torch.stack([level.sum(1) for level in levels], dim=1)
        return super().code(batch) | {"kl": torch.cat(levels, dim=1), "kl_per_level": per_level}


def log_density(z: Tensor, normal: Normal) -> Tensor:
    """Return log N(z) (B,), without the constant log(2 pi) / 2 per unit, which cancels in a ratio."""
    mean, logvar = normal
    return -((z - mean).square() / logvar.exp() + logvar).flatten(1).sum(1) / 2


def normal(h: Tensor) -> Normal:
    """Return mean and log variance (B, D, *sizes), of maps (B, 2 D, *sizes) that hold them.

    The log variance is cut off at ±15. The prior is learned, so nothing else keeps the scale of a level.
    """
    mean, logvar = h.chunk(2, dim=1)
    return mean, logvar.clamp(-15, 15)


def pointwise(inputs: tuple[int, ...], outputs: int) -> nn.Module:
    """Return a linear map of each place of a level (B, *inputs) to (B, outputs, *sizes)."""
    if len(inputs) == 1:
        return nn.Linear(inputs[0], outputs)
    conv: nn.Module = layer("Conv", inputs)(inputs[0], outputs, 1)
    return conv


def terms(reconstruction: Tensor, kl: Tensor, loss: Tensor) -> Terms:
    """Return the terms of a loss, with the KL of each level as `kl_1`, the lowest, to `kl_L`."""
    levels = {f"kl_{i}": value for i, value in enumerate(kl, 1)}
    return {"loss": loss, "reconstruction": reconstruction, "kl": kl.sum(), **levels}
