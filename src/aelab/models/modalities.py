"""Wiring of models with one code for two modalities: a datum x, and what comes with it as y."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aelab.data.loader import Batch
from aelab.errors import Unsupported, UserError
from aelab.models.base import Normal, Variational, draw, log_ratio, once, standard_normal
from aelab.nets.base import Net
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction


class Bimodal(Variational):
    """A model of p(x, y) = ∫ p(x | z) p(y | z) N(z; 0, I) dz.

    y is a label of `num_classes`, with a cross-entropy. If `y_shape` is stated, y is a tensor (B, *y_shape) such as a
    second view, with the reconstruction term `y_reconstruction`. `y_net` is built for the shape of y; labels are
    vectors of 0 and 1. `encode(x)` and the metrics of codes see x alone, so that a probe is told nothing of the label.
    """

    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        y_net: Net,
        y_reconstruction: Reconstruction,
        y_shape: Sequence[Count] | None,
        num_classes: Count | None,
    ) -> None:
        """Raises UserError if neither the shape of y nor a number of labels is known."""
        super().__init__(net, reconstruction, latent_dim)
        if y_shape is None and num_classes is None:
            raise UserError("y is a label or a tensor: type data.num_classes=…, or model.y_shape=[…]")
        shape = (num_classes or 1,) if y_shape is None else tuple(y_shape)
        if len(shape) - 1 not in y_net.ranks:
            raise UserError(f"model.y_net takes no y of shape {list(shape)}: type net@model.y_net=mlp")
        self.y_shape, self.num_classes = shape, num_classes if y_shape is None else None
        self.y_reconstruction, recipe = y_reconstruction, y_net.at(shape)
        self.encoder, self.y_encoder = net.encoder(2 * latent_dim), recipe.encoder(2 * latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        self.y_decoder = recipe.decoder(latent_dim, 1 if y_shape is None else y_reconstruction.maps)

    def both(self, x: Tensor, y: Tensor) -> Normal:
        """Return q(z | x, y) for data (B, C, *sizes) and y (B, …)."""
        raise NotImplementedError(f"{type(self).__name__} defines no posterior of both")

    @once
    def posterior(self, x: Tensor, y: Tensor | None = None) -> Normal:
        """Return q(z | x) for data (B, C, *sizes), whatever y is."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def y_posterior(self, y: Tensor) -> Normal:
        """Return q(z | y) for y (B, …)."""
        mu, logvar = self.y_encoder(self.seen_y(y)).chunk(2, dim=1)
        return mu, logvar

    def seen_y(self, y: Tensor) -> Tensor:
        """Return y as its encoder sees it (B, *y_shape). Raises UserError for a y of another shape."""
        if self.num_classes is not None and not y.is_floating_point():
            return F.one_hot(y, self.num_classes).to(next(self.parameters()).dtype)
        if self.num_classes is not None or tuple(y.shape[1:]) != self.y_shape:
            wanted = "a label" if self.num_classes is not None else f"of shape {list(self.y_shape)}"
            right = list(y.shape[1:]) if y.is_floating_point() else "null"
            raise UserError(f"y must be {wanted}, and it has the shape {list(y.shape[1:])}: type model.y_shape={right}")
        return y

    def y_error(self, z: Tensor, y: Tensor) -> Tensor:
        """Return -log p(y | z) (B,), or the error of y."""
        y, out = self.seen_y(y), self.y_decoder(z)
        return -(y * out.log_softmax(1)).sum(1) if self.num_classes else self.y_reconstruction.error(out, y)

    def decode_y(self, z: Tensor) -> Tensor:
        """Return y (B, *y_shape) for codes (B, latent_dim): the probability of each label, or the tensor."""
        out = self.y_decoder(z)
        return out.softmax(1) if self.num_classes else self.y_reconstruction.mean(out)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return `n` data (n, C, *sizes), of codes from the prior, or from q(z | y) if y (n, …) is known.

        Labels are no y of a model whose y is a tensor, so they are left out.
        """
        known = y is not None and (self.num_classes is not None or y.is_floating_point())
        return self.decode(draw(*self.y_posterior(y)) if known and y is not None else standard_normal(self, n))

    def joint_log_weights(self, batch: Batch, k: int) -> Tensor:
        """Return log p(x, y, z) - log q(z | x, y) of `k` codes for each datum, (k, B).

        Raises Unsupported if a term is no likelihood.
        """
        self.check_likelihood()
        if not (self.num_classes or self.y_reconstruction.likelihood):
            raise Unsupported("the term of y is no likelihood: type reconstruction@model.y_reconstruction=gaussian")
        z, log_w = self._log_weights(self.both(batch.seen, batch.y), batch.y, k)
        rows = batch.map(lambda t: t.repeat(k, *[1] * (t.ndim - 1)))
        return (log_w - self.error(z, rows)).view(k, -1)

    def y_log_weights(self, batch: Batch, k: int) -> Tensor:
        """Return log p(y, z) - log q(z | y) of `k` codes for each datum, (k, B)."""
        return self._log_weights(self.y_posterior(batch.y), batch.y, k)[1].view(k, -1)

    def _log_weights(self, q: Normal, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return codes z (k B, D), and log p(y | z) + log p(z) - log q(z) of them (k B,)."""
        mu, logvar, y = (t.repeat(k, *[1] * (t.ndim - 1)) for t in (*q, y))
        z = draw(mu, logvar)
        return z, log_ratio(z, mu, logvar) - self.y_error(z, y)


def product(*experts: Normal) -> Normal:
    """Return the normal distribution proportional to N(0, I) times all experts, each N(mean, exp(log variance))."""
    mu, logvar = (torch.stack(parts) for parts in zip(*experts, strict=True))
    precisions = (-logvar).exp()
    total = 1 + precisions.sum(0)
    return (mu * precisions).sum(0) / total, -total.log()
