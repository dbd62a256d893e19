"""A folder of your own images: `ae train data=folder data.root=pictures data.shape=[3,64,64]`.

    root/train/CLASS/*.png and root/test/CLASS/*.png        the test split is yours
    root/CLASS/*.png or root/*.png                          a fixed tenth of the images is the test split

Sub-folders are classes, in the order of their names. Images without sub-folders are all of class 0.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import functional as transforms

from aelab import randomness
from aelab.data.base import Images
from aelab.data.loader import Pixels
from aelab.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


@dataclass(eq=False, kw_only=True)
class Folder(Images):
    resize: bool
    """Whether to bring every image to the declared size. Its shorter side is scaled, and the centre is cut out."""

    def read(self, train: bool) -> tuple[Pixels, Tensor]:
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise UserError(f"data.root={self.root} is no folder: type data.root=FOLDER with a folder of images")
        given = (root / "train").is_dir() and (root / "test").is_dir()
        paths = sorted(self._images(root / ("train" if train else "test") if given else root))
        classes = sorted({self._class(path, root, given) for path in self._images(root)})
        if "" in classes[:1] and len(classes) > 1:
            raise UserError(
                f"{root} holds images beside the class folders {', '.join(classes[1:4])}: move them into one"
            )
        labels = torch.tensor([classes.index(self._class(path, root, given)) for path in paths])
        if not given:
            shuffled = torch.randperm(len(paths), generator=randomness.generator("cpu", "folder"))
            test = max(len(paths) // 10, 1)
            index = (shuffled[test:] if train else shuffled[:test]).sort().values
            paths, labels = [paths[i] for i in index], labels[index]
        files = Files(paths, self.shape, self.resize, self.binarize == "threshold")
        if self.loader == "stream":
            return files, labels
        with ThreadPoolExecutor() as threads:  # decoding leaves Python's lock free
            return torch.stack(list(threads.map(files.__getitem__, range(len(files))))), labels

    def _images(self, folder: Path) -> list[Path]:
        paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
        if len(paths) < 3:
            raise UserError(
                f"{folder} holds {len(paths)} images, but at least 3 are needed: add files that end in "
                f"{', '.join(sorted(SUFFIXES))}, or type another data.root"
            )
        return paths

    def _class(self, path: Path, root: Path, given: bool) -> str:
        """Return the first sub-folder under the root or the split, or an empty string without one."""
        parts = path.relative_to(root).parts[1 if given else 0 :]
        return parts[0] if len(parts) > 1 else ""


class Files:
    """Image files, read as uint8 (C, H, W) when they are asked for."""

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int], resize: bool, threshold: bool) -> None:
        self.paths, self.shape, self.resize, self.threshold = paths, tuple(shape), resize, threshold

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path, (channels, height, width) = self.paths[index], self.shape
        try:
            with Image.open(path) as file:
                image = file.convert("L" if channels == 1 else "RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} cannot be read as an image ({error}): repair or remove it") from error
        if self.resize:
            scale = max(height / image.height, width / image.width)
            size = [max(round(image.height * scale), height), max(round(image.width * scale), width)]
            image = transforms.center_crop(transforms.resize(image, size), [height, width])
        if image.size != (width, height):
            raise UserError(
                f"{path} is {image.height}×{image.width}, but data.shape={list(self.shape)}: type "
                f"data.shape=[{channels},{image.height},{image.width}], or data.resize=true to scale and crop"
            )
        pixels: Tensor = transforms.pil_to_tensor(image)
        return (pixels >= 128).to(torch.uint8) * 255 if self.threshold else pixels

    def __repr__(self) -> str:
        """Return the names and sizes, which identify the files without reading them."""
        return repr([(path.name, path.stat().st_size) for path in self.paths])
