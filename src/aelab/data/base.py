"""What every source of images shares: the splits for training, validation and test, and their loaders.

A source supplies `read`. This file checks the shape and cuts validation from the official training split.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from aelab import randomness
from aelab.data.errors import image_errors
from aelab.data.loader import Loader, Order, Pixels, Split
from aelab.data.resident import Resident
from aelab.data.stream import Stream
from aelab.errors import UserError, did_you_mean
from aelab.noise import Noise


@dataclass(eq=False, kw_only=True)
class Images(LightningDataModule):
    """The data module. Its fields are the keys of `configs/data`. `aelab.composition.build` supplies noise and seed.

    Raises UserError for data that is absent, broken, or not as declared.
    """

    root: str
    shape: tuple[int, int, int]
    """C, H, W of the images that the nets see."""
    num_classes: int | None
    """Number of classes, which is checked against the labels that were read. None: the number that was read."""
    batch_size: int
    """Images per step, over all processes together."""
    eval_batch_size: int
    val_size: int | float
    """Size of the validation split, as a number of images or as a share below 1 of the official training split."""
    split_seed: int
    """Seed of the validation split. It is not the run's seed, so runs that differ in seed share their split."""
    classes: Sequence[int | str] | None
    """Classes that training and validation keep, by label or name. The test split keeps all. None: all classes."""
    loader: Literal["resident", "stream"]
    num_workers: int
    """Processes that read files for `stream`."""
    binarize: Literal["none", "dynamic", "static", "threshold"]
    """How pixels become black or white. A grey value is the chance of a white pixel.

    `dynamic` draws anew for each batch. `static` draws once. `threshold` cuts at 1/2. `none` keeps the grey values.
    """
    noise: Noise
    seed: int

    def __post_init__(self) -> None:
        super().__init__()
        self.splits: dict[Split, tuple[Pixels, Tensor, Tensor]] = {}  # images, labels, indices
        self.fingerprint = ""
        self.class_names: list[str] = []
        """The name of each label. A source without names leaves it empty, and the labels are the names."""
        if min(self.batch_size, self.eval_batch_size) < 1:
            raise ValueError("data.batch_size and data.eval_batch_size must be at least 1")

    def read(self, train: bool) -> tuple[Pixels, Tensor]:
        """Return uint8 images (N, C, H, W) and labels (N,) of the official training or test split."""
        raise NotImplementedError

    def errors(self, shown: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Return the errors (B,) of shown images against clean ones, both (B, C, H, W), by name."""
        return image_errors(shown, x)

    def pictures(self, x: Tensor) -> Tensor:
        """Return images (N, C, H, W) as pictures (N, 3, H, W) in [0, 1].

        Images of three channels are RGB. Of all others the mean over channels is shown as grey.
        """
        x = x.detach().float().clamp(0, 1)
        return x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)

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
                f"data.val_size={self.val_size} must leave some, and not all, of the {len(y)} training images"
            )
        train, test = self._prepare(train, "train"), self._prepare(test, "test")
        self.splits = {
            "train": (train, y, self._known(y, (~chosen).nonzero().flatten())),
            "val": (train, y, self._known(y, chosen.nonzero().flatten())),
            "test": (test, y_test, torch.arange(len(y_test))),
        }

    def validation(self, n: int) -> Tensor:
        """Return which of the `n` official training images are for validation, (n,) bool."""
        val = round(self.val_size * n) if self.val_size < 1 else int(self.val_size)
        shuffled = torch.randperm(n, generator=randomness.generator("cpu", "validation", self.split_seed))
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[shuffled[:val]] = True
        return chosen

    def identify(self, read: Sequence[tuple[Pixels, Tensor]]) -> str:
        """Return what identifies the data: a hash over the images and labels of both official splits.

        Of images in memory it covers all bytes, and of files that are read one by one their names and sizes.
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
        """Return what the manifest of a run holds of its data: names of classes, and images per split and class."""
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
        """Return the number of images in the split."""
        return len(self.splits[split][2])

    def batches(self, split: Split) -> Loader:
        """Return the loader of a split for a trainer, on its device, or on the CPU without one.

        Training is shuffled, and the processes share its images. With `trainer.overfit_batches` every epoch has the
        order of the first one, so the same batches come again and again.
        """
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        loader = self._loader(split, device, self.noise, split == "train", rank, world)
        loader.batch_sampler.repeat = bool(trainer and trainer.overfit_batches)  # type: ignore[attr-defined]
        return loader

    def in_order(self, split: Split, device: torch.device, noise: Noise, limit: int | None = None) -> Loader:
        """Return the loader of a split for evaluation. Each image comes once, also in training.

        With `limit`, that many images are drawn at random, always the same ones.
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
        images, labels, indices = self.splits[split]
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
        )
        dynamic = self.binarize == "dynamic"
        if self.loader == "resident" and isinstance(images, Tensor):
            return Resident(images, labels, order, noise, dynamic)
        return Stream(images, labels, self.num_workers, order, noise, dynamic)

    def train_dataloader(self) -> Loader:
        return self.batches("train")

    def val_dataloader(self) -> Loader:
        return self.batches("val")

    def test_dataloader(self) -> Loader:
        return self.batches("test")

    def _prepare(self, pixels: Pixels, split: str) -> Pixels:
        """Bring images into the declared shape, and binarise them if that happens once. Files stay unchanged."""
        if not isinstance(pixels, Tensor):
            if self.binarize == "static":
                raise UserError("data.binarize=static needs images in memory: type threshold or dynamic")
            return pixels
        pixels = fit(pixels, self.shape)
        if self.binarize == "threshold":
            return (pixels >= 128).to(torch.uint8) * 255
        if self.binarize == "static":
            g = randomness.generator("cpu", "static binarisation", split)
            return torch.bernoulli(pixels / 255, generator=g).to(torch.uint8) * 255
        return pixels

    def _known(self, labels: Tensor, indices: Tensor) -> Tensor:
        """Return the indices, sorted, whose label is one of `classes`."""
        indices = indices.sort().values
        if self.classes is None:
            return indices
        known = indices[torch.isin(labels[indices], torch.tensor(self.labels_of(self.classes)))]
        if not len(known):
            raise UserError(f"data.classes={list(self.classes)}: no image has one of these labels")
        return known

    def _check_classes(self, labels: Tensor) -> None:
        found = int(labels.max()) + 1
        if self.num_classes is None:
            self.num_classes = found
        elif found != self.num_classes:
            raise UserError(
                f"data.num_classes={self.num_classes}, but {found} were read: type data.num_classes={found}"
            )


def fit(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return uint8 images (N, C, H, W) in the declared shape.

    They are padded with zeros around the centre, and colour is turned grey. Nothing else is changed. Raises UserError
    if that does not lead to `shape`.
    """
    channels, height, width = images.shape[1:]
    if tuple(shape) == (channels, height, width):
        return images
    down, right = shape[1] - height, shape[2] - width
    if down < 0 or right < 0 or (channels, shape[0]) not in {(1, 1), (3, 3), (3, 1)}:
        raise UserError(
            f"data.shape={list(shape)} does not fit images of {[channels, height, width]}: type that, "
            "a greater height or width (pads with zeros), or one channel for colour images (turns them grey)"
        )
    if channels > shape[0]:
        images = rgb_to_grayscale(images)
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
