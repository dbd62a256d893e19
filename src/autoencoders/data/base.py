"""Images for training, validation and test: what every source shares.

A source supplies `read`. Everything else is here and in the loaders: the shape is checked, and validation is cut from
the official training split.
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

from autoencoders import randomness
from autoencoders.data.loader import Loader, Order, Pixels, Split
from autoencoders.data.resident import Resident
from autoencoders.data.stream import Stream
from autoencoders.errors import UserError
from autoencoders.noise import Noise


@dataclass(eq=False, kw_only=True)
class Images(LightningDataModule):
    """The data module. Its fields are the keys of `configs/data`; `noise` and `seed` come from `autoencoders.build`.

    Raises UserError for data that is absent, broken, or not as declared.
    """

    root: str
    shape: tuple[int, int, int]
    """C, H, W of the images that the nets see."""
    num_classes: int | None
    """Checked against the labels that were read; None: as many as there are."""
    batch_size: int
    """Images a step, over all processes together."""
    eval_batch_size: int
    val_size: float
    """Images cut from the official training split for validation: a number, or a share below 1."""
    split_seed: int
    """Which images these are. Not the run's seed: runs that differ in seed share their split."""
    classes: Sequence[int] | None
    """Labels that training and validation are cut down to, so that the others are unknown; None: all of them."""
    loader: Literal["resident", "stream"]
    num_workers: int
    """Processes that read files for `stream`."""
    binarize: Literal["none", "dynamic", "static", "threshold"]
    """Grey values as chances of a white pixel: drawn at every fetch, drawn once, or cut at 1/2."""
    noise: Noise
    seed: int

    def __post_init__(self) -> None:
        super().__init__()
        self.splits: dict[Split, tuple[Pixels, Tensor, Tensor]] = {}  # images, labels, indices
        self.fingerprint = ""
        self.trust: Sequence[str] = ()  # packages that a run which is read may name
        for key, allowed in {
            "loader": ("resident", "stream"),
            "binarize": ("none", "dynamic", "static", "threshold"),
        }.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"data.{key}={getattr(self, key)} is none of {', '.join(allowed)}")
        if min(self.batch_size, self.eval_batch_size) < 1:
            raise ValueError("data.batch_size and data.eval_batch_size must be at least 1")

    def read(self, train: bool) -> tuple[Pixels, Tensor]:
        """uint8 images (N, C, H, W) and labels (N,) of the official training or test split."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        digest = hashlib.sha256()
        official = {}
        for train in (True, False):
            pixels, labels = self.read(train)
            fingerprint(pixels, labels, digest)
            official[train] = (self._prepare(pixels, "train" if train else "test"), labels)
        self.fingerprint = digest.hexdigest()[:16]
        self._check_classes(torch.cat([labels for _, labels in official.values()]))

        n = len(official[True][1])
        val = round(self.val_size * n) if self.val_size < 1 else int(self.val_size)
        if not 0 < val < n:
            raise UserError(f"data.val_size={self.val_size} must leave some, and not all, of the {n} training images")
        shuffled = torch.randperm(n, generator=randomness.generator("cpu", "validation", self.split_seed))
        self.splits = {
            "train": (*official[True], self._known(official[True][1], shuffled[val:])),
            "val": (*official[True], self._known(official[True][1], shuffled[:val])),
            "test": (*official[False], torch.arange(len(official[False][1]))),
        }

    def size(self, split: Split) -> int:
        """Images of the split."""
        return len(self.splits[split][2])

    def batches(self, split: Split) -> Loader:
        """The loader of a split as a trainer wants it, on its device (on the CPU without one): training is shuffled,
        and its processes share the images."""
        trainer = self.trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return self._loader(split, device, self.noise, split == "train", rank, world)

    def in_order(self, split: Split, device: torch.device, noise: Noise, limit: int | None = None) -> Loader:
        """The loader of a split for evaluation: each image once, training images too, or the same `limit` of them
        drawn at random."""
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
        """In the declared shape and binarised once where that is asked for; files stay files."""
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
        """Those of the indices, sorted, whose label is one of `classes`."""
        indices = indices.sort().values
        if self.classes is None:
            return indices
        known = indices[torch.isin(labels[indices], torch.tensor(list(self.classes)))]
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
    """uint8 (N, C, H, W) in the declared shape: zero-padded around its centre, colour turned grey; no other change.

    Raises UserError where that does not lead to `shape`.
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


def fingerprint(pixels: Pixels, labels: Tensor, digest: Any) -> None:
    """Feed what identifies the data to a hash: all its bytes in memory, or what a source of files says of itself."""
    if isinstance(pixels, Tensor):
        digest.update(pixels.contiguous().numpy().data.cast("B"))
    else:
        digest.update(repr(pixels).encode())
    digest.update(labels.numpy().tobytes())
