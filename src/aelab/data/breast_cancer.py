"""The table of 569 tumours, 30 measurements each, that scikit-learn brings along. Nothing is downloaded.

W. N. Street, W. H. Wolberg & O. L. Mangasarian, Nuclear feature extraction for breast tumor diagnosis, 1993.
"""

import torch
from sklearn.datasets import load_breast_cancer

from aelab.data.values import Stored, Values


class BreastCancer(Values):
    def stored(self, root: str, new: bool = False) -> Stored:
        table = load_breast_cancer()
        rows, labels = torch.from_numpy(table.data).float(), torch.from_numpy(table.target).long()
        names = [str(name) for name in table.feature_names]
        return Stored(rows, labels, [str(name) for name in table.target_names], channels=names)
