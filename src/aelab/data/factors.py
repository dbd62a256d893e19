"""Images of which it is known what made them: `ae train data=factors data.root=dsprites.npz`.

A factor is something that changes from image to image, such as a position. y holds the factors of an image: (F,)
numbers, each the place of its value among all values of that factor, from 0.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aelab import randomness
from aelab.data.factors_files import read
from aelab.data.images import Images
from aelab.errors import UserError
from aelab.ranges import Count, ProperShare

log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class Factors(Images):
    """Images and factors of a .npz, or of a subclass that makes them.

    A factor with one value is left out, which is said. Raises UserError if none is left.
    """

    test_size: Count | ProperShare
    """Size of the test split, as a number of images or as a share. It is drawn once, whatever the seeds."""

    def made(self) -> tuple[Tensor, Tensor, Sequence[str]]:
        """Return all images (N, C, H, W) as uint8, their factors (N, F), and the names of these."""
        images, factors, names = read(self.root)
        return torch.from_numpy(images), torch.from_numpy(factors), names

    @cached_property
    def everything(self) -> tuple[Tensor, Tensor]:
        """All images as uint8, and their factors (N, F) as places among values."""
        images, factors, names = self.made()
        names = list(names) or [f"factor_{i}" for i in range(factors.shape[1])]
        if len(names) != factors.shape[1]:
            raise UserError(f"{self.root} has {factors.shape[1]} factors and {len(names)} names: they must be as many")
        places = [np.unique(column.numpy(), return_inverse=True)[1] for column in factors.T]
        if constant := [name for name, column in zip(names, places, strict=True) if not column.any()]:
            log.warning("left out, because they have one value: %s", ", ".join(constant))
        self.factor_names = [name for name in names if name not in constant]
        kept = [torch.from_numpy(column).float() for name, column in zip(names, places, strict=True) if column.any()]
        if not kept:
            raise UserError(f"{self.root or 'data'}: each factor has one value, and a factor is what changes")
        return images, torch.stack(kept, dim=1)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        images, factors = self.everything
        n = len(images)
        size = round(self.test_size * n) if self.test_size < 1 else int(self.test_size)
        if not 0 < size < n:
            raise UserError(f"data.test_size={self.test_size} must leave some, and not all, of the {n} images")
        order = torch.randperm(n, generator=randomness.generator("cpu", "factors"))
        rows = (order[size:] if train else order[:size]).sort().values
        return images[rows], factors[rows]

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.__dict__.pop("everything", None)  # the splits hold what is needed

    def facts(self) -> dict[str, Any]:
        return {"classes": [], "images": {split: {"all": self.size(split)} for split in self.splits}}

    def _check_classes(self, labels: Tensor) -> None:
        """There are none: y holds factors."""
