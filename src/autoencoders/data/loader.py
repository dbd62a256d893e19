"""Batches: every one is made on the training device, as a function of (seed, epoch, step, rank)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from autoencoders import randomness
from autoencoders.noise import Noise

Split = Literal["train", "val", "test"]


class Batch(NamedTuple):
    seen: Tensor
    """(B, C, H, W): what the encoder is shown, noise(x); without noise it is `x` itself."""
    x: Tensor
    """(B, C, H, W): clean images in [0, 1]."""
    y: Tensor
    """(B,): integer labels."""
    weight: float = 1.0
    """This process's share of the global batch times the number of processes: 1 on one process."""


class Pixels(Protocol):
    """uint8 images (C, H, W), or floats in [0, 1], by their index: a tensor (N, C, H, W) in memory, or files read one
    by one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


@dataclass
class Order:
    """The images of each step, as indices on the device; `shuffled`, in a permutation drawn for the epoch.

    Process `rank` of `world` takes every world-th image of a global batch.
    """

    indices: Tensor
    batch_size: int
    split: Split
    seed: int
    rank: int
    world: int
    shuffled: bool
    epoch: int = 0
    start: int = 0
    """Batches that the next epoch, and only that one, leaves out at its beginning: they were had before."""

    @property
    def sampler(self) -> "Order":
        """Where Lightning looks for `set_epoch`: at `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, float]]:
        """Yields the indices of this process, and the weight of its share (see `Batch`)."""
        order = self.indices
        if self.shuffled:
            g = randomness.generator(order.device, "order", self.seed, self.epoch)
            order = order[torch.randperm(len(order), generator=g, device=order.device)]
        batches, self.start = order.split(self.batch_size)[self.start :], 0
        for batch in batches:
            own = batch[self.rank :: self.world]
            # A process whose share is empty steps along with the others, on an image that weighs nothing.
            yield (own, len(own) * self.world / len(batch)) if len(own) else (batch[:1], 0.0)

    def generator(self, step: int) -> torch.Generator:
        """For what is drawn while the batch of this step is made. Evaluation draws are fixed, whatever the seed."""
        if self.shuffled:
            return randomness.generator(self.indices.device, "batch", self.seed, self.epoch, step, self.rank)
        return randomness.generator(self.indices.device, self.split, step, self.rank)


class Loader:
    """Batches of one split: a loader supplies `raw`, which fetches uint8 images and labels on the device."""

    def __init__(self, order: Order, noise: Noise, dynamic: bool) -> None:
        self.batch_sampler = order
        self.noise = noise
        self.dynamic = dynamic

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def raw(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yields uint8 images, labels and the weight of each step of this epoch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        for step, (pixels, y, weight) in enumerate(self.raw(), self.batch_sampler.start):
            g = self.batch_sampler.generator(step)
            x = as_floats(pixels)
            if self.dynamic:
                x = torch.bernoulli(x, generator=g)
            yield Batch(self.noise(x, g), x, y, weight)


def as_floats(pixels: Tensor) -> Tensor:
    """In [0, 1]: uint8 scaled, floats as they are."""
    return pixels if pixels.is_floating_point() else pixels.float().div_(255)
