"""Data sets of torchvision. They are read from the disk, and downloaded once if they are absent."""

from pathlib import Path
from typing import Any

from aelab.errors import UserError


def from_torchvision(source: Any, root: str, train: bool) -> Any:
    """Return the torchvision data set `source`. torchvision compares the checksums of what it downloads.

    Raises UserError if it is absent and cannot be downloaded, or if a file is broken.
    """
    name, folder = source.__name__, Path(root).resolve()
    try:
        try:
            return source(root, train=train)
        except RuntimeError as error:
            if "not found" not in str(error):
                raise
        try:
            return source(root, train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{name} is not in {folder} and could not be downloaded ({str(error).splitlines()[0].rstrip(':')}): "
                "type data.root=FOLDER for a folder that holds it, or go online once"
            ) from error
    except (ValueError, AssertionError, RuntimeError, EOFError) as error:
        raise UserError(
            f"a {'training' if train else 'test'} file of {name} in {folder} is broken ({error}): "
            "delete it, and it is downloaded again"
        ) from error
