"""The loader for data that does not fit on the device. Worker processes read the images of each batch from disk."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aelab.data.loader import Items, Loader, Order, Target
from aelab.errors import UserError
from aelab.noise import Noise


class Stream(Loader):
    def __init__(
        self, items: Items, labels: Tensor, num_workers: int, order: Order, noise: Noise, target: Target, missing: bool
    ) -> None:
        super().__init__(order, noise, target, missing)
        self.loader = DataLoader(
            _Labelled(items, labels),
            sampler=_Batches(order),
            batch_size=None,  # an item of the data set is a whole batch
            num_workers=num_workers,
            pin_memory=order.indices.is_cuda,
        )

    def raw(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        device = self.batch_sampler.indices.device
        # The weights come from a copy of the order, because the DataLoader iterates over the order itself.
        weights = (weight for _, weight in replace(self.batch_sampler))
        try:
            for (pixels, y), weight in zip(self.loader, weights, strict=True):
                yield pixels.to(device, non_blocking=True), y.to(device, non_blocking=True), weight
        except UserError as error:  # an error of a worker comes wrapped in its traceback
            raise UserError(str(error).rsplit("UserError: ")[-1].strip()) from error


class _Labelled(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, items: Items, labels: Tensor) -> None:
        self.items, self.labels = items, labels

    def __getitem__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        if isinstance(self.items, Tensor):
            return self.items[index], self.labels[index]
        return torch.stack([self.items[i] for i in index]), self.labels[index]


class _Batches:
    """The batches of an Order as lists of numbers, which a DataLoader takes."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[int]]:
        for index, _ in self.order:
            yield index.tolist()
