"""Data of every rank as pictures (N, 3, h, w) in [0, 1]."""

import torch
import torch.nn.functional as F
from matplotlib import color_sequences
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

REACH = 3.0  # deviations of a real number from the middle of a picture to its edge
HEIGHT, WIDTH = 64, 96  # of the plot of a vector or a signal
SLICES = 4  # of a volume
COLOURS = torch.tensor(color_sequences["petroff10"])


def draw(x: Tensor, domain: str) -> Tensor:
    """Return data (N, C, *sizes) as pictures (N, 3, h, w) in [0, 1].

    A vector is a row of bars, a signal a line per channel, an image itself, and a volume a row of slices along its
    first size. Images of three channels are RGB. Of all others the mean over channels is shown as grey. Real numbers
    are shown from -3 to 3, and where they are missing there is nothing.
    """
    x = x.detach().float()
    if domain == "real":
        x = (x / (2 * REACH) + 0.5).clamp(0, 1)
    match x.ndim - 2:
        case 0:
            return bars(x.clamp(0, 1), 0.5 if domain == "real" else 0.0)
        case 1:
            return lines(x.clamp(0, 1))
        case 2:
            x = x.nan_to_num(0.5).clamp(0, 1)
            return x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        case _:
            x = x.nan_to_num(0.5)
            chosen = torch.linspace(0, x.shape[2] - 1, min(SLICES, x.shape[2])).round().long()
            slices = x[:, :, chosen.to(x.device)].clamp(0, 1)
            return draw(slices.movedim(2, 3).flatten(3), "unit")


def bars(x: Tensor, zero: float) -> Tensor:
    """Return vectors (N, F) in [0, 1] as plots (N, 3, HEIGHT, WIDTH): bars from `zero`, blue ones up and red ones down.

    Of more numbers than the plot is wide, evenly spaced ones are shown.
    """
    at = torch.linspace(0, x.shape[1] - 1e-3, WIDTH, device=x.device).long()
    value = x[:, at][:, None]
    level = torch.linspace(1, 0, HEIGHT, device=x.device)[None, :, None]
    up, down = (level <= value) & (level >= zero), (level >= value) & (level < zero)
    return _framed([(up, COLOURS[0]), (down, COLOURS[2])], len(x))


def lines(x: Tensor) -> Tensor:
    """Return signals (N, C, L) in [0, 1] as plots (N, 3, HEIGHT, WIDTH). Each channel has a colour, ten at most."""
    wide = F.interpolate(x, size=WIDTH, mode="linear", align_corners=True)
    if x.shape[2] > WIDTH:  # peaks stay
        high, low = F.adaptive_max_pool1d(x, WIDTH), -F.adaptive_max_pool1d(-x, WIDTH)
    else:
        high = low = wide
    before = torch.cat([wide[..., :1], wide[..., :-1]], -1)
    top, bottom = ((1 - f) * (HEIGHT - 2) for f in (torch.maximum(high, before), torch.minimum(low, before)))
    at = torch.arange(HEIGHT, device=x.device)[:, None]
    layers = []
    for channel in reversed(range(x.shape[1])):  # two pixels thick at least
        inside = (at >= top[:, channel, None].round()) & (at <= bottom[:, channel, None].round() + 1)
        layers.append((inside, COLOURS[channel % len(COLOURS)]))
    return _framed(layers, len(x))


def _framed(layers: list[tuple[Tensor, Tensor]], n: int) -> Tensor:
    """Return white pictures (n, 3, HEIGHT, WIDTH) with layers of a colour each, and a grey frame."""
    where, _ = layers[0]
    picture = torch.ones(n, 3, HEIGHT, WIDTH, device=where.device)
    for where, colour in layers:
        picture = torch.where(where[:, None], colour.to(picture).view(1, 3, 1, 1), picture)
    for edge in (picture[:, :, 0], picture[:, :, -1], picture[..., 0], picture[..., -1]):
        edge.fill_(0.85)
    return picture


def written(texts: list[str], columns: int = 24, rows: int = 6) -> Tensor:
    """Return texts as pictures (N, 3, h, w), wrapped after `columns` letters and cut after `rows` rows."""
    font = ImageFont.load_default(10)
    pictures = []
    for text in texts:
        shown = "".join(letter if letter.isprintable() else "·" for letter in text)
        cut = [shown[i : i + columns] for i in range(0, len(shown), columns)][:rows]
        image = Image.new("RGB", (6 * columns + 4, 12 * rows + 2), "white")
        ImageDraw.Draw(image).multiline_text((2, 0), "\n".join(cut), "black", font, spacing=1)
        pictures.append(pil_to_tensor(image))
    return torch.stack(pictures).float() / 255
