"""What sparse coders share: the columns of their dictionary, and the revival of units that stay off. No loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.models.base import Autoencoder, Terms, once
from aelab.nets.base import Net
from aelab.ranges import Count, NonNegative
from aelab.reconstruction import Reconstruction

DECAY = 0.99  # of the running mean of a threshold


class UnitColumns(nn.Module):
    """Divides each column of a matrix (F, D) by its norm."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.normalize(weight, dim=0)


class Threshold(nn.Module):
    """The running mean of the least value that survived in training. Before a step it is 0."""

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(math.nan))

    def see(self, least: Tensor) -> None:
        """Take the least value (a scalar) of a step into account. It is nan if nothing survived."""
        now = torch.where(self.value.isnan(), least, DECAY * self.value + (1 - DECAY) * least)
        self.value = torch.where(least.isnan(), self.value, now)

    def forward(self, h: Tensor) -> Tensor:
        """Return h (B, D) where it is positive and reaches the threshold, else 0."""
        return torch.where((h > 0) & (h >= self.value.nan_to_num(0)), h, 0)


class SparseCoder(Autoencoder):
    """A model whose encoder gives h (B, D), of which `sparse` keeps a part as the code z.

    The dictionary is the first linear layer of the decoder, whose column d is what unit d adds. With `unit_norm` its
    columns have norm 1, and a linear encoder starts as its transpose. With `pre_bias` the encoder sees the datum
    without the bias of a linear decoder. Raises UserError for a net that has no such layer where it is asked for.
    """

    def __init__(
        self, net: Net, reconstruction: Reconstruction, latent_dim: Count, unit_norm: bool, pre_bias: bool
    ) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.encoder = net.encoder(latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        self.pre_bias = pre_bias
        if pre_bias and not (is_linear(self.decoder) and getattr(reconstruction, "link", "") == "identity"):
            raise UserError(
                "model.pre_bias=true wants a linear decoder whose output is the datum: type net=linear "
                "reconstruction=mse reconstruction.link=identity, or model.pre_bias=false"
            )
        if unit_norm:
            columns = dictionary(self.decoder, latent_dim, "model.unit_norm")
            with torch.no_grad():
                columns.weight.copy_(UnitColumns()(columns.weight))
            transpose(self.encoder, self.decoder)
            parametrize.register_parametrization(columns, "weight", UnitColumns())

    @once
    def pre_activations(self, x: Tensor) -> Tensor:
        """Return h (B, D) of data (B, C, *sizes)."""
        if self.pre_bias:
            x = x - dictionary(self.decoder, self.latent_dim, "model.pre_bias").bias.view(x.shape[1:])
        h: Tensor = self.encoder(x)
        return h

    def sparse(self, h: Tensor) -> Tensor:
        """Return the code z (B, D) of h (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} defines no code")

    @once
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.sparse(self.pre_activations(x))

    def active(self, z: Tensor) -> Tensor:
        """Which units are on."""
        return z != 0


class Revived(SparseCoder):
    """A sparse coder that revives its dead units. A unit is dead if it was off for `dead_after` data of training."""

    idle: Tensor

    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: Count,
        unit_norm: bool,
        pre_bias: bool,
        aux_weight: NonNegative,
        dead_after: Count,
    ) -> None:
        super().__init__(net, reconstruction, latent_dim, unit_norm, pre_bias)
        self.aux_weight, self.dead_after = aux_weight, dead_after
        self.register_buffer("idle", torch.zeros(latent_dim, dtype=torch.long), persistent=aux_weight > 0)

    def auxiliary(self, h: Tensor, z: Tensor, out: Tensor, batch: Batch) -> Terms:
        """Return `auxiliary`, what the dead units explain of what `out` of z leaves, and `dead`, their share.

        The largest of the dead units, half as many as a datum has numbers, are decoded and added to the output, which
        gets no gradient. The term is the error of the sum. Of a squared error it is |e - ê|² with e = x - x̂ (Gao et
        al., Scaling and evaluating sparse autoencoders, 2024, appendix A.2). It is 0 if no unit is dead. Without
        `aux_weight` there is nothing to return.
        """
        if not self.aux_weight:
            return {}
        if self.training:
            self.idle = torch.where((z != 0).any(0), 0, self.idle + z.shape[0])
        dead = self.idle >= self.dead_after
        k = min(self.latent_dim, max(1, math.prod(batch.x.shape[1:]) // 2))
        values, units = h.relu().masked_fill(~dead, 0).topk(k, dim=1)
        revived = torch.zeros_like(h).scatter(1, units, values)
        added = self.out(revived, batch.y, batch.x) - self.out(torch.zeros_like(h), batch.y, batch.x)
        error = self.reconstruction.error(out.detach() + added, batch.x).mean()
        share = dead.float().mean()
        return {"auxiliary": torch.where(share > 0, error, 0.0), "dead": share}


def dictionary(decoder: nn.Module, latent_dim: int, key: str) -> nn.Linear:
    """Return the layer of a decoder that reads the code. Raises UserError, which names `key`, if none is linear."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear) and module.in_features == latent_dim:
            return module
    raise UserError(f"{key}=true wants a decoder that begins with a linear layer: type net=linear, or {key}=false")


def transpose(encoder: nn.Module, decoder: nn.Module) -> None:
    """Let a linear encoder begin as the transpose of a linear decoder.

    Each unit then begins as the detector of its own column, and few die. Other nets stay as they are.
    """
    if is_linear(encoder) and is_linear(decoder):
        rows, columns = (next(m for m in part.modules() if isinstance(m, nn.Linear)) for part in (encoder, decoder))
        if rows.weight.shape == columns.weight.T.shape:  # a term that reads several maps has more rows
            rows.weight.data.copy_(columns.weight.detach().T)


def is_linear(part: nn.Module) -> bool:
    """Whether an encoder or decoder is one linear layer."""
    layers = [module for module in part.modules() if next(module.parameters(recurse=False), None) is not None]
    return len(layers) == 1 and isinstance(layers[0], nn.Linear)
