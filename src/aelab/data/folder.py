"""A folder of your own images: `ae train data=folder data.root=pictures data.shape=[3,64,64]`.

    ROOT/*.png  or  ROOT/CLASS/*.png                        a tenth of the images is the test split
    ROOT/train/…  with  ROOT/val/… or ROOT/test/… or both   these splits are yours, and others are cut from train

Sub-folders are classes, in the order of their names. Images without sub-folders are all of one class. The split of an
image follows from its name, so images that are added later leave all others in their splits.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import ImageColor
from torch import Tensor

from aelab import randomness
from aelab.data.cache import Cache
from aelab.data.image_files import Decoded, Files, decode_all
from aelab.data.images import Images
from aelab.data.layout import Layout, read_layout, said
from aelab.data.loader import Items
from aelab.errors import UserError

log = logging.getLogger(__name__)

TEST_SHARE = 0.1


@dataclass(frozen=True)
class _Read:
    """The images of a folder: those of the training folder first, then those of the test split."""

    pixels: Items
    names: list[str]
    train: int
    """Number of images that are not of the test split."""
    layout: Layout
    decoded: Decoded
    cache: Cache | None


@dataclass(eq=False, kw_only=True)
class Folder(Images):
    resize: bool
    """Whether to bring every image to the declared size. Its shorter side is scaled, and the centre is cut out."""
    background: str
    """Colour behind transparent images, as Pillow names it: black, white, #808080."""
    skip_broken: bool
    """Whether files that cannot be read are named and left out. Otherwise the first one ends the run."""
    cache: bool
    """Whether decoded images are kept on disk, so that the next run with the same files starts at once."""
    cache_dir: str | None
    """Folder of the cache. None: `.aelab` beside the data, or ~/.cache/aelab if that cannot be written."""
    split_by: Literal["name", "order"]
    """`name`: the split of an image follows from its name. `order`: from its place among all, as in version 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise UserError(
                f"data.background={self.background} is no colour: type black, white or '#808080'"
            ) from error

    def read(self, train: bool) -> tuple[Items, Tensor]:
        read = self._read
        part = slice(0, read.train) if train else slice(read.train, None)
        labels = [self.class_names.index(read.layout.classes[name]) for name in read.names[part]]
        if isinstance(read.pixels, Files):
            return self._files(read.names[part]), torch.tensor(labels, dtype=torch.long)
        return read.pixels[part], torch.tensor(labels, dtype=torch.long)  # type: ignore[index]

    @cached_property
    def _read(self) -> _Read:
        root = Path(self.root).expanduser()
        layout = read_layout(root)
        train, test = self._cut(layout)
        files, cache, decoded = self._files([*train, *test]), None, Decoded()
        pixels: Items = files
        if self.cache:
            cache = Cache(files, self.cache_dir)
            pixels, decoded = cache.read()
        elif self.loader == "resident":
            rows = torch.empty((len(files), *self.shape), dtype=torch.uint8)
            decoded = decode_all(files, rows)
            pixels = rows[: len(files) - len(decoded.broken)]
        elif self.skip_broken:
            decoded = decode_all(files, None)
        if decoded.broken and not self.skip_broken:
            raise UserError(next(iter(decoded.broken.values())))
        train, test = ([name for name in names if name not in decoded.broken] for names in (train, test))
        if min(len(train) - 1, len(test)) < 1:
            raise UserError(
                f"{root} has too few images that can be read: {len(train)} for training, {len(test)} to test"
            )
        if isinstance(pixels, Files):
            pixels = self._files([*train, *test])
        self.class_names = sorted({layout.classes[name] for name in (*train, *test)})
        read = _Read(pixels, [*train, *test], len(train), layout, decoded, cache)
        self._say(read)
        return read

    def _files(self, names: list[str]) -> Files:
        threshold = self.binarize == "threshold" and self.loader == "stream" and not self.cache
        return Files(Path(self.root).expanduser(), names, self.shape, self.resize, self.background, threshold)

    def _cut(self, layout: Layout) -> tuple[list[str], list[str]]:
        """Return the names of the images for training and validation, and of those for the test."""
        train = sorted([*layout.splits["train"], *layout.splits.get("val", [])], key=lambda name: name.split("/"))
        if "test" in layout.splits:
            return train, layout.splits["test"]
        kept = set(layout.splits.get("val", []))
        if self.split_by == "order":
            shuffled = torch.randperm(len(train), generator=randomness.generator("cpu", "folder"))
            test = {train[i] for i in shuffled[: max(len(train) // 10, 1)].tolist()}
        else:
            test = lowest("test", [name for name in train if name not in kept], TEST_SHARE)
        return [name for name in train if name not in test], [name for name in train if name in test]

    def validation(self, n: int) -> Tensor:
        read = self._read
        names = read.names[: read.train]
        if "val" in read.layout.splits:
            chosen = set(read.layout.splits["val"])
        elif self.split_by == "order":
            return super().validation(n)
        else:
            chosen = lowest(f"validation {self.split_seed}", names, self.val_size)
        return torch.tensor([name in chosen for name in names])

    def identify(self, official: Any) -> str:
        read, how = self._read, f"{self.class_names} {self._read.train}"
        if read.cache is None:
            return super().identify(official)
        known: dict[str, str] = read.cache.record.get("fingerprints", {})
        if how not in known:
            known = {**known, how: super().identify(official)}
            read.cache.remember(fingerprints=known)
        return known[how]

    def labels_of(self, classes: Sequence[int | str]) -> list[int]:
        by_name = self.split_by == "name"  # version 1 took numbers for labels, also where a class has that name
        return super().labels_of(
            [self.name_of(one) if isinstance(one, int) and not by_name else one for one in classes]
        )

    def facts(self) -> dict[str, Any]:
        read = self._read
        return super().facts() | {"skipped": dict(read.layout.skipped), "broken": sorted(read.decoded.broken)}

    def _say(self, read: _Read) -> None:
        for what, count in read.decoded.done.items():
            log.info("images  %d are %s", count, what)
        if read.layout.skipped:
            log.info("skipped %s: these suffixes are none of an image", said(read.layout.skipped))
        if read.layout.masks:
            log.info("skipped %d images in ground_truth: they are masks", read.layout.masks)
        if read.layout.empty:
            log.warning("no image is in the class folders %s", ", ".join(read.layout.empty))
        for reason in list(read.decoded.broken.values())[:10]:
            log.warning("left out: %s", reason.split(": repair")[0])
        if read.decoded.broken:
            log.warning(
                "left out: %d of %d files", len(read.decoded.broken), len(read.names) + len(read.decoded.broken)
            )


def lowest(salt: str, names: list[str], size: float) -> set[str]:
    """Return the names whose hash falls into a share below 1, or the `size` names of the lowest hash.

    A hash depends on the name only, so with a share no other name decides about it. There is at least one name.
    """
    digests = {name: hashlib.sha256(os.fsencode(f"{salt}/{name}")).digest() for name in names}
    hashes = {name: int.from_bytes(digest[:8]) / 2**64 for name, digest in digests.items()}
    ranked = sorted(names, key=hashes.__getitem__)
    if size < 1:
        return {name for name in ranked if hashes[name] < size} or set(ranked[:1])
    return set(ranked[: int(size)])
