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


@pytest.mark.parametrize("shape", [[2, 9], [1, 8, 8], [2, 5, 6, 7]])
@pytest.mark.parametrize("attention", ["false", "true"])
def test_a_unet_translates_under_a_condition(shape, attention):
    """The condition changes each datum by its own, and the skips carry what the bottleneck loses."""
    words = ["net=unet", "net.channels=[4,8]", f"net.attention={attention}", f"net.shape={shape}", "model=denoiser"]
    net = build.build(compose("train", words)[0].net)
    it = net.translator(3, extra=1, condition=5)
    x, extra, condition = torch.rand(2, *shape), torch.rand(2, 1, *shape[1:]), torch.rand(2, 5)
    out = it(x, extra, condition=condition)
    assert out.shape == (2, 3 * shape[0], *shape[1:])
    other = it(x, extra, condition=condition.flip(0))
    assert (out - other).abs().flatten(1).amax(1).min() > 0
    torch.testing.assert_close(it(x[:1], extra[:1], condition=condition[:1]), out[:1])
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in it.parameters())
    maps = it.down(x, extra, condition=condition)
    lost = it.up([*maps[:-1], torch.zeros_like(maps[-1])], condition)
    blind = it.up([*(torch.zeros_like(m) for m in maps[:-1]), maps[-1]], condition)
    assert not torch.equal(lost, out)
    assert not torch.equal(blind, out)


@pytest.mark.parametrize("line", ["model=vae net=unet", "model=structured_cvae net=unet", "model=denoiser net=conv"])
def test_a_net_with_skips_has_no_code_and_other_nets_have_no_skips(run_ae, line):
    code, said = run_ae("train", *line.split())
    assert code == 1
    assert "model=denoiser" in said or "net=unet" in said
    assert "\n" not in said.strip()
