"""Batches, and the loaders that make them.

A batch is made on the training device. It is a function of (seed, epoch, step, rank).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from aelab import randomness
from aelab.noise import Noise

Split = Literal["train", "val", "test"]
Target = Callable[[Tensor, Generator], Tensor]
IDLE = Generator()  # for what draws nothing


class Batch(NamedTuple):
    """One batch, of which a model computes its loss."""

    seen: Tensor
    """(B, C, *sizes): what the encoder sees, which is x under noise. Without noise it is `x` itself.

    Where `x` is missing, `seen` is 0.
    """
    x: Tensor
    """(B, C, *sizes): clean data. A real number that is missing is nan, and no loss counts it."""
    y: Tensor
    """(B, …): integer labels, or whatever comes with a datum."""
    hidden: Tensor | None = None
    """(B, 1 or C, *sizes) bool: the places that the noise chose to replace. None for noise that chooses none."""
    weight: float = 1.0
    """The share of this process in the global batch, times the number of processes. It is 1 for one process."""

    @property
    def chosen(self) -> Tensor:
        """(B, 1 or C, *sizes) bool: `hidden`, or all places if the noise chooses none."""
        return torch.ones_like(self.x[:, :1], dtype=torch.bool) if self.hidden is None else self.hidden

    def map(self, f: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with `f` applied to each of its tensors."""
        hidden = None if self.hidden is None else f(self.hidden)
        return Batch(f(self.seen), f(self.x), f(self.y), hidden, self.weight)


class Items(Protocol):
    """Data by their index, each (C, *sizes).

    It is a tensor (N, C, *sizes) in memory, or files that are read one by one.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


@dataclass
class Order:
    """The data of each step, as indices on the device.

    With `shuffled`, each epoch has its own permutation. With `repeat`, every epoch has that of the first one. Process
    `rank` of `world` takes every world-th image of a global batch.
    """

    indices: Tensor
    batch_size: int
    split: Split
    seed: int
    rank: int
    world: int
    shuffled: bool
    drop_last: bool = False
    repeat: bool = False
    epoch: int = 0
    start: int = 0
    """Number of batches to skip at the start of the next epoch. Set once, when a run resumes in the middle of one."""

    @property
    def sampler(self) -> "Order":
        """Lightning looks for `set_epoch` at `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose permutation comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, float]]:
        """Yield the indices of this process, and the weight of its share (see `Batch`)."""
        order = self.indices
        if self.shuffled:
            g = randomness.generator(order.device, "order", self.seed, 0 if self.repeat else self.epoch)
            order = order[torch.randperm(len(order), generator=g, device=order.device)]
        batches, self.start = order.split(self.batch_size)[self.start : len(self)], 0
        for batch in batches:
            own = batch[self.rank :: self.world] if self.world > 1 else batch
            # A process whose share is empty must still step with the others. It gets one datum of weight 0.
            yield (own, len(own) * self.world / len(batch)) if len(own) else (batch[:1], 0.0)

    def generator(self, step: int) -> torch.Generator:
        """Return the generator for what is drawn in the batch of this step. Evaluation draws ignore the seed."""
        if self.shuffled:
            return randomness.generator(self.indices.device, "batch", self.seed, self.epoch, step, self.rank)
        return randomness.generator(self.indices.device, self.split, step, self.rank)


class Loader:
    """Batches of one split. A subclass supplies `raw`."""

    def __init__(self, order: Order, noise: Noise, target: Target, missing: bool) -> None:
        """`target` makes what the model explains of data as they are kept. `missing`: whether numbers may be nan."""
        self.draws = True  # whether `target` or noise draw random numbers
        self.batch_sampler = order
        self.noise = noise
        self.target = target
        self.missing = missing

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def raw(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield data and labels on the device, and the weight, for each step of this epoch."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        for step, (items, y, weight) in enumerate(self.raw(), self.batch_sampler.start):
            g = self.batch_sampler.generator(step) if self.draws else IDLE
            x = self.target(items, g)
            seen, hidden = self.noise(x.nan_to_num(0) if self.missing else x, g)
            yield Batch(seen, x, y, hidden, weight)


def as_floats(pixels: Tensor) -> Tensor:
    """Return data as floats. uint8 is divided by 255."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255)
    return pixels if pixels.dtype == torch.float32 else pixels.float()
