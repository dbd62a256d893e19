"""The 1,797 handwritten digits of 8×8 pixels that scikit-learn brings along. Nothing is downloaded.

E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set). They have no official
split, so 360 images are the test split, always the same ones.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from aelab import randomness
from aelab.data.images import Images

TEST = 360


def test_digits(n: int) -> Tensor:
    """Return which of the `n` digits are of the test split, (n,) bool."""
    held_out = torch.zeros(n, dtype=torch.bool)
    held_out[torch.randperm(n, generator=randomness.generator("cpu", "digits"))[:TEST]] = True
    return held_out


class Digits(Images):
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = load_digits(return_X_y=True)
        grey = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8)  # 17 levels
        index = (test_digits(len(grey)) != train).nonzero().flatten()
        return grey[index].view(-1, 1, 8, 8), torch.from_numpy(labels)[index].long()
