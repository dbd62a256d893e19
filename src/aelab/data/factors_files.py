"""Reads a .npz of images and the factors that made them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aelab.errors import UserError

IMAGES = ("images", "imgs")
FACTORS = ("factors", "latents_classes")  # the second names are those of dSprites' own file
PARTS = 100  # in which floats become uint8, so that no copy of all of them is made


def shape(root: str) -> list[int]:
    """Return the shape of an image, (C, H, W). Only the header of the images is read."""
    path = _path(root)
    with _opened(path) as content, content.zip.open(f"{_name(content, IMAGES, path)}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        sizes, *_ = header(file)
    return _sizes(sizes, path)[0]


def read(root: str) -> tuple[NDArray[np.uint8], NDArray[Any], list[str]]:
    """Return images (N, C, H, W) as uint8, factors (N, F) as stored, and their names, which may be none.

    Images are stored as (N, H, W), (N, H, W, C) or (N, C, H, W), in 0 … 255, or in 0 … 1. Names are in `names`.
    Raises UserError for a file that is no such .npz.
    """
    path = _path(root)
    with _opened(path) as content:
        images, factors = (np.asarray(content[_name(content, names, path)]) for names in (IMAGES, FACTORS))
        names = [str(name) for name in content["names"]] if "names" in content.files else []
    return _uint8(images, path), _table(factors, len(images), path), names


def _path(root: str) -> Path:
    path = Path(root).expanduser()
    if not path.is_file() or path.suffix != ".npz":
        raise UserError(f"{path} is no .npz file of images and factors: type data.root=FILE.npz")
    return path


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a .npz, and say in one line what is wrong with it."""
    try:
        with np.load(path, allow_pickle=False) as content:
            yield content
    except UserError:
        raise
    except Exception as error:  # zip files have errors of their own
        raise UserError(f"{path} cannot be read ({error}): save numbers with numpy.savez") from error


def _name(content: Any, names: tuple[str, ...], path: Path) -> str:
    """Return the first of `names` that a .npz holds."""
    held = content.files
    for name in names:
        if name in held:
            return name
    raise UserError(f"{path} has no array '{names[0]}' (it has {', '.join(held)}): save images and factors")


def _sizes(stored: tuple[int, ...], path: Path) -> tuple[list[int], bool]:
    """Return (C, H, W) for the shape of an array of images, and whether its last axis counts channels."""
    if len(stored) == 3:
        return [1, *stored[1:]], False
    if len(stored) != 4:
        raise UserError(f"{path} holds images of shape {list(stored)}: save (N, H, W) or (N, H, W, C)")
    last = stored[3] in (1, 3) and stored[1] not in (1, 3)
    return [stored[3], *stored[1:3]] if last else list(stored[1:]), last


def _uint8(images: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    sizes, last = _sizes(images.shape, path)
    images = np.moveaxis(images, -1, 1) if last else images.reshape(len(images), *sizes)
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= (1 if images.dtype.kind == "f" else 255)):
        raise UserError(f"{path} holds images from {low:g} to {high:g}: save 0 … 255 as uint8, or 0 … 1")
    if images.dtype.kind == "f":
        return np.concatenate([np.round(part * 255).astype(np.uint8) for part in np.array_split(images, PARTS)])
    return np.ascontiguousarray(images, dtype=np.uint8) * np.uint8(255 if high <= 1 else 1)


def _table(factors: NDArray[Any], n: int, path: Path) -> NDArray[Any]:
    factors = factors.reshape(len(factors), -1)
    if len(factors) != n:
        raise UserError(f"{path} has {n} images and {len(factors)} rows of factors: they must be as many")
    if factors.dtype.kind not in "iufb" or not np.isfinite(factors).all():
        raise UserError(f"{path} holds factors that are no numbers: save the number of each value")
    return factors
