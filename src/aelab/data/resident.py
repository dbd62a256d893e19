"""The loader for data that fits on the training device. A batch is one index into uint8 images, and one scaling."""

from collections.abc import Iterator

from torch import Tensor

from aelab.data.loader import Loader, Order, Target
from aelab.noise import Noise


class Resident(Loader):
    def __init__(
        self, items: Tensor, labels: Tensor, order: Order, noise: Noise, target: Target, missing: bool
    ) -> None:
        super().__init__(order, noise, target, missing)
        device = order.indices.device
        self.items, self.labels = items.to(device), labels.to(device)

    def raw(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        for index, weight in self.batch_sampler:
            yield self.items[index], self.labels[index], weight
