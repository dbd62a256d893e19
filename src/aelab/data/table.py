"""A table of your own: `ae train data=table data.root=patients.csv data.label=outcome`.

A row is a datum, and a column a number of it. Files are .csv, .tsv, .parquet, or .mat with X and y.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aelab.atomic import write_text
from aelab.data.labels import as_labels
from aelab.data.table_files import read
from aelab.data.values import Stored, Values


@dataclass(eq=False, kw_only=True)
class Table(Values):
    file: str | None
    """The file below `root`, so that a sweep runs over several. None: `root` is the file."""
    columns: Sequence[str] | None
    """Names of the columns, or patterns such as `sensor_*`. None: all but the label."""
    label: str | None
    """The column of the label. None: y of a .mat, and no label of other files."""
    test: str | None
    """A file with the rows of the test split. None: they are cut from `root`."""

    def write(self, folder: Path, names: Sequence[str], x: Tensor) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["name", *self.channels])
        table.writerows([name, *row] for name, row in zip(names, self.restored(x).tolist(), strict=True))
        write_text(folder / "reconstructions.csv", text.getvalue())

    def stored(self, root: str, new: bool = False) -> Stored:
        # New tables may have their columns in another order.
        table = read(
            root, self.channels if new and self.channels else self.columns, self.label, new, None if new else self.file
        )
        numbers, labels, own = table.numbers, table.labels, None
        if self.test is not None and not new:
            other = read(self.test, table.names, self.label)
            own = torch.arange(len(numbers) + len(other.numbers)) >= len(numbers)
            numbers = np.concatenate([numbers, other.numbers])
            labels = None if labels is None or other.labels is None else np.concatenate([labels, other.labels])
        y, classes = as_labels(labels, len(numbers))
        return Stored(torch.from_numpy(numbers), y, classes, own, channels=table.names)
