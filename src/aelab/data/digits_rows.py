"""scikit-learn's digits, read row by row: a signal of 8 steps and 8 channels. Nothing is downloaded.

Channel c of step t is the grey value in row t and column c. The test split is that of `data=digits`.
"""

import torch
from sklearn.datasets import load_digits

from aelab.data.digits import test_digits
from aelab.data.values import Stored, Values


class DigitsRows(Values):
    def stored(self, root: str, new: bool = False) -> Stored:
        images, labels = load_digits(return_X_y=True)
        rows = torch.from_numpy(images).float().view(-1, 8, 8).transpose(1, 2).contiguous()
        return Stored(rows, torch.from_numpy(labels).long(), [], test_digits(len(rows)))
