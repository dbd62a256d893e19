"""A transformer from the patches of an image to one code, and back.

A learned token collects the code, as in Dosovitskiy et al., An image is worth 16x16 words, 2021. In the decoder every
patch has a learned query, to which the code is added. If `patch_size` does not divide the height or the width, images
are padded, and the output is cropped.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.nets.base import Net, joined


class Block(nn.Module):
    """A transformer block on tokens (B, tokens, dim). It consists of self-attention and a two-layer net.

    Each of the two has a LayerNorm before it, and its output is added to its input.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm(tokens)
        # With need_weights, torch computes attention by operations that can be differentiated twice.
        tokens = tokens + self.attention(normed, normed, normed, need_weights=True)[0]
        out: Tensor = tokens + self.mlp(tokens)
        return out


class Encoder(nn.Module):
    def __init__(self, recipe: "Transformer", out_dim: int, extra: int) -> None:
        super().__init__()
        self.patch_size = recipe.patch_size
        self.embed = nn.Linear((recipe.shape[0] + extra) * recipe.patch_size**2, recipe.dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + recipe.rows * recipe.columns, recipe.dim))
        self.blocks = nn.Sequential(*(Block(recipe.dim, recipe.heads) for _ in range(recipe.depth)))
        self.code = nn.Sequential(nn.LayerNorm(recipe.dim), nn.Linear(recipe.dim, out_dim))

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        x, size = joined(x, *extra), self.patch_size
        x = F.pad(x, (0, -x.shape[3] % size, 0, -x.shape[2] % size))
        patches = self.embed(F.unfold(x, size, stride=size).transpose(1, 2))
        # The first token has no patch of its own, and collects the code.
        tokens = F.pad(patches, (0, 0, 1, 0)) + self.positions
        code: Tensor = self.code(self.blocks(tokens)[:, 0])
        return code


class Decoder(nn.Module):
    def __init__(self, recipe: "Transformer", in_dim: int, maps: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.start = nn.Linear(in_dim, recipe.dim)
        self.queries = nn.Parameter(0.02 * torch.randn(1, recipe.rows * recipe.columns, recipe.dim))
        self.blocks = nn.Sequential(*(Block(recipe.dim, recipe.heads) for _ in range(recipe.depth)))
        pixels = maps * recipe.shape[0] * recipe.patch_size**2
        self.patch = nn.Sequential(nn.LayerNorm(recipe.dim), nn.Linear(recipe.dim, pixels))

    def forward(self, z: Tensor) -> Tensor:
        _, height, width = self.recipe.shape
        size, rows, columns = self.recipe.patch_size, self.recipe.rows, self.recipe.columns
        patches = self.patch(self.blocks(self.start(z)[:, None] + self.queries))
        image = F.fold(patches.transpose(1, 2), (rows * size, columns * size), size, stride=size)
        return image[:, :, :height, :width]


@dataclass(frozen=True)
class Transformer(Net):
    """A transformer encoder and decoder of `depth` blocks each, with `heads` attention heads.

    Patches are squares with sides of `patch_size` pixels, and tokens have `dim` numbers.
    """

    shape: tuple[int, int, int]
    patch_size: int
    dim: int
    depth: int
    heads: int

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"net.dim={self.dim} must be a multiple of net.heads={self.heads}")

    @property
    def rows(self) -> int:
        return -(-self.shape[1] // self.patch_size)

    @property
    def columns(self) -> int:
        return -(-self.shape[2] // self.patch_size)

    def encoder(self, out_dim: int, extra: int = 0) -> nn.Module:
        return Encoder(self, out_dim, extra)

    def decoder(self, in_dim: int, maps: int) -> nn.Module:
        return Decoder(self, in_dim, maps)
