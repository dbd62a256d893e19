"""Two of scikit-learn's digits that move through a frame and bounce off its edges: a volume in time (1, T, H, W).

It is made as Moving MNIST is (Srivastava, Mansimov & Salakhutdinov, Unsupervised learning of video representations
using LSTMs, 2015), always the same. The label is that of the first digit. The digits of test sequences are test digits.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from aelab import randomness
from aelab.data.digits import test_digits
from aelab.data.values import Stored, Values
from aelab.ranges import Count


@dataclass(eq=False, kw_only=True)
class MovingDigits(Values):
    sequences: Count
    """Number of sequences. A fifth of them is the test split."""

    def stored(self, root: str, new: bool = False) -> Stored:
        images, labels = load_digits(return_X_y=True)
        digits = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8).view(-1, 8, 8)
        y, held_out = torch.from_numpy(labels).long(), test_digits(len(digits))
        n_test = self.sequences // 5
        parts = [self._moved(digits[held_out == test], y[held_out == test], n, test) for n, test in self._sizes(n_test)]
        frames, names = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return Stored(frames, names, [], torch.arange(self.sequences) >= self.sequences - n_test)

    def _sizes(self, n_test: int) -> list[tuple[int, bool]]:
        return [(self.sequences - n_test, False), (n_test, True)]

    def _moved(self, digits: Tensor, y: Tensor, n: int, test: bool) -> tuple[Tensor, Tensor]:
        """Return `n` sequences (n, 1, T, H, W) of two digits, and the labels of the first."""
        _, steps, height, width = self.shape
        g = randomness.generator("cpu", "moving digits", int(test))
        chosen = torch.randint(len(digits), (n, 2), generator=g)
        room = torch.tensor([height - 8, width - 8]).float()
        start = torch.rand(n, 2, 2, generator=g) * room
        angle = 2 * torch.pi * torch.rand(n, 2, generator=g)
        speed = torch.stack([angle.sin(), angle.cos()], -1) * room / 5
        path = start[:, :, None] + speed[:, :, None] * torch.arange(steps)[:, None]
        # A path that is folded at the edges is one that bounces.
        place = (room - (path % (2 * room) - room).abs()).round().long()
        frames = torch.zeros(n, 1, steps, height, width, dtype=torch.uint8)
        for row in range(n):
            for which in range(2):
                for step, (top, left) in enumerate(place[row, which].tolist()):
                    window = frames[row, 0, step, top : top + 8, left : left + 8]
                    torch.maximum(window, digits[chosen[row, which]], out=window)
        return frames, y[chosen[:, 0]]
