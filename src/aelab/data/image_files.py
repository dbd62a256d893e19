"""Image files, read as a viewer shows them: upright, without transparency, 8 bits per channel."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms import functional as transforms

from aelab.errors import UserError


class Unreadable(UserError):
    """A file that is broken, or whose values have no known range. The message names it."""


_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_SCALED = {"PNG", "PPM"}  # Pillow opens their 16 bits as mode I, whose range is 0 … 65535


@dataclass(frozen=True)
class Files:
    """Image files by index, each uint8 (C, H, W).

    - Values are scaled by the range of their type. 16 bits become 8.
    - An image is turned as its EXIF orientation says, before its size is compared with `shape`.
    - A transparent image is composited on `background`, a colour as Pillow names it.
    - Of a file with several frames, the first one is read.
    """

    root: Path
    names: Sequence[str]
    shape: tuple[int, int, int]
    resize: bool
    background: str
    threshold: bool = False
    """Whether to make bits of grey values, cut at 1/2."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        pixels = self.decode(index)[0]
        return (pixels >= 128).to(torch.uint8) * 255 if self.threshold else pixels

    def decode(self, index: int) -> tuple[Tensor, list[str]]:
        """Return an image, and what was done to it in words. Raises UserError that names the file."""
        path = self.root / self.names[index]
        channels, height, width = self.shape
        done: list[str] = []
        try:
            image: Image.Image
            with Image.open(path) as image:
                if getattr(image, "n_frames", 1) > 1:
                    done.append("of several frames, of which the first is read")
                form = image.format
                ImageOps.exif_transpose(image, in_place=True)
                image.load()
            if image.mode in _SIXTEEN or (image.mode == "I" and form in _SCALED):
                done.append("of 16 bits, read as 8 bits")
                image = Image.fromarray(np.round(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError(f"{'32-bit integers' if image.mode == 'I' else 'floats'} have no known range")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                if np.asarray(image)[..., 3].min() < 255:
                    done.append(f"transparent, composited on {self.background}")
                    ground = Image.new("RGBA", image.size, ImageColor.getrgb(self.background))
                    image = Image.alpha_composite(ground, image)
            mode = "L" if channels == 1 else "RGB"
            image = image if image.mode == mode else image.convert(mode)
        except Exception as error:  # each format of Pillow has errors of its own
            raise Unreadable(
                f"{path} cannot be read as an image ({' '.join(str(error).split()) or type(error).__name__}): "
                "repair or remove it, or type data.skip_broken=true"
            ) from error
        if self.resize:
            scale = max(height / image.height, width / image.width)
            size = [max(round(image.height * scale), height), max(round(image.width * scale), width)]
            image = transforms.center_crop(transforms.resize(image, size), [height, width])
        if image.size != (width, height):
            raise UserError(
                f"{path} is {image.height}×{image.width}, but data.shape={list(self.shape)}: type data.resize=true to "
                f"scale and crop, or train with data.shape=[{channels},{image.height},{image.width}]"
            )
        pixels: Tensor = transforms.pil_to_tensor(image)
        return pixels, done

    def __repr__(self) -> str:
        """Return the names and sizes, which identify the files without reading them."""
        try:
            return repr([(Path(name).name, (self.root / name).stat().st_size) for name in self.names])
        except OSError as error:
            raise Unreadable(f"{error.filename} cannot be read ({error.strerror}): repair or remove it") from error


@dataclass
class Decoded:
    """What came of reading all files once."""

    broken: dict[str, str] = field(default_factory=dict)
    """What is wrong with each file that cannot be read, by its name."""
    done: dict[str, int] = field(default_factory=dict)
    """Number of images to which something was done, in words."""


def decode_all(files: Files, into: Tensor | None) -> Decoded:
    """Decode all files with threads, into the rows of `into` (N, C, H, W). Broken files leave no row.

    The rows that remain stand first, in order.
    """
    done, broken, row = Counter[str](), {}, 0

    def attempt(index: int) -> tuple[Tensor, list[str]] | Unreadable:
        try:
            return files.decode(index)
        except Unreadable as error:
            return error

    step = 1024  # so that decoded images do not pile up in memory
    starts = range(0, len(files), step)
    console = Console(stderr=True)
    with ThreadPoolExecutor() as threads:  # decoding leaves Python's lock free
        for start in track(starts, "reading images", console=console, transient=True, disable=len(starts) < 4):
            for index, result in enumerate(threads.map(attempt, range(start, min(start + step, len(files)))), start):
                if isinstance(result, Unreadable):
                    broken[files.names[index]] = str(result)
                    continue
                pixels, what = result
                done.update(what)
                if into is not None:
                    into[row] = pixels
                row += 1
    return Decoded(broken, dict(done))
