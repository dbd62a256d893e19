"""Reads volumes: NIfTI files (.nii, .nii.gz) by nibabel, and .npy files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aelab.data.arrays_files import load
from aelab.errors import UserError, require

SUFFIXES = (".nii", ".nii.gz", ".npy")


def shape(root: str, patch: int | Sequence[int] | None = None) -> list[int]:
    """Return the shape (1, D, H, W) of a datum: of a patch, or of a whole volume, of which headers are read."""
    if patch is not None:
        return [1, *sides(patch)]
    sizes = {path: volume(path).shape for path in files(root)}
    (first, size), *others = sizes.items()
    for path, other in others:
        if other != size:
            raise UserError(f"{first} is {_times(size)} and {path} {_times(other)}: type data.patch=SIDE, or resample")
    return [1, *size]


def sides(patch: int | Sequence[int]) -> list[int]:
    """Return the three sides of a patch."""
    return [patch] * 3 if isinstance(patch, int) else list(patch)


def files(root: str) -> list[Path]:
    """Return the volumes of a folder, however deep, or the one file."""
    path = Path(root).expanduser()
    if path.is_file():
        return [path]
    found = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}") if not file.name.startswith("."))
    if not found:
        raise UserError(f"{path} holds no volume: type data.root=FILE.nii.gz, FILE.npy, or a folder of them")
    return found


def subject(path: Path, root: str) -> str:
    """Return whose volume it is: the folder below the root, or the name of the file up to the first `_`."""
    base = Path(root).expanduser()
    below = path.relative_to(base) if base.is_dir() else Path(path.name)
    return below.parts[0] if len(below.parts) > 1 else below.name.split(".")[0].split("_")[0]


def volume(path: Path) -> Any:
    """Return what holds a volume (D, H, W), which is read when it is asked for its numbers."""
    if path.suffix == ".npy":
        array: Any = load(path)
    else:
        require("nibabel", path.name, "save it as .npy")
        import nibabel

        try:
            array = nibabel.load(path).dataobj  # type: ignore[attr-defined]
        except Exception as error:
            raise UserError(f"{path} is no NIfTI file ({' '.join(str(error).split())}): repair it") from error
    sizes = [size for size in array.shape if size > 1 or len(array.shape) == 3]
    if len(sizes) != 3:
        raise UserError(f"{path} is {_times(array.shape)}, and a volume has three sizes")
    return array


def numbers(path: Path) -> NDArray[Any]:
    """Return the numbers of a volume (D, H, W). Raises UserError for a torn file."""
    array = volume(path)
    try:
        plain = np.asarray(array)
    except Exception as error:  # of zlib, or of a file that is too short
        raise UserError(
            f"{path} is torn ({' '.join(str(error).split()) or type(error).__name__}): fetch it again"
        ) from error
    return plain.reshape([size for size in plain.shape if size > 1 or plain.ndim == 3])


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
