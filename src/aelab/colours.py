"""Colour spaces of images (N, 3, H, W), each with all channels in [0, 1].

| space   | channels                                                                          |
|---------|-----------------------------------------------------------------------------------|
| `rgb`   | red, green, blue of sRGB (IEC 61966-2-1), as files hold them                      |
| `lab`   | CIE L*a*b* of the white D65: L / 100, a / 256 + 1/2, b / 256 + 1/2                |
| `ycbcr` | luma of ITU-R BT.601, and blue and red less luma, as JPEG has them                |

In the last two the first channel is what a grey picture shows, and grey has 1/2 in the others.
"""

from typing import Literal

import torch
from torch import Tensor

Space = Literal["rgb", "lab", "ycbcr"]
AB = 256.0  # units of a and b from 0 to 1

# The white of D65 for the observer of 2 degrees, and linear sRGB to XYZ (IEC 61966-2-1, and its inverse by torch).
_WHITE = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.double)
_XYZ = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=torch.double,
)
_TO_XYZ = _XYZ / _XYZ.sum(1, keepdim=True)  # of the white, so that grey has no a and no b
_YCBCR = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.299 / 1.772, -0.587 / 1.772, 0.5], [0.5, -0.587 / 1.402, -0.114 / 1.402]],
    dtype=torch.double,
)
_BREAK = 6 / 29  # of the cube root of CIE, below which it is a line
_OFFSET = (0.0, 0.5, 0.5)


def of_rgb(x: Tensor, space: Space) -> Tensor:
    """Return sRGB images in another space."""
    if space == "rgb":
        return x
    if space == "ycbcr":
        return _mixed(x, _YCBCR) + _column(_OFFSET, x)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    xyz = _mixed(linear, _TO_XYZ)
    f = torch.where(xyz > _BREAK**3, xyz.clamp_min(_BREAK**3) ** (1 / 3), xyz / (3 * _BREAK**2) + 4 / 29)
    a, b, c = f.unbind(1)
    return torch.stack([1.16 * b - 0.16, 500 / AB * (a - b) + 0.5, 200 / AB * (b - c) + 0.5], dim=1)


def to_rgb(x: Tensor, space: Space) -> Tensor:
    """Return images of a space as sRGB. Colours that no screen shows are cut off at 0 and 1."""
    if space == "rgb":
        return x
    if space == "ycbcr":
        return _mixed(x - _column(_OFFSET, x), _YCBCR.inverse()).clamp(0, 1)
    light, a, b = x.unbind(1)
    middle = (light + 0.16) / 1.16
    f = torch.stack([middle + (a - 0.5) * AB / 500, middle, middle - (b - 0.5) * AB / 200], dim=1)
    xyz = torch.where(f > _BREAK, f**3, 3 * _BREAK**2 * (f - 4 / 29))
    linear = _mixed(xyz, _TO_XYZ.inverse())
    gamma = 1.055 * linear.clamp_min(0.04045 / 12.92) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.04045 / 12.92, 12.92 * linear, gamma).clamp(0, 1)


def colourfulness(rgb: Tensor) -> Tensor:
    """Return how colourful sRGB images (N, 3, H, W) are, (N,). 0 is grey, 33 moderate, 82 high, 109 extreme.

        sqrt(var rg + var yb) + 0.3 sqrt(mean² rg + mean² yb),  rg = R - G,  yb = (R + G) / 2 - B,  R, G, B in 0 … 255

    Hasler & Süsstrunk, Measuring colourfulness in natural images, 2003, equation 11 (their M3).
    """
    r, g, b = (255 * rgb.flatten(2)).unbind(1)
    opponent = torch.stack([r - g, (r + g) / 2 - b])
    spread, mean = opponent.var(2, correction=0).sum(0), opponent.mean(2).square().sum(0)
    return spread.sqrt() + 0.3 * mean.sqrt()


def _mixed(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", matrix.to(x), x)


def _column(values: tuple[float, ...], x: Tensor) -> Tensor:
    return x.new_tensor(values).view(-1, 1, 1)
