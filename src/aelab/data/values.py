"""Numbers of any rank as data: tables, signals, volumes and arrays of a user."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from torch import Generator, Tensor

from aelab.data.base import DataModule
from aelab.data.loader import Items, as_floats
from aelab.errors import UserError
from aelab.ranges import Count, ProperShare

ROWS = 4096  # data that are looked at together, so that an array on disk is never read as a whole


@dataclass(frozen=True)
class Stored:
    """What a source read."""

    items: Tensor
    """(N, C, *sizes), as they are stored. An array on disk is memory-mapped."""
    labels: Tensor
    """(N,) integers, or whatever comes with a datum."""
    classes: Sequence[str] = ()
    """The name of each label. Empty: the labels are the names."""
    test: Tensor | None = None
    """(N,) bool, the test split if the source has one of its own."""
    groups: Tensor | None = None
    """(N,) integers. Data of one group, such as a subject, stay in one split."""
    gap: int | None = None
    """Number of neighbours that overlap with a datum. If given, each split is one stretch, and so many are left out
    between two."""
    lengths: Tensor | None = None
    """(N,): the steps of each series. What follows is padding."""
    names: Sequence[str] = ()
    """The name of each datum, if it has one."""
    channels: Sequence[str] = ()
    """The name of each channel or column."""


@dataclass(eq=False, kw_only=True)
class Values(DataModule):
    """A subclass supplies `stored`.

    Raises UserError for data of another shape, for numbers that are missing without being allowed, and for infinite
    ones.
    """

    standardize: bool | Literal["norm"]
    """Whether each channel gets mean 0 and deviation 1 over the training split. Real data only. `norm`: each gets mean
    0, and all are divided by one number, so that a datum of D numbers has the norm sqrt(D) on average."""
    missing_values: Literal["refuse", "median", "skip"]
    """What becomes of numbers that are missing. `median`: the training median of their channel. `skip`: they are seen
    as 0, which is the mean, and no loss counts them."""
    test_size: Count | ProperShare
    """Size of the test split, as a number of data or as a share below 1, if the source has none of its own."""
    test_seed: int
    """Seed of that test split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mean: Tensor | None = None
        self.deviation: Tensor | None = None
        self.median: Tensor | None = None

    def stored(self, root: str, new: bool = False) -> Stored:
        """Read what lies in `root`. `new`: data to predict, of which labels may be absent."""
        raise NotImplementedError

    def new(self, root: str) -> tuple[list[str], list[str], Items]:
        stored = self.stored(root, new=True)
        self.check(stored)
        names = list(stored.names) or [str(row) for row in range(1, len(stored.items) + 1)]
        classes = [stored.classes[y] for y in stored.labels.tolist()] if stored.classes else [""] * len(names)
        return names, classes, stored.items

    @cached_property
    def _stored(self) -> Stored:
        return self.stored(self.root)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        stored = self._stored
        if not len(stored.items):
            raise UserError(f"{self.root} holds no data")
        if self.num_classes is None and not stored.labels.is_floating_point():
            self.num_classes = int(stored.labels.max()) + 1
        self.class_names, self.channels = list(stored.classes), list(stored.channels)
        self.in_time = stored.gap is not None and len(self.shape) == 2
        train, val, test = self._cut(stored)
        self.check(stored)
        self.splits = {
            "train": (stored.items, stored.labels, self._known(stored.labels, train)),
            "val": (stored.items, stored.labels, self._known(stored.labels, val)),
            "test": (stored.items, stored.labels, test),
        }
        self.fingerprint = self._hash(stored)
        if self.domain == "real" and self.mean is None:
            self._measure(stored.items, train)

    def check(self, stored: Stored) -> None:
        """Raise UserError for data of another shape, and for numbers that cannot be used. Note what is missing."""
        items = stored.items
        if tuple(items.shape[1:]) != tuple(self.shape):
            raise UserError(
                f"{self.root} holds data of shape {list(items.shape[1:])}, but data.shape={list(self.shape)}: type "
                f"data.shape={list(items.shape[1:])}".replace(", ", ",")
            )
        if not items.is_floating_point():
            low, high = (int(f(items)) for f in (torch.amin, torch.amax)) if len(items) else (0, 0)
            if self.domain == "unit" and items.dtype != torch.uint8 and not 0 <= low <= high <= 1:
                raise UserError(f"{self.root} holds integers from {low} to {high}: type data.domain=real")
            return
        for start, rows in _blocks(items):
            flat = rows.flatten(1)
            if flat.isinf().any():
                raise UserError(f"{self._place(stored, flat.isinf(), start)} is infinite: repair or remove it")
            gone = rows.isnan()
            if stored.lengths is not None:
                after = torch.arange(rows.shape[2]) >= stored.lengths[start : start + len(rows), None]
                gone &= ~after[:, None]
            if gone.any():
                self.missing = True
                if self.missing_values == "refuse":
                    raise UserError(
                        f"{self._place(stored, gone.flatten(1), start)} is missing: type data.missing_values=median "
                        "or skip, or repair it"
                    )
            if self.domain == "unit" and not ((flat.nan_to_num(0) >= 0) & (flat.nan_to_num(0) <= 1)).all():
                raise UserError(f"{self.root} holds numbers outside [0, 1]: type data.domain=real")
        if stored.lengths is not None and self.missing_values == "median":
            raise UserError("series of unequal length have no median of what is missing: type data.missing_values=skip")
        self.missing = (self.missing and self.missing_values == "skip") or stored.lengths is not None

    def target(self, items: Tensor, generator: Generator) -> Tensor:
        x = as_floats(items)
        if self.domain != "real":
            return x
        if self.mean is not None and self.mean.device != x.device:
            self.mean, self.deviation, self.median = (
                t if t is None else t.to(x.device) for t in (self.mean, self.deviation, self.median)
            )
        if self.median is not None:
            x = torch.where(x.isnan(), self.median, x)
        return x if self.mean is None or self.deviation is None else (x - self.mean) / self.deviation

    def restored(self, x: Tensor) -> Tensor:
        if self.mean is None or self.deviation is None:
            return x
        return x * self.deviation.to(x.device) + self.mean.to(x.device)

    def state_dict(self) -> dict[str, Any]:
        """What a trained model needs of its training data. It lies in the checkpoint."""
        numbers = {"mean": self.mean, "deviation": self.deviation, "median": self.median}
        return {**numbers, "channels": self.channels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mean, self.deviation, self.median = (state_dict[name] for name in ("mean", "deviation", "median"))
        self.channels = list(state_dict["channels"])

    def facts(self) -> dict[str, Any]:
        if self._stored.labels.is_floating_point():
            images = {split: {"all": self.size(split)} for split in self.splits}
            facts: dict[str, Any] = {"classes": [], "images": images}
        else:
            facts = super().facts()
        return facts | ({"channels": self.channels} if self.channels else {})

    def _cut(self, stored: Stored) -> tuple[Tensor, Tensor, Tensor]:
        """Return the indices of the training, validation and test split."""
        n = len(stored.items)
        everything = torch.arange(n)
        if stored.test is not None:
            rest, test = everything[~stored.test], everything[stored.test]
        else:
            rest, test = self._parted(stored, everything, self.test_size, self.test_seed, "test_size")
        train, val = self._parted(stored, rest, self.val_size, self.split_seed, "val_size")
        if not len(test):
            raise UserError(f"{self.root} has no test data")
        return train, val, test

    def _parted(self, stored: Stored, indices: Tensor, size: float, seed: int, key: str) -> tuple[Tensor, Tensor]:
        """Return the indices that remain, and those that are cut off."""
        n = math.ceil(size * len(indices)) if size < 1 else int(size)
        if not 0 < n < len(indices):
            raise UserError(f"data.{key}={size} must leave some, and not all, of {len(indices)} data")
        if stored.gap is not None:
            if n + stored.gap >= len(indices):
                raise UserError(f"data.{key}={size} leaves none of {len(indices)} data, of which {stored.gap} overlap")
            return indices[: len(indices) - n - stored.gap], indices[-n:]
        if stored.groups is not None and len(groups := stored.groups[indices].unique()) > 1:
            share = min(max(n / len(indices), 1 / len(groups)), 1 - 1 / len(groups))
            split = GroupShuffleSplit(1, test_size=share, random_state=seed)
            kept, cut = next(split.split(indices, groups=stored.groups[indices]))
        else:
            kept, cut = train_test_split(range(len(indices)), test_size=n, random_state=seed)
        return indices[torch.as_tensor(kept).sort().values], indices[torch.as_tensor(cut).sort().values]

    def _measure(self, items: Tensor, train: Tensor) -> None:
        """Set mean, deviation and median of each channel over the training split."""
        channels = self.shape[0]
        view = (1, channels, *[1] * (len(self.shape) - 1))
        count, total, squares = (torch.zeros(channels, dtype=torch.double) for _ in range(3))
        for index in train.split(ROWS):
            x = items[index].double().transpose(0, 1).flatten(1)
            there = ~x.isnan()
            x = x.nan_to_num(0)
            count, total, squares = count + there.sum(1), total + x.sum(1), squares + x.square().sum(1)
        if (count == 0).any():
            name = self._channel(self._stored, int((count == 0).nonzero()[0]))
            raise UserError(f"{name} of {self.root} has no number in the training split: leave it out")
        mean = total / count
        if self.missing_values == "median" and items.is_floating_point():
            rows = items[train].transpose(0, 1).flatten(1)
            self.median = rows.nanmedian(1).values.float().view(view)
        if self.standardize:
            # The squares of deviations are summed once more, because their formula by sums cancels.
            spread, norms = torch.zeros(channels, dtype=torch.double), 0.0
            for index in train.split(ROWS):
                x = (items[index].double() - mean.view(view)).nan_to_num(0)
                spread += x.square().transpose(0, 1).flatten(1).sum(1)
                norms += float(x.flatten(1).norm(dim=1).sum())
            deviation = (spread / count).sqrt()
            if self.standardize == "norm":
                deviation = torch.full_like(deviation, norms / len(train) / math.sqrt(math.prod(self.shape)))
            self.mean = mean.float().view(view)
            self.deviation = torch.where(deviation > 1e-12, deviation, 1.0).float().view(view)

    def _place(self, stored: Stored, where: Tensor, start: int) -> str:
        row, column = (int(i) for i in where.nonzero()[0])
        if len(self.shape) == 1:
            return f"{self.root}: row {start + row + 1}, {self._channel(stored, column)}"
        place = torch.unravel_index(torch.tensor(column), tuple(stored.items.shape[1:]))
        return f"{self.root}: datum {start + row + 1}, place {[int(i) for i in place]}"

    @staticmethod
    def _channel(stored: Stored, index: int) -> str:
        return f"column '{stored.channels[index]}'" if stored.channels else f"column {index + 1}"

    def _hash(self, stored: Stored) -> str:
        digest = hashlib.sha256(repr((tuple(stored.items.shape), str(stored.items.dtype))).encode())
        for _, rows in _blocks(stored.items):
            digest.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(stored.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _blocks(items: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(items), ROWS):
        yield start, items[start : start + ROWS]
