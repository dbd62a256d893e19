"""Reads time series: the .ts files of the UCR and UEA archives, and long .csv files with a column per channel."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aelab.data.table_files import read as read_table
from aelab.errors import UserError

Signal = NDArray[np.float32]


@dataclass
class Series:
    """Signals (C, L), which may differ in length."""

    signals: list[Signal] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    """The label of each series, or of each step of each recording."""
    test: list[bool] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    long: bool = False
    """Whether these are recordings to cut into windows."""
    own_test: bool = False
    """Whether the test split is the source's own."""


def shape(
    root: str, window: int | None = None, columns: Any = None, label: str | None = None, recording: str | None = None
) -> list[int]:
    """Return the shape (C, L) of a datum: the window, or the length of the longest series."""
    series = read(root, None if columns is None else tuple(columns), label, recording)
    longest = max(signal.shape[1] for signal in series.signals)
    if series.long and window is None:
        raise UserError(f"{root} is one long recording of {longest} steps: type data.window=STEPS")
    return [series.signals[0].shape[0], window or longest]


def read(
    root: str, columns: tuple[str, ...] | None = None, label: str | None = None, recording: str | None = None
) -> Series:
    """Return the series of a .ts file, of a folder with NAME_TRAIN.ts and NAME_TEST.ts, or of a .csv file.

    Raises UserError for files that cannot be read, and for series of different numbers of channels.
    """
    path = Path(root).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist: type data.root=FILE.ts, FILE.csv, or a folder with NAME_TRAIN.ts")
    found = _recordings(path, columns, label, recording) if path.suffix in (".csv", ".tsv", ".parquet") else _ts(path)
    if not found.signals:
        raise UserError(f"{path} holds no series")
    counts = {len(signal) for signal in found.signals}
    if len(counts) > 1:
        first, other = sorted(counts)[:2]
        row = next(i for i, signal in enumerate(found.signals) if len(signal) != len(found.signals[0]))
        raise UserError(
            f"{path}: series have {first} and {other} channels (series {row + 1} is the first to differ): "
            "they must have as many"
        )
    return found


def _recordings(path: Path, columns: tuple[str, ...] | None, label: str | None, recording: str | None) -> Series:
    """Return one signal per recording. The columns are channels, and the rows steps."""
    table = read_table(str(path), columns, label)
    numbers, names = table.numbers, list(table.names)
    if recording is None:
        parts: list[Any] = [slice(None)]
    else:
        if recording not in names:
            raise UserError(f"{path} has no column '{recording}' of numbers that tells recordings apart")
        which = numbers[:, names.index(recording)]
        numbers = np.delete(numbers, names.index(recording), axis=1)
        names.remove(recording)
        parts = [which == one for one in dict.fromkeys(which.tolist())]
    labels = [] if table.labels is None else [table.labels[part] for part in parts]
    return Series([numbers[part].T for part in parts], labels, channels=names, long=True)


def _ts(path: Path) -> Series:
    files = sorted(path.glob("*.ts")) if path.is_dir() else [path]
    parts = {split: [file for file in files if file.stem.upper().endswith(split)] for split in ("_TRAIN", "_TEST")}
    if path.is_dir():
        if [len(part) for part in parts.values()] != [1, 1]:
            raise UserError(
                f"{path} must hold one NAME_TRAIN.ts and one NAME_TEST.ts "
                f"(it has {', '.join(f.name for f in files) or 'no .ts file'})"
            )
        files = [*parts["_TRAIN"], *parts["_TEST"]]
    found = Series(own_test=len(files) > 1)
    for number, file in enumerate(files):
        _read_ts(file, found, test=number == 1)
    return found


def _read_ts(path: Path, into: Series, test: bool) -> None:
    """Read one .ts file: a line per series, its channels and last its label between colons."""
    labelled, started = True, False
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        low = line.lower()
        if not line or line.startswith("#"):
            continue
        if not started:
            started = low == "@data"
            if low.startswith("@classlabel"):
                labelled = low.split()[1] == "true"
            continue
        channels = line.split(":")
        label = channels.pop() if labelled else ""
        try:
            values = [
                [float("nan") if word in ("?", "NaN", "") else float(word) for word in channel.split(",")]
                for channel in channels
            ]
        except ValueError as error:
            raise UserError(f"{path}: line {number} holds a text among its numbers ({error}): repair it") from error
        length = max(map(len, values), default=0)
        if not length or any(len(channel) != length for channel in values):
            raise UserError(
                f"{path}: line {number} has channels of {', '.join(str(len(c)) for c in values)} steps: "
                "they must be as long"
            )
        into.signals.append(np.array(values, dtype=np.float32))
        into.labels.append(label)
        into.test.append(test)
    if not started:
        raise UserError(f"{path} is no .ts file (it has no line @data): for other files type data=table or data=arrays")
