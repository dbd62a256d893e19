"""The layers that a net builds. test_models.py checks the shapes of every net."""

import math

import pytest
import torch
from conftest import compose, model
from torch import nn

from aelab.composition import build


@pytest.mark.parametrize(("init", "gain"), [("glorot", 1), ("glorot_4", 4)])
def test_glorot_draws_within_its_bounds_and_leaves_biases_at_zero(init, gain):
    built = model("model=ae", f"net.init={init}", "net.hidden_dims=[300]")
    for layer in (m for m in built.modules() if isinstance(m, nn.Linear)):
        bound = gain * math.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max() <= bound
        assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)  # a uniform draw
        assert not layer.bias.any()


def test_convolutions_between_two_halvings_keep_size_and_channels():
    built = model("model=ae", "net=conv", "net.channels=[4,8,8]", "net.between=2", "data=mnist", "net.activation=GELU")
    down = [m for m in built.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.stride[0]) for m in down] == [
        (1, 4, 2), (4, 4, 1), (4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 8, 1), (8, 8, 2),
    ]  # fmt: skip
    up = [m for m in built.decoder.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.stride[0]) for m in up] == [
        (8, 8, 2), (8, 8, 1), (8, 8, 1), (8, 4, 2), (4, 4, 1), (4, 4, 1), (4, 1, 2),
    ]  # fmt: skip
    activations = [m for m in built.modules() if isinstance(m, nn.GELU)]
    assert len(activations) == 7 + 7  # after every convolution down, and before each one up
    assert built(torch.rand(2, 1, 28, 28)).shape == (2, 1, 28, 28)


@pytest.mark.parametrize("data", ["digits", "digits_rows", "moving_digits"])
@pytest.mark.parametrize("more", ["", "net.down=max_pool net.up=upsample net.between=1"])
def test_a_convolution_without_bias_follows_any_contrast(data, more):
    config, _ = compose("train", [f"data={data}", "net=conv", "model=ae", "net.bias=false", *more.split()])
    built = build.model(config)
    assert not [name for name, _ in built.named_parameters() if "bias" in name]
    x = torch.rand(2, *config.data.shape)
    z = built.encoder(x)
    torch.testing.assert_close(built.encoder(3 * x), 3 * z)
    torch.testing.assert_close(built.decoder(3 * z), 3 * built.decoder(z))
