"""Reads tables: .csv, .tsv, .parquet and MATLAB's .mat."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aelab.errors import UserError, did_you_mean, require


@dataclass(frozen=True)
class Table:
    """Columns of numbers, and the column of labels."""

    names: list[str]
    numbers: NDArray[np.float32]
    """(N, F). What is missing is nan."""
    labels: NDArray[Any] | None
    """(N,), of words or numbers."""


def shape(
    root: str, columns: Sequence[str] | None = None, label: str | None = None, file: str | None = None
) -> list[int]:
    """Return the shape (F,) of a row."""
    path = Path(root, file or "").expanduser()
    if path.suffix == ".mat":
        return [len(_read_mat(path, columns, label).names)]
    names = _parquet(path).schema.names if path.suffix == ".parquet" else _csv_head(path)[0]
    return [len(_chosen(path, names, columns, label))]


def read(
    root: str,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    new: bool = False,
    file: str | None = None,
) -> Table:
    """Return the table in `root`, or in a file below it.

    `columns` are names, or patterns such as `sensor_*`; None: all but the label. `new`: the label may be absent. Raises
    UserError for a column that does not exist, and with row and column for a text among numbers.
    """
    path = Path(root, file or "").expanduser()
    if path.suffix == ".mat":
        return _read_mat(path, columns, label)
    if path.suffix == ".parquet":
        return _read_parquet(path, columns, label, new)
    return _read_csv(path, columns, label, new)


def _chosen(
    path: Path, names: Sequence[str], columns: Sequence[str] | None, label: str | None, new: bool = False
) -> list[str]:
    if label is not None and label not in names and not new:
        raise UserError(f"{path} has no column '{label}'{did_you_mean(label, names)} (it has {_listed(names)})")
    rest = [name for name in names if name != label]
    if columns is None:
        return rest
    chosen = []
    for pattern in columns:
        found = [name for name in rest if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(f"{path} has no column '{pattern}'{did_you_mean(pattern, names)} (it has {_listed(names)})")
        chosen += [name for name in found if name not in chosen]
    return chosen


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _number(word: str) -> float | None:
    """Return a cell as a number, nan for an empty one, and None for a text."""
    word = word.strip()
    if not word or word.lower() in ("na", "nan", "null", "none", "?"):
        return float("nan")
    try:
        return float(word)
    except ValueError:
        return None


def _csv_lines(path: Path) -> tuple[list[list[str]], bool]:
    """Return the cells of each line, and whether the first line is a header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: type data.root=FILE.csv, .tsv, .parquet or .mat") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: type data.root=FILE.csv, .tsv, .parquet or .mat") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count) if path.suffix != ".tsv" else "\t"
    lines = [line for line in csv.reader(text.splitlines(), delimiter=delimiter) if line]
    if not lines:
        raise UserError(f"{path} is empty")
    return lines, any(_number(cell) is None for cell in lines[0])


def _csv_head(path: Path) -> tuple[list[str], list[list[str]]]:
    lines, header = _csv_lines(path)
    names = [cell.strip() for cell in lines[0]] if header else [f"c{i}" for i in range(len(lines[0]))]
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two columns of one name: rename one of {_listed(names)}")
    return names, lines[1:] if header else lines


def _read_csv(path: Path, columns: Sequence[str] | None, label: str | None, new: bool) -> Table:
    names, lines = _csv_head(path)
    chosen = _chosen(path, names, columns, label, new)
    places = [names.index(name) for name in chosen]
    numbers = np.empty((len(lines), len(chosen)), dtype=np.float32)
    for row, line in enumerate(lines):
        if len(line) != len(names):
            raise UserError(
                f"{path}: row {row + 1} has {len(line)} cells, and the first line has {len(names)}: repair it"
            )
        for column, place in enumerate(places):
            value = _number(line[place])
            if value is None:
                raise UserError(
                    f"{path}: row {row + 1}, column '{chosen[column]}' holds '{line[place].strip()}', which is no "
                    f"number: type data.label={chosen[column]} if it is the label, or data.columns=[…] without it"
                )
            numbers[row, column] = value
    labels = None
    if label in names:
        labels = np.array([line[names.index(label)].strip() for line in lines])
    return Table(chosen, numbers, labels)


def _parquet(path: Path) -> Any:
    require("pyarrow", path.name, "save it as .csv")
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: type data.root=FILE.csv, .tsv, .parquet or .mat") from error
    except Exception as error:
        raise UserError(f"{path} is no .parquet file ({error}): save it anew") from error


def _read_parquet(path: Path, columns: Sequence[str] | None, label: str | None, new: bool) -> Table:
    table = _parquet(path).read()
    chosen = _chosen(path, table.column_names, columns, label, new)
    numbers = np.empty((table.num_rows, len(chosen)), dtype=np.float32)
    for place, name in enumerate(chosen):
        try:
            numbers[:, place] = table.column(name).cast("float64").to_numpy()
        except Exception as error:
            raise UserError(
                f"{path}: column '{name}' holds {table.column(name).type}, which is no number: type data.label={name} "
                "if it is the label, or data.columns=[…] without it"
            ) from error
    labels = table.column(label).to_numpy() if label in table.column_names else None
    return Table(chosen, numbers, labels)


def _mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: type data.root=FILE.csv, .tsv, .parquet or .mat") from error
    except NotImplementedError as error:
        raise UserError(f"{path} is a .mat of version 7.3: save it with -v7") from error
    except Exception as error:
        raise UserError(f"{path} is no .mat file ({' '.join(str(error).split())}): save it anew") from error
    return {name: value for name, value in content.items() if not name.startswith("__")}


def _read_mat(path: Path, columns: Sequence[str] | None, label: str | None) -> Table:
    """Return the matrix X, or the largest one, and the vector y, or the one that `label` names."""
    content = _mat(path)
    matrices = {
        name: value for name, value in content.items() if np.ndim(value) == 2 and np.issubdtype(value.dtype, np.number)
    }
    if not matrices:
        raise UserError(f"{path} holds no matrix of numbers (it has {', '.join(content) or 'nothing'})")
    name = "X" if "X" in matrices else max(matrices, key=lambda one: matrices[one].size)
    numbers = matrices[name]
    if label is not None and label not in content:
        raise UserError(f"{path} has no '{label}'{did_you_mean(label, content)} (it has {', '.join(content)})")
    labels = content.get(label or "y")
    names = [f"c{i}" for i in range(numbers.shape[1])]
    chosen = _chosen(path, names, columns, None)
    if labels is not None and labels.size != len(numbers):
        raise UserError(f"{path} has {len(numbers)} rows and {labels.size} labels: they must be as many")
    flat = None if labels is None else np.asarray(labels).reshape(-1)
    return Table(chosen, numbers[:, [names.index(one) for one in chosen]].astype(np.float32), flat)
