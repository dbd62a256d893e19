"""What a group of metrics is given, and what it gives: numbers of a trained model by name."""

from collections.abc import Iterator
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from autoencoders import build, randomness
from autoencoders.data.base import Images
from autoencoders.data.loader import Batch, Split
from autoencoders.errors import UserError
from autoencoders.models.base import Autoencoder
from autoencoders.noise import Noise, NoNoise
from autoencoders.run import Run


class Unsupported(UserError):
    """What is asked for is something that this model, or these data, do not have. `ae evaluate` and `ae visualize`
    leave it out, unless the user asked for it by name."""


class Group(Protocol):
    """A group of metrics: `configs/metrics/NAME.yaml` builds it, `ae evaluate metrics=[NAME]` asks for it.

    Its numbers are of the test split, where they do not say otherwise. Raises Unsupported.
    """

    def __call__(self, subject: "Subject") -> dict[str, float]: ...


class Subject:
    """A trained model with its data, on a device. All draws are fixed, so the same numbers come out twice."""

    def __init__(self, model: Autoencoder, data: Images, device: torch.device) -> None:
        self.model, self.data, self.device = model.to(device).eval(), data, device
        self.images, self.codes, self.reconstructions = (
            cache(f) for f in (self._images, self._codes, self._reconstructions)
        )

    @classmethod
    def of(cls, run: Run, checkpoint: str = "best", root: str | None = None) -> "Subject":
        """The model of a run, and its data, which lie in `root` if they moved.

        Raises UserError for a checkpoint or data that cannot be had.
        """
        data = build.data(run.config_at(root))
        data.setup()
        return cls(run.load_autoencoder(checkpoint), data, run.device)

    def batches(self, split: Split, noise: Noise | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Every image of the split once, in its order, or `limit` of them; under the run's noise or a given one."""
        for step, batch in enumerate(self.data.in_order(split, self.device, noise or self.data.noise, limit)):
            randomness.seed(self.device, "evaluation", step, 0)
            yield batch

    def _images(self, split: Split, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Clean images (N, C, H, W) and labels (N,), on the CPU."""
        return _joined((batch.x, batch.y) for batch in self.batches(split, NoNoise(), limit))

    @torch.no_grad()
    def _codes(self, split: Split, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Codes of the clean images (N, D), maps flattened, and labels (N,), on the CPU."""
        batches = self.batches(split, NoNoise(), limit)
        return _joined((self.model.encode(batch.x, batch.y).flatten(1).float(), batch.y) for batch in batches)

    @torch.no_grad()
    def _reconstructions(self, split: Split, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Reconstructions (N, C, H, W) of what the run's noise leaves, and labels (N,), on the CPU."""
        batches = self.batches(split, limit=limit)
        return _joined((self.model(batch.seen, batch.y).float(), batch.y) for batch in batches)


def _joined(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    values, labels = zip(*((a.cpu(), b.cpu()) for a, b in batches), strict=True)
    return torch.cat(values), torch.cat(labels)
