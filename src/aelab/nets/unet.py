"""A U-Net: maps that are halved and doubled again, with a skip from each size on the way down to the same size on the
way up.

Ronneberger, Fischer & Brox, U-Net, 2015, https://arxiv.org/abs/1505.04597, with the residual blocks and the attention
of Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020, appendix B. A condition scales and shifts each
block after its second norm (Dhariwal & Nichol, Diffusion models beat GANs on image synthesis, 2021, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from aelab.errors import UserError
from aelab.nets.base import Net, activation, halvings, joined, layer
from aelab.nets.resnet import normed
from aelab.ranges import Count


class Block(nn.Module):
    """A residual block on maps (B, inputs, *sizes), which may be told a condition (B, condition)."""

    def __init__(self, recipe: "UNet", inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        conv = layer("Conv", recipe.shape)
        self.first = nn.Sequential(
            *normed(inputs, recipe.groups, recipe.activation), conv(inputs, outputs, 3, padding=1)
        )
        self.norm, act = normed(outputs, recipe.groups, recipe.activation)
        self.second = nn.Sequential(act, conv(outputs, outputs, 3, padding=1))
        self.told = nn.Linear(condition, 2 * outputs) if condition else None
        self.past = conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.norm(self.first(x))
        if self.told is not None:
            scale, shift = self.told(condition).view(x.shape[0], -1, *[1] * (x.ndim - 2)).chunk(2, dim=1)
            h = h * (1 + scale) + shift
        out: Tensor = self.past(x) + self.second(h)
        return out


class Attention(nn.Module):
    """Self-attention of all places of maps (B, channels, *sizes), added to them."""

    def __init__(self, recipe: "UNet", channels: int) -> None:
        super().__init__()
        self.norm = normed(channels, recipe.groups, recipe.activation)[0]
        self.attention = nn.MultiheadAttention(channels, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        # With need_weights, torch computes attention by operations that can be differentiated twice.
        found = self.attention(places, places, places, need_weights=True)[0]
        out: Tensor = x + found.transpose(1, 2).reshape(x.shape)
        return out


class Down(nn.Module):
    """Maps data (B, C, *sizes) to a map of each size, the largest first, and after them the bottleneck."""

    def __init__(self, recipe: "UNet", extra: int, condition: int) -> None:
        super().__init__()
        channels, conv = recipe.channels, layer("Conv", recipe.shape)
        self.first = conv(recipe.shape[0] + extra, channels[0], 3, padding=1)
        self.levels, self.halve = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(channels):
            self.levels.append(_Blocks(recipe, width, width, condition))
            if level + 1 < len(channels):
                self.halve.append(conv(width, channels[level + 1], 3, stride=2, padding=1))
        self.middle = Block(recipe, channels[-1], channels[-1], condition)
        self.attention = Attention(recipe, channels[-1]) if recipe.attention else nn.Identity()

    def forward(self, x: Tensor, *extra: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        h, maps = self.first(joined(x, *extra)), []
        for level, blocks in enumerate(self.levels):
            h = blocks(self.halve[level - 1](h) if level else h, condition)
            maps.append(h)
        return [*maps, self.attention(self.middle(h, condition))]


class Up(nn.Module):
    """Maps what `Down` gives to (B, maps · C, *sizes)."""

    def __init__(self, recipe: "UNet", maps: int, condition: int) -> None:
        super().__init__()
        channels, conv = list(recipe.channels), layer("Conv", recipe.shape)
        self.levels = nn.ModuleList(_Blocks(recipe, 2 * width, width, condition) for width in reversed(channels))
        sizes = halvings(recipe.shape, len(channels) - 1)
        self.grow = nn.ModuleList(
            nn.Sequential(nn.Upsample(size=sizes[level]), conv(channels[level + 1], channels[level], 3, padding=1))
            for level in reversed(range(len(channels) - 1))
        )
        self.last = nn.Sequential(
            *normed(channels[0], recipe.groups, recipe.activation),
            conv(channels[0], maps * recipe.shape[0], 3, padding=1),
        )

    def forward(self, maps: list[Tensor], condition: Tensor | None = None) -> Tensor:
        *skips, h = maps
        for level, blocks in enumerate(self.levels):
            h = blocks(torch.cat([self.grow[level - 1](h) if level else h, skips.pop()], dim=1), condition)
        out: Tensor = self.last(h)
        return out


class _Blocks(nn.Module):
    def __init__(self, recipe: "UNet", inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        widths = [inputs, *[outputs] * recipe.blocks]
        self.blocks = nn.ModuleList(Block(recipe, a, outputs, condition) for a in widths[:-1])

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        for block in self.blocks:
            h = block(h, condition)
        return h


class Translator(nn.Module):
    """`down` and `up` of a U-Net as one module: data (B, C, *sizes) to (B, maps · C, *sizes)."""

    def __init__(self, down: Down, up: Up) -> None:
        super().__init__()
        self.down, self.up = down, up

    def forward(self, x: Tensor, *extra: Tensor, condition: Tensor | None = None) -> Tensor:
        out: Tensor = self.up(self.down(x, *extra, condition=condition), condition)
        return out


@dataclass(frozen=True)
class UNet(Net):
    """A U-Net, which builds translators only. Its skips lead around any code.

    Each of `channels` is the width of one size, the full one first. The next one has half of each size. There are
    `blocks` residual blocks at each size on the way down, and as many on the way up. `attention` is that of all places
    of the smallest map.
    """

    ranks: ClassVar[tuple[int, ...]] = (1, 2, 3)

    shape: tuple[Count, ...]
    channels: Sequence[Count]
    blocks: Count
    groups: Count
    activation: str
    attention: bool

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("net=unet needs at least one of net.channels")
        activation(self.activation)

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        raise UserError("net=unet has skips that lead around a code: type model=denoiser, or net=resnet (or conv)")

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        return self.encoder(in_dim)

    def translator(self, maps: int, extra: int = 0, condition: int = 0) -> Translator:
        return Translator(Down(self, extra, condition), Up(self, maps, condition))
