"""The 1,797 handwritten digits of 8×8 pixels that scikit-learn brings along. Nothing is downloaded.

E. Alpaydin & C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set). They have no official
split, so 360 images are the test split, always the same ones.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from aelab import randomness
from aelab.data.images import Images


class Digits(Images):
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        images, labels = load_digits(return_X_y=True)
        grey = torch.from_numpy(images).mul(255 / 16).round().to(torch.uint8)  # 17 levels
        shuffled = torch.randperm(len(grey), generator=randomness.generator("cpu", "digits"))
        index = (shuffled[360:] if train else shuffled[:360]).sort().values
        return grey[index].view(-1, 1, 8, 8), torch.from_numpy(labels)[index].long()
