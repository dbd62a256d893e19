"""Time series of your own: `ae train data=series data.root=FOLDER net=lstm`.

    FOLDER/NAME_TRAIN.ts, NAME_TEST.ts    as in the UCR and UEA archives; or one FILE.ts
    FILE.csv                              a recording with a column per channel, cut into windows of `data.window` steps

Series of unequal length are padded with what is missing, so no loss counts the padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from aelab.data.labels import as_labels
from aelab.data.series_files import Series as Found
from aelab.data.series_files import read
from aelab.data.values import Stored, Values
from aelab.errors import UserError
from aelab.ranges import Count


@dataclass(eq=False, kw_only=True)
class Series(Values):
    window: Count | None
    """Steps of a window of a recording. None: a series is a datum."""
    stride: Count | None
    """Steps from a window to the next. None: as many as a window has."""
    columns: Sequence[str] | None
    """Columns of a .csv that are channels, by name or pattern. None: all but the label."""
    label: str | None
    """The column of the label. A window has the label of its last step."""
    recording: str | None
    """The column of numbers that tells recordings apart. Each stays in one split."""

    def stored(self, root: str, new: bool = False) -> Stored:
        columns = None if self.columns is None else tuple(self.columns)
        found = read(root, columns, self.label, self.recording)
        if found.long or self.window is not None:
            return self._windows(found)
        length = self.shape[1]
        items = torch.full((len(found.signals), *self.shape), torch.nan)
        for row, signal in enumerate(found.signals):
            items[row, :, : signal.shape[1]] = torch.from_numpy(signal[:, :length])
        labels, classes = as_labels(np.array(found.labels) if any(found.labels) else None, len(items))
        test = torch.tensor(found.test) if found.own_test else None
        lengths = torch.tensor([min(signal.shape[1], length) for signal in found.signals])
        unequal = lengths if (lengths < length).any() else None
        return Stored(items, labels, classes, test, lengths=unequal, channels=found.channels)

    def _windows(self, found: Found) -> Stored:
        """Cut recordings, or series, into windows."""
        window = self.window or self.shape[1]
        stride = self.stride or window
        parts, labels, groups = [], [], []
        for number, signal in enumerate(found.signals):
            if signal.shape[1] < window:
                raise UserError(
                    f"{self.root}: series {number + 1} has {signal.shape[1]} steps, fewer than data.window={window}"
                )
            cut = torch.from_numpy(np.ascontiguousarray(signal)).unfold(1, window, stride).transpose(0, 1)
            parts.append(cut)
            groups.append(torch.full((len(cut),), number))
            if found.labels:
                own = np.atleast_1d(np.asarray(found.labels[number]))
                labels.append(own[window - 1 :: stride] if found.long else own.repeat(len(cut)))
        items = torch.cat(parts) if len(parts) > 1 else parts[0]
        y, classes = as_labels(np.concatenate(labels) if labels else None, len(items))
        test = torch.tensor(found.test)[torch.cat(groups)] if found.own_test else None
        single = len(parts) == 1
        gap = -(-window // stride) - 1
        return Stored(
            items,
            y,
            classes,
            test,
            None if single else torch.cat(groups),
            gap if single else None,
            channels=found.channels,
        )
