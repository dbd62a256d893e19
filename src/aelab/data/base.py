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
from aelab.errors import UserError
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
    classes: Sequence[int] | None
    """Labels that training and validation keep. The test split keeps all labels. None: all labels."""
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


def fingerprint(pixels: Pixels, labels: Tensor, digest: Any) -> None:
    """Feed what identifies the data to a hash: all bytes of a tensor, or the `repr` of a source of files."""
    if isinstance(pixels, Tensor):
        digest.update(pixels.contiguous().numpy().data.cast("B"))
    else:
        digest.update(repr(pixels).encode())
    digest.update(labels.numpy().tobytes())
