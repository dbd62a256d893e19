"""Decoded images on disk, so that only the first of many runs decodes the files."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from aelab.atomic import write_text
from aelab.data.image_files import Decoded, Files, decode_all
from aelab.errors import UserError

VERSION = 1  # of how files are read: raised when the same file would give other pixels


class Cache:
    """The decoded images of some files, memory-mapped.

    Its name is a hash of all that decides the pixels: names, sizes and times of change of the files, and how they are
    read. So a file that changes makes another cache. `KEY.json` is written last, so a killed process leaves no half
    cache. A lock lets one process build it while the others wait.
    """

    def __init__(self, files: Files, folder: str | None) -> None:
        """`folder`: where caches lie. None: in `.aelab` beside the data, or in ~/.cache if that cannot be written."""
        listed = [(name, *_stat(files.root / name)) for name in files.names]
        how = [VERSION, list(files.shape), files.resize, files.background]
        self.files = files
        self.key = hashlib.sha256(json.dumps([how, listed]).encode()).hexdigest()[:32]
        self.folder = _folder(files.root, folder)

    def read(self) -> tuple[Tensor, Decoded]:
        """Return the images that could be read, uint8 (N, C, H, W), and what came of the others.

        The first call decodes. Raises UserError if the disk is too full.
        """
        record = self.folder / f"{self.key}.json"
        if not record.exists():
            with FileLock(self.folder / f"{self.key}.lock"):
                if not record.exists():
                    self._build()
        known = self.record
        decoded = Decoded(known["broken"], known["done"])
        shape = (len(self.files) - len(decoded.broken), *self.files.shape)
        size = torch.Size(shape).numel()
        if size == 0:
            return torch.empty(shape, dtype=torch.uint8), decoded
        pixels = torch.from_file(str(self.folder / f"{self.key}.bin"), shared=False, size=size, dtype=torch.uint8)
        return pixels.view(shape), decoded

    @property
    def record(self) -> dict[str, Any]:
        """What is known of the cache beside its images."""
        content: dict[str, Any] = json.loads((self.folder / f"{self.key}.json").read_text(encoding="utf-8"))
        return content

    def remember(self, **entries: dict[str, str]) -> None:
        """Write entries beside those that are there."""
        write_text(self.folder / f"{self.key}.json", json.dumps(self.record | entries))

    def _build(self) -> None:
        shape = (len(self.files), *self.files.shape)
        size = torch.Size(shape).numel()
        if (free := shutil.disk_usage(self.folder).free) < size:
            raise UserError(
                f"{self.folder} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB of decoded images are to be "
                "cached there: type paths.cache_dir=FOLDER or data.cache=false"
            )
        path = self.folder / f"{self.key}.part"
        try:
            with path.open("wb") as file:
                file.truncate(size)
            pixels = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8).view(shape)
            decoded = decode_all(self.files, pixels)
            path.replace(self.folder / f"{self.key}.bin")
        finally:
            path.unlink(missing_ok=True)  # an image of another size ends the reading
        write_text(self.folder / f"{self.key}.json", json.dumps(asdict(decoded)))


def _stat(path: Path) -> tuple[int, int]:
    """Return size and time of change. A link to nowhere has none, and decoding says that it is broken."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _folder(root: Path, folder: str | None) -> Path:
    if folder is not None:
        place = Path(folder).expanduser()
    elif os.access(root, os.W_OK):
        place = root / ".aelab"
    else:
        place = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aelab"
    place.mkdir(parents=True, exist_ok=True)
    return place
