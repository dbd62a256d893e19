"""Data of every rank as pictures (N, 3, h, w) in [0, 1]."""

import torch
import torch.nn.functional as F
from matplotlib import color_sequences
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

REACH = 3.0  # deviations of a real number from the middle of a picture to its edge
HEIGHT = 48  # of the plot of a vector or a signal
WIDTH = 64  # at least
LONGEST = 512  # columns of a plot. Longer signals are thinned
SLICES = 4  # of a volume
COLOURS = torch.tensor(color_sequences["petroff10"])


def draw(x: Tensor, domain: str) -> Tensor:
    """Return data (N, C, *sizes) as pictures (N, 3, h, w) in [0, 1].

    A vector is a row of bars, a signal a line per channel, an image itself, and a volume a row of slices along its
    first size. Images of three channels are RGB. Of all others the mean over channels is shown as grey. Real numbers
    are shown from -3 to 3, those that are missing as zero.
    """
    x = x.detach().float()
    if domain == "real":
        x = (x.nan_to_num(0) / (2 * REACH) + 0.5).clamp(0, 1)
    match x.ndim - 2:
        case 0:
            return bars(x.clamp(0, 1), 0.5 if domain == "real" else 0.0)
        case 1:
            return lines(x.clamp(0, 1))
        case 2:
            x = x.clamp(0, 1)
            return x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        case _:
            chosen = torch.linspace(0, x.shape[2] - 1, min(SLICES, x.shape[2])).round().long()
            slices = x[:, :, chosen.to(x.device)].clamp(0, 1)
            return draw(slices.movedim(2, 3).flatten(3), "unit")


def bars(x: Tensor, zero: float) -> Tensor:
    """Return vectors (N, F) in [0, 1] as bars from `zero`, (N, 3, HEIGHT, w). Bars up are blue, those down red."""
    x = _thinned(x[:, None])[:, 0]
    level = torch.linspace(1, 0, HEIGHT, device=x.device)[None, :, None]
    value = x[:, None, :]
    up, down = (level <= value) & (level >= zero), (level >= value) & (level < zero)
    picture = torch.ones(len(x), 3, HEIGHT, x.shape[1], device=x.device)
    for where, colour in ((up, COLOURS[0]), (down, COLOURS[2])):
        picture = torch.where(where[:, None], colour.to(x).view(1, 3, 1, 1), picture)
    return _widened(picture)


def lines(x: Tensor) -> Tensor:
    """Return signals (N, C, L) in [0, 1] as plots (N, 3, HEIGHT, w). Each channel has a colour, ten at most."""
    x = _thinned(x)
    if (times := -(-WIDTH // x.shape[2])) > 1:
        x = F.interpolate(x, size=(x.shape[2] - 1) * times + 1, mode="linear", align_corners=True)
    row = ((1 - x) * (HEIGHT - 1)).round()
    before = torch.cat([row[..., :1], row[..., :-1]], -1)
    low, high = torch.minimum(row, before), torch.maximum(row, before)
    at = torch.arange(HEIGHT, device=x.device)[:, None]
    picture = torch.ones(len(x), 3, HEIGHT, x.shape[2], device=x.device)
    for channel in reversed(range(x.shape[1])):
        inside = (at >= low[:, channel, None]) & (at <= high[:, channel, None])
        picture = torch.where(inside[:, None], COLOURS[channel % len(COLOURS)].to(x).view(1, 3, 1, 1), picture)
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


def _thinned(x: Tensor) -> Tensor:
    """Return signals (N, C, L) of at most LONGEST steps: of a longer one, evenly spaced steps."""
    length = x.shape[2]
    if length <= LONGEST:
        return x
    return x[..., torch.linspace(0, length - 1, LONGEST, device=x.device).round().long()]


def _widened(picture: Tensor) -> Tensor:
    return picture.repeat_interleave(max(-(-WIDTH // picture.shape[3]), 1), dim=3)
