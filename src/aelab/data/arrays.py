"""Stored arrays of your own: `ae train data=arrays data.root=x.npy`.

    x.npy                                 beside it x_labels.npy, if there are labels
    x.npz                                 with x, and if there are y, x_test, y_test
    FOLDER/train.npy, test.npy            with train_labels.npy and test_labels.npy

An array is (N, *shape). It is memory-mapped, so with `data.loader=stream` it may be larger than memory.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from aelab.data.arrays_files import Array, read, shape_as
from aelab.data.labels import as_labels
from aelab.data.values import Stored, Values
from aelab.errors import UserError


@dataclass(eq=False, kw_only=True)
class Arrays(Values):
    kind: Literal["vectors", "signals", "images", "volumes"] | None
    """What the array holds, if its data lack a channel axis. None: the first size of a datum counts its channels."""
    labels: str | None
    """A .npy file of labels, factors or attributes, if it lies elsewhere."""
    train_label: int | str | None
    """The label of all training data, where only those of the test split are stored."""

    def stored(self, root: str, new: bool = False) -> Stored:
        found = read(root, None if new else self.labels)
        data, labels = [found.data], [found.labels]
        if found.test is not None and not new:
            data, labels = [found.data, found.test], [found.labels, found.test_labels]
            if labels[0] is None and labels[1] is not None:
                if self.train_label is None:
                    raise UserError(f"{root} has labels of the test data only: type data.train_label=…")
                labels[0] = np.full(len(found.data), self.train_label, dtype=np.asarray(labels[1]).dtype)
        shape = shape_as(found.data.shape[1:], self.kind, root)
        items = [tensor(one, root).reshape(len(one), *shape) for one in data]
        known = None if any(one is None for one in labels) else np.concatenate([np.asarray(one) for one in labels])
        y, classes = as_labels(known, sum(map(len, data)))
        test = None
        if len(data) > 1:
            test = torch.arange(len(y)) >= len(data[0])
        return Stored(torch.cat(items) if len(items) > 1 else items[0], y, classes, test)


def tensor(array: Array, root: str) -> Tensor:
    """Return an array as a tensor that shares its memory. Two bytes without a type of NumPy's are bfloat16."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return torch.from_numpy(np.asarray(array).view(np.int16)).view(torch.bfloat16)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{root} holds {array.dtype}, and numbers belong there: save it as float32")
    if not array.dtype.isnative or array.dtype in (np.uint16, np.uint32, np.uint64, np.longdouble):
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return torch.from_numpy(np.asarray(array))
