"""Reads stored arrays: .npy, .npz, or a folder of .npy files. Nothing is ever unpickled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aelab.errors import UserError

Array = NDArray[Any]

RANKS = {"vectors": 0, "signals": 1, "images": 2, "volumes": 3}
_DATA = ("x", "data", "train", "x_train", "train_x", "train_data")
_TEST = ("test", "x_test", "test_x", "test_data")
_LABELS = ("y", "labels", "y_train", "train_y", "train_labels", "factors", "attributes")
_TEST_LABELS = ("y_test", "test_y", "test_labels")


@dataclass(frozen=True)
class Arrays:
    """Data and labels as they are stored. The data of an official test split stand apart."""

    data: Array
    labels: Array | None
    test: Array | None
    test_labels: Array | None


def shape(root: str, kind: str | None = None) -> list[int]:
    """Return the shape of a datum. Only headers are read."""
    return shape_as(read(root).data.shape[1:], kind, root)


def shape_as(sizes: tuple[int, ...], kind: str | None, root: str) -> list[int]:
    """Return the shape of a datum whose array has these sizes. A channel axis is added if `kind` says that it lacks."""
    if kind is None:
        return list(sizes) or [1]
    rank = RANKS[kind]
    if kind == "vectors":
        return [int(np.prod(sizes, dtype=int))]
    if len(sizes) == rank:
        return [1, *sizes]
    if len(sizes) != rank + 1:
        raise UserError(f"{root} holds data of shape {list(sizes)}, which are no {kind}: type another data.kind")
    return list(sizes)


def read(root: str, labels: str | None = None) -> Arrays:
    """Return what a file or folder holds, memory-mapped. `labels`: a file of labels that lies elsewhere.

    Raises UserError for a file that cannot be read, and for labels of another length.
    """
    path = Path(root).expanduser()
    parts = _parts(path)
    data, test = (_one(parts, names, path) for names in (_DATA, _TEST))
    if data is None:
        raise UserError(
            f"{path} holds no array of data (it has {', '.join(parts) or 'nothing'}): name it x.npy or train.npy, or "
            "inside a .npz x or x_train"
        )
    given = load(Path(labels).expanduser()) if labels else _one(parts, _LABELS, path)
    test_labels = _one(parts, _TEST_LABELS, path)
    for what, rows, found in (("data", data, given), ("test data", test, test_labels)):
        if rows is not None and found is not None and len(rows) != len(found):
            raise UserError(f"{path} has {len(rows)} {what} and {len(found)} labels: they must be as many")
    return Arrays(data, given, test, test_labels)


def load(path: Path) -> Array:
    """Return an array of a .npy file, memory-mapped. Changes stay in memory."""
    try:
        array: Array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: type data.root=FILE.npy, FILE.npz or a folder of .npy") from error
    except ValueError as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise UserError(f"{path} holds Python objects, which are never unpickled: save it as numbers") from error
        raise UserError(f"{path} is no .npy file ({' '.join(str(error).split())}): save it anew") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): save it anew") from error
    return array


def _parts(path: Path) -> Mapping[str, Any]:
    """Return the arrays by name, in lower case: those of a .npz, of a folder, or of one .npy and its labels."""
    if path.is_dir():
        return {file.stem.lower(): file for file in sorted(path.glob("*.npy"))}
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as content:
                return {name.lower(): content[name] for name in content.files}
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist") from error
        except ValueError as error:
            raise UserError(f"{path} holds Python objects, which are never unpickled: save numbers") from error
        except Exception as error:  # zip files have errors of their own
            raise UserError(f"{path} cannot be read ({error}): save it anew") from error
    if path.is_file() and path.suffix != ".npy":
        raise UserError(f"{path} is no .npy, .npz or folder of .npy: for a table type data=table")
    beside = {name: path.with_name(f"{path.stem}_{name}.npy") for name in ("labels", "y")}
    return {"x": path} | {name: file for name, file in beside.items() if file.is_file()}


def _one(parts: Mapping[str, Any], names: tuple[str, ...], path: Path) -> Array | None:
    found = [name for name in names if name in parts]
    if len(found) > 1:
        raise UserError(f"{path} holds {' and '.join(found)}, which mean the same: keep one")
    if not found:
        return None
    array = parts[found[0]]
    return load(array) if isinstance(array, Path) else array
