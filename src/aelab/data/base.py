"""What every source of data shares: the splits for training, validation and test, and their loaders.

A source supplies `read`. This file cuts validation from the official training split.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Generator, Tensor

from aelab import randomness
from aelab.atomic import replacing
from aelab.data.drawing import draw
from aelab.data.errors import errors
from aelab.data.loader import Items, Loader, Order, Split, as_floats
from aelab.data.resident import Resident
from aelab.data.stream import Stream
from aelab.errors import UserError, did_you_mean
from aelab.noise import Noise
from aelab.ranges import Count, ProperShare, Whole


@dataclass(eq=False, kw_only=True)
class DataModule(LightningDataModule):
    """The data module. Its fields are the keys of `configs/data`. `aelab.composition.build` supplies noise and seed.

    Raises UserError for data that is absent, broken, or not as declared.
    """

    root: str
    shape: tuple[Count, ...]
    """(C, *sizes) of a datum as the nets see it: (F,), (C, L), (C, H, W), (C, D, H, W), or (1, T) of tokens."""
    domain: Literal["unit", "real", "tokens"]
    """What the numbers of a datum are: in [0, 1], any, or ids. Real numbers may be missing, which is written as nan."""
    num_classes: Count | None
    """Number of classes, which is checked against the labels that were read. None: the number that was read."""
    batch_size: Count
    """Data per step, over all processes together."""
    eval_batch_size: Count
    drop_last: bool
    """Whether an epoch of training leaves out its last batch if that is smaller. Evaluation never leaves out any."""
    val_size: Count | ProperShare
    """Size of the validation split, as a number of data or as a share below 1 of the official training split."""
    split_seed: int
    """Seed of the validation split. It is not the run's seed, so runs that differ in seed share their split."""
    classes: Sequence[int | str] | None
    """Classes that training and validation keep, by label or name. The test split keeps all. None: all classes."""
    loader: Literal["resident", "stream"]
    num_workers: Whole
    """Processes that read files for `stream`."""
    noise: Noise
    seed: int

    def __post_init__(self) -> None:
        super().__init__()
        self.splits: dict[Split, tuple[Items, Tensor, Tensor]] = {}  # data, labels, indices
        self.fingerprint = ""
        self.missing = False  # whether numbers are missing
        self.in_time = False  # whether the test split is one stretch of time, window after window
        self.class_names: list[str] = []
        """The name of each label. A source without names leaves it empty, and the labels are the names."""
        self.factor_names: list[str] = []
        """The name of each factor, if y holds factors."""
        self.channels: list[str] = []
        """The name of each channel or column, if they have names."""

    def read(self, train: bool) -> tuple[Items, Tensor]:
        """Return data (N, C, *sizes) and labels (N,) of the official training or test split, as they are stored."""
        raise NotImplementedError

    def kept(self, items: Tensor, split: str) -> Tensor:
        """Return the data of an official split, if they are in memory, as they are kept there. Called once."""
        return items

    def target(self, items: Tensor, generator: Generator) -> Tensor:
        """Return what the model explains, (B, C, *sizes), of data as they are kept. Called per batch, on the device."""
        return items.long() if self.domain == "tokens" else as_floats(items)

    def errors(self, shown: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Return the errors (B,) of shown data against clean ones, both (B, C, *sizes), by name."""
        return errors(shown, x, self.domain)

    def pictures(self, x: Tensor) -> Tensor:
        """Return data (N, C, *sizes) as pictures (N, 3, h, w) in [0, 1]."""
        return draw(x, self.domain)

    def new(self, root: str) -> tuple[list[str], list[str], Items]:
        """Return names and classes of new data in `root`, and the data as they are stored.

        They are read as the run's own. The class is the empty word where none is known.
        """
        raise UserError(f"{type(self).__name__} reads no data of a user: type a known source, such as data=mnist")

    def restored(self, x: Tensor) -> Tensor:
        """Return data (N, C, *sizes) in the units in which they were stored, the inverse of `target`."""
        return x

    def write(self, folder: Path, names: Sequence[str], x: Tensor) -> None:
        """Write reconstructions (N, C, *sizes) as `reconstructions.npy`, in the units in which data are stored."""
        with replacing(folder / "reconstructions.npy") as file:
            np.save(file, self.restored(x).numpy())

    def said(self, x: Tensor) -> list[str] | None:
        """Return data as texts. None for data that are none."""
        return None

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        read = [self.read(train) for train in (True, False)]
        self.fingerprint = self.identify(read)
        (train, y), (test, y_test) = read
        self._check_classes(torch.cat([y, y_test]))

        chosen = self.validation(len(y))
        if not 0 < int(chosen.sum()) < len(y):
            raise UserError(
                f"data.val_size={self.val_size} must leave some, and not all, of the {len(y)} training data"
            )
        train, test = (
            self.kept(items, split) if isinstance(items, Tensor) else items
            for items, split in ((train, "train"), (test, "test"))
        )
        self._check_unit(train)
        self.splits = {
            "train": (train, y, self._known(y, (~chosen).nonzero().flatten())),
            "val": (train, y, self._known(y, chosen.nonzero().flatten())),
            "test": (test, y_test, torch.arange(len(y_test))),
        }

    def _check_unit(self, items: Items) -> None:
        """Raise UserError if floats that are taken for numbers in [0, 1] are others. A thousand are looked at."""
        if self.domain == "unit" and isinstance(items, Tensor) and items.is_floating_point():
            low, high = (float(value) for value in items[:1000].aminmax())
            if low < 0 or high > 1:
                raise UserError(
                    f"data.domain=unit, and the data reach from {low:.3g} to {high:.3g}: scale them, or type "
                    "data.domain=real reconstruction=mse"
                )

    def validation(self, n: int) -> Tensor:
        """Return which of the `n` official training data are for validation, (n,) bool."""
        val = round(self.val_size * n) if self.val_size < 1 else int(self.val_size)
        shuffled = torch.randperm(n, generator=randomness.generator("cpu", "validation", self.split_seed))
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[shuffled[:val]] = True
        return chosen

    def identify(self, read: Sequence[tuple[Items, Tensor]]) -> str:
        """Return what identifies the data: a hash over the data and labels of both official splits.

        Of data in memory it covers all bytes, and of files that are read one by one their names and sizes.
        """
        digest = hashlib.sha256()
        for pixels, labels in read:
            if isinstance(pixels, Tensor):
                digest.update(pixels.contiguous().numpy().data.cast("B"))
            else:
                digest.update(repr(pixels).encode())
            digest.update(labels.numpy().tobytes())
        return digest.hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """Return what the manifest of a run holds of its data: names of classes, and data per split and class."""
        counts = {}
        for split, (_, labels, indices) in self.splits.items():
            found, numbers = labels[indices].unique(return_counts=True)
            counts[split] = {self.name_of(int(y)): int(n) for y, n in zip(found, numbers, strict=True)}
        return {"classes": [self.name_of(y) for y in range(self.num_classes or 0)], "images": counts}

    def name_of(self, label: int) -> str:
        """Return the name of a class."""
        return (self.class_names[label] if self.class_names else "") or str(label)

    def labels_of(self, classes: Sequence[int | str]) -> list[int]:
        """Return the labels of classes that are given by label or by name. Raises UserError for an unknown one."""
        known = {self.name_of(label): label for label in range(self.num_classes or 0)}
        labels = []
        for one in classes:
            if str(one) in known:  # a folder `7` is meant by 7, whatever its label is
                labels.append(known[str(one)])
            elif isinstance(one, int) and 0 <= one < len(known):
                labels.append(one)
            else:
                raise UserError(f"no class '{one}'{did_you_mean(str(one), known)} (there are {', '.join(known)})")
        return labels

    def size(self, split: Split) -> int:
        """Return the number of data in the split."""
        return len(self.splits[split][2])

    def batches(self, split: Split) -> Loader:
        """Return the loader of a split for a trainer, on its device, or on the CPU without one.

        Training is shuffled, and the processes share its data. With `trainer.overfit_batches` every epoch has the
        order of the first one, so the same batches come again and again.
        """
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        loader = self._loader(split, device, self.noise, split == "train", rank, world)
        loader.batch_sampler.repeat = bool(trainer and trainer.overfit_batches)  # type: ignore[attr-defined]
        return loader

    def in_order(self, split: Split, device: torch.device, noise: Noise, limit: int | None = None) -> Loader:
        """Return the loader of a split for evaluation. Each datum comes once, also in training.

        With `limit`, that many data are drawn at random, always the same ones.
        """
        return self._loader(split, device, noise, False, 0, 1, limit)

    def _loader(
        self,
        split: Split,
        device: torch.device,
        noise: Noise,
        shuffled: bool,
        rank: int,
        world: int,
        limit: int | None = None,
    ) -> Loader:
        self.setup()
        items, labels, indices = self.splits[split]
        if limit is not None and limit < len(indices):
            drawn = torch.randperm(len(indices), generator=randomness.generator("cpu", "limit", split))
            indices = indices[drawn[:limit].sort().values]
        order = Order(
            indices=indices.to(device),
            batch_size=self.batch_size if shuffled else self.eval_batch_size,
            split=split,
            seed=self.seed,
            rank=rank,
            world=world,
            shuffled=shuffled,
            drop_last=shuffled and self.drop_last,
        )
        if order.drop_last and not len(order):
            raise UserError(
                f"data.drop_last=true leaves none of {len(indices)} training data: type data.batch_size={len(indices)}"
            )
        if self.loader == "resident" and isinstance(items, Tensor):
            return Resident(items, labels, order, noise, self.target, self.missing)
        return Stream(items, labels, self.num_workers, order, noise, self.target, self.missing)

    def train_dataloader(self) -> Loader:
        return self.batches("train")

    def val_dataloader(self) -> Loader:
        return self.batches("val")

    def test_dataloader(self) -> Loader:
        return self.batches("test")

    def _known(self, labels: Tensor, indices: Tensor) -> Tensor:
        """Return the indices, sorted, whose label is one of `classes`."""
        indices = indices.sort().values
        if self.classes is None:
            return indices
        known = indices[torch.isin(labels[indices], torch.tensor(self.labels_of(self.classes)))]
        if not len(known):
            raise UserError(f"data.classes={list(self.classes)}: nothing has one of these labels")
        return known

    def _check_classes(self, labels: Tensor) -> None:
        found = int(labels.max()) + 1
        if self.num_classes is None:
            self.num_classes = found
        elif found != self.num_classes:
            raise UserError(
                f"data.num_classes={self.num_classes}, but {found} were read: type data.num_classes={found}"
            )
