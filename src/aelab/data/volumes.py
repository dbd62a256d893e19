"""Volumes of your own: `ae train data=volumes data.root=brain.nii.gz net=conv`.

FILE.nii.gz, FILE.npy                 one volume, of which patches are cut
FOLDER/…                              several, whole or in patches, split by subject
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from aelab.data.values import Stored, Values
from aelab.data.volumes_files import files, numbers, sides, subject
from aelab.errors import UserError
from aelab.ranges import Count


@dataclass(eq=False, kw_only=True)
class Volumes(Values):
    """A subject is a folder below the root, or the name of a file up to its first `_`. Data of one stay in one split.

    Of a single volume the splits are slabs along its first size, and patches that overlap two slabs are left out.
    """

    patch: int | Sequence[int] | None
    """Sides of the patches in voxels. None: whole volumes."""
    stride: Count | None
    """Voxels from a patch to the next. None: as many as its first side."""
    above: float | None
    """Patches whose mean is not above this are left out, such as the air around a head. In stored units, of bytes a
    share of 255."""
    test: str | None
    """A file or folder with the volumes of the test split. None: they are cut from `root`."""

    def stored(self, root: str, new: bool = False) -> Stored:
        paths = [(path, False) for path in files(root)]
        own = self.test is not None and not new
        if own:
            paths += [(path, True) for path in files(str(self.test))]
        parts, starts, where, test, names = [], [], [], [], []
        subjects: dict[str, int] = {}
        for path, held_out in paths:
            cut, places = self._patches(path)
            parts.append(cut)
            starts += places
            owner = subject(path, str(self.test) if held_out else root)
            where += [subjects.setdefault(owner, len(subjects))] * len(cut)
            test += [held_out] * len(cut)
            names += [f"{path.name}[{z},{y},{x}]" if self.patch else path.name for z, y, x in places]
        kinds = {part.dtype for part in parts}
        items = torch.cat([part if len(kinds) == 1 else part.float() for part in parts])[:, None]
        if not len(items):
            raise UserError(f"{root} has no patch with a mean above data.above={self.above}")
        y = torch.zeros(len(items), dtype=torch.long)
        own_test = torch.tensor(test) if own else None
        if len({owner for owner, held_out in zip(where, test, strict=True) if not held_out}) == 1:
            return Stored(items, y, (), own_test, None, self._gap(starts), names=names)
        return Stored(items, y, (), own_test, torch.tensor(where), names=names)

    def _patches(self, path: Path) -> tuple[torch.Tensor, list[tuple[int, int, int]]]:
        """Return the patches (N, d, h, w) of a volume, and where each begins."""
        array = numbers(path)
        array = np.ascontiguousarray(array if array.dtype == np.uint8 else array.astype(np.float32))
        whole = torch.from_numpy(array.copy() if not array.flags.writeable else array)
        if self.patch is None:
            return whole[None], [(0, 0, 0)]
        size = sides(self.patch)
        step = self.stride or size[0]
        if min(*size, step) < 1 or any(a > b for a, b in zip(size, whole.shape, strict=True)):
            raise UserError(f"data.patch={self.patch} does not fit into {path}, which is {tuple(whole.shape)}")
        z, y, x = (range(0, n - side + 1, step) for n, side in zip(whole.shape, size, strict=True))
        starts = list(product(z, y, x))
        cut = whole.unfold(0, size[0], step).unfold(1, size[1], step).unfold(2, size[2], step)
        cut = cut.reshape(-1, *size)
        if self.above is not None:
            mean = cut.flatten(1).float().mean(1) / (255 if cut.dtype == torch.uint8 else 1)
            kept = mean > self.above
            return cut[kept], [start for start, keep in zip(starts, kept.tolist(), strict=True) if keep]
        return cut, starts

    def _gap(self, starts: list[tuple[int, int, int]]) -> int | None:
        """Return how many patches overlap with one along the first size. None for whole volumes."""
        if self.patch is None:
            return None
        layers: dict[int, int] = {}
        for z, _, _ in starts:
            layers[z] = layers.get(z, 0) + 1
        size, step = sides(self.patch)[0], self.stride or sides(self.patch)[0]
        return max(layers.values(), default=0) * (-(-size // step) - 1)
