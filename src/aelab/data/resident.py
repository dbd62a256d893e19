"""The loader for data that fits on the training device. A batch is one index into the data, and one scaling.

Small batches of which nothing is drawn are indexed and scaled together, because the calls take longer than the work.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Generator, Tensor

from aelab.data.loader import IDLE, Loader, Order, Target
from aelab.noise import Noise, NoNoise

TOGETHER = 2**16  # numbers


class Resident(Loader):
    def __init__(
        self, items: Tensor, labels: Tensor, order: Order, noise: Noise, target: Target, missing: bool
    ) -> None:
        device = order.indices.device
        self.items, self.labels = items.to(device), labels.to(device)
        self.prepare: Target = _same
        self.together = 1  # batches
        g = Generator(device)
        state = g.get_state()
        target(self.items[:1], g)
        fixed = torch.equal(state, g.get_state())
        if fixed:
            self.prepare, target = target, _same
            self.together = max(1, TOGETHER // (order.batch_size * items.shape[1:].numel()))
        super().__init__(order, noise, target, missing)
        self.draws = not (fixed and isinstance(noise, NoNoise))

    def raw(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        batches = iter(self.batch_sampler)
        while some := list(islice(batches, self.together)):
            indices, weights = zip(*some, strict=True)
            index, sizes = torch.cat(indices), [len(i) for i in indices]
            items = self.prepare(self.items[index], IDLE)
            yield from zip(items.split(sizes), self.labels[index].split(sizes), weights, strict=True)


def _same(items: Tensor, generator: Generator) -> Tensor:
    return items
