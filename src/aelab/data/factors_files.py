"""Reads a .npz of images and the factors that made them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aelab.errors import UserError

IMAGES = ("images", "imgs")
FACTORS = ("factors", "latents_classes")  # the second names are those of dSprites' own file


def shape(root: str) -> list[int]:
    """Return the shape of an image, (C, H, W)."""
    return list(read(root)[0].shape[1:])


def read(root: str) -> tuple[NDArray[np.uint8], NDArray[Any], list[str]]:
    """Return images (N, C, H, W) as uint8, factors (N, F) as stored, and their names, which may be none.

    Images are stored as (N, H, W), (N, H, W, C) or (N, C, H, W), in 0 … 255, or in 0 … 1. Names are in `names`.
    Raises UserError for a file that is no such .npz.
    """
    path = Path(root).expanduser()
    if not path.is_file() or path.suffix != ".npz":
        raise UserError(f"{path} is no .npz file of images and factors: type data.root=FILE.npz")
    try:
        with np.load(path, allow_pickle=False) as content:
            held = content.files
            found = [next((name for name in names if name in held), None) for names in (IMAGES, FACTORS)]
            if None in found:
                lacks = "images" if found[0] is None else "factors"
                raise UserError(f"{path} has no array '{lacks}' (it has {', '.join(held)}): save images and factors")
            images, factors = (np.asarray(content[name]) for name in found)
            names = [str(name) for name in content["names"]] if "names" in held else []
    except UserError:
        raise
    except Exception as error:  # zip files have errors of their own
        raise UserError(f"{path} cannot be read ({error}): save numbers with numpy.savez") from error
    return _uint8(images, path), _table(factors, len(images), path), names


def _uint8(images: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        images = np.moveaxis(images, -1, 1)
    if images.ndim != 4:
        raise UserError(f"{path} holds images of shape {list(images.shape)}: save (N, H, W) or (N, H, W, C)")
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= (1 if images.dtype.kind == "f" else 255)):
        raise UserError(f"{path} holds images from {low:g} to {high:g}: save 0 … 255 as uint8, or 0 … 1")
    scaled = images if high > 1 else np.round(images * 255.0)
    return np.ascontiguousarray(scaled).astype(np.uint8)


def _table(factors: NDArray[Any], n: int, path: Path) -> NDArray[Any]:
    factors = factors.reshape(len(factors), -1)
    if len(factors) != n:
        raise UserError(f"{path} has {n} images and {len(factors)} rows of factors: they must be as many")
    if factors.dtype.kind not in "iufb" or not np.isfinite(factors).all():
        raise UserError(f"{path} holds factors that are no numbers: save the number of each value")
    return factors
