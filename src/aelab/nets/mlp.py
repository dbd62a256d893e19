"""Fully connected layers from the flattened datum to the code, and back in mirrored order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from aelab.nets.base import Encoder, Net, activation
from aelab.ranges import Count, ShareBelow1


@dataclass(frozen=True)
class MLP(Net):
    """A multilayer perceptron as encoder and another as decoder.

    `hidden_dims` are the hidden widths from the datum to the code. The decoder has them in reverse. If there are none,
    encoder and decoder are one linear layer each.

    With `tied`, the decoder's matrices are the transposed matrices of the encoder that this recipe built last. Raises
    ValueError if the decoder's widths are then not those of the encoder in reverse.

    `batch_norm` normalises each unit over the batch in training, and by running statistics in evaluation. It is the one
    layer here that couples the data of a batch, for protocols that have it: a loss then differs between training and
    evaluation.

    With `hidden_code`, the code is a hidden layer too: it has normalisation, activation and dropout.

    `init` is the initialisation. `torch` is the default of torch.nn.Linear. `glorot` is
    W ~ U(±sqrt(6 / (inputs + outputs))) and b = 0 (Glorot & Bengio, 2010, equation 16). `glorot_4` is four times that,
    which compensates for the slope of a sigmoid. `he` is W ~ U(±sqrt(6 / inputs)) of hidden layers (He et al., 2015,
    equation 10), and the default of torch.nn.Linear of all else.
    """

    shape: tuple[Count, ...]
    hidden_dims: Sequence[Count]
    activation: str
    layer_norm: bool
    batch_norm: bool
    dropout: ShareBelow1
    tied: bool
    hidden_code: bool
    init: Literal["torch", "glorot", "glorot_4", "he"]
    _encoder: list[nn.Linear] = field(default_factory=list, init=False, repr=False, compare=False)

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        channels, *sizes = self.shape
        dims = [(channels + extra) * math.prod(sizes), *self.hidden_dims, out_dim]
        self._encoder[:] = (self._linear(inputs, outputs) for inputs, outputs in pairwise(dims))
        return Encoder(nn.Flatten(), *self._with_activations(self._encoder, self.hidden_code))

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        channels, *sizes = self.shape
        dims = [in_dim, *reversed(self.hidden_dims), maps * math.prod(self.shape)]
        if not self.tied:
            layers: list[nn.Module] = [self._linear(inputs, outputs) for inputs, outputs in pairwise(dims)]
        elif dims == [layer.out_features for layer in reversed(self._encoder)] + [self._encoder[0].in_features]:
            layers = [Transposed(layer) for layer in reversed(self._encoder)]
        else:
            raise ValueError(
                f"net.tied=true: the decoder goes {dims[0]} → {dims[-1]}, its encoder {self._encoder[0].in_features} → "
                f"{self._encoder[-1].out_features}; for this model and reconstruction term type net.tied=false"
            )
        return nn.Sequential(*self._with_activations(layers, False), nn.Unflatten(1, (maps * channels, *sizes)))

    def _linear(self, inputs: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(inputs, outputs)
        if self.init.startswith("glorot"):
            nn.init.xavier_uniform_(layer.weight, gain=4 if self.init == "glorot_4" else 1)
            nn.init.zeros_(layer.bias)
        return layer

    def _with_activations(self, layers: Sequence[nn.Module], last: bool) -> list[nn.Module]:
        """Return the layers with normalisation, activation and dropout after each one, and after the last if `last`."""
        result: list[nn.Module] = []
        hidden = len(layers) if last else len(layers) - 1
        for layer in layers[:hidden]:
            result += [layer]
            if self.init == "he":
                nn.init.kaiming_uniform_(cast(Tensor, layer.weight), nonlinearity="relu")
            if self.batch_norm:
                result += [BatchNorm(cast(int, layer.out_features))]
            if self.layer_norm:
                result += [nn.LayerNorm(layer.out_features)]
            result += [activation(self.activation)]
            if self.dropout:
                result += [nn.Dropout(self.dropout)]
        return [*result, *layers[hidden:]]


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation. A batch of one, which has no variance, is normalised by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Transposed(nn.Module):
    """A linear layer x W + b. It shares W with another layer, which computes x Wᵀ. The bias b is its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.out_features = layer.in_features
        self.weight = layer.weight
        self.bias = nn.Parameter(layer.weight.new_zeros(self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)
