"""The layout of pictures on a sheet, and the colours of a plot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import color_sequences, colormaps
from matplotlib.figure import Figure

if TYPE_CHECKING:  # a report needs the colours, and should not wait for torch
    from torch import Tensor

COLUMNS = 10
PALETTE = color_sequences["petroff10"]  # colour-blind readers can tell these apart (Petroff, 2021, arXiv:2107.02270)


def sheet(rows: "Sequence[Tensor]", labels: Sequence[str] = (), xlabel: str = "", scale: float = 0.7) -> Figure:
    """Draw rows of pictures (N, 3, h, w) in [0, 1], each row with its label. A picture is `scale` inches wide."""
    height, width = rows[0].shape[2:]
    columns = max(len(row) for row in rows)
    gap = max(height // 16, 1)
    canvas = np.ones((len(rows) * (height + gap), columns * (width + gap), 3))
    for i, row in enumerate(rows):
        for j, picture in enumerate(row.detach().cpu().movedim(1, -1)):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = picture
    figure = Figure(figsize=(scale * columns, scale * len(rows) * height / width))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas[:-gap, :-gap], interpolation="nearest")
    axes.spines[:].set_visible(False)
    centres = np.arange(len(rows)) * (height + gap) + height / 2
    axes.set_yticks(centres[: len(labels)], labels, fontsize=8)
    axes.set_xticks([])
    axes.set_xlabel(xlabel, fontsize=8)
    axes.tick_params(length=0)
    return figure


def differences(images: "Tensor") -> "Tensor":
    """Return differences (N, C, H, W) in [-1, 1] as pictures (N, 3, H, W).

    Of one channel, red is above zero and blue below. Of several, red is the root mean square over the channels, because
    signed errors of channels would cancel.
    """
    values = images.detach().cpu().double()
    values = values if values.shape[1] == 1 else values.square().mean(1, keepdim=True).sqrt()
    colours = colormaps["RdBu_r"]((values[:, 0].numpy() + 1) / 2)[..., :3]
    return images.new_tensor(colours).cpu().movedim(-1, 1)
