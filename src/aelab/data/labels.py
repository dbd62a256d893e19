"""Labels that a user stored, as integers and names."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelab.errors import UserError

MOST = 1000  # classes: more different numbers than this are no classes


def as_labels(values: NDArray[Any] | None, n: int) -> tuple[Tensor, list[str]]:
    """Return labels and the names of the classes.

    Words and whole numbers (N,) become integers from 0, in the order of their values. Other numbers, and several per
    datum (N, K), stay as they are. Without labels all data are of class 0. Raises UserError for missing labels.
    """
    if values is None:
        return torch.zeros(n, dtype=torch.long), []
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind in "USO":
        words = values.astype(str)
        numbers = _numbers(words)
        if numbers is None:
            names, labels = np.unique(words, return_inverse=True)
            return torch.from_numpy(labels.astype(np.int64)), names.tolist()
        values = numbers
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError(f"the label of datum {int(np.isnan(values).nonzero()[0][0]) + 1} is missing: repair it")
    whole = values.ndim == 1 and (values.dtype.kind in "iub" or bool((values == np.round(values)).all()))
    if not whole:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), []
    found, labels = np.unique(values.astype(np.int64), return_inverse=True)
    if len(found) > MOST:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), []
    return torch.from_numpy(labels.astype(np.int64)), [str(one) for one in found]


def _numbers(words: NDArray[Any]) -> NDArray[Any] | None:
    try:
        return words.astype(float)
    except ValueError:
        return None
