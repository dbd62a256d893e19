"""A trained model with its data, which metrics, samplers and figures are given."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from aelab import randomness
from aelab.composition import build
from aelab.data.base import DataModule
from aelab.data.loader import Batch, Split
from aelab.errors import UserError
from aelab.models.base import Autoencoder
from aelab.noise import Noise, NoNoise
from aelab.runs.provenance import data_changes
from aelab.runs.run import Run

log = logging.getLogger(__name__)


class Trained:
    """A trained model with its data, on a device. All draws are fixed, so the same numbers come out twice."""

    def __init__(
        self, model: Autoencoder, data: DataModule, device: torch.device, cache_dir: str | None = None
    ) -> None:
        """`cache_dir`: where what takes long is kept for other runs. None: in ~/.cache."""
        self.model, self.data, self.device, self.cache_dir = model.to(device).eval(), data, device, cache_dir
        self.shown: list[int] | None = None
        """Indices of the test images that figures show. None: some of each class."""
        self.model.attach(data)
        self.images, self.codes, self.reconstructions = (
            cache(f) for f in (self._images, self._codes, self._reconstructions)
        )

    @classmethod
    def of(cls, run: Run, checkpoint: str = "best", root: str | None = None) -> "Trained":
        """Return the model of a run with its data. `root`: where the data lies now, if it moved.

        Raises UserError if the checkpoint or the data cannot be read.
        """
        data = build.restore(build.data(run.config_at(root)), run, checkpoint)
        data.setup()
        model, device = build.trained_autoencoder(run, checkpoint), build.device_of(run.config)
        return cls(model, data, device, run.config.paths.cache_dir)

    def batches(self, split: Split, noise: Noise | None = None, limit: int | None = None) -> Iterator[Batch]:
        """Yield batches of a split in its order, each datum once, or `limit` data.

        The noise is the one of the run, unless another is given.
        """
        for step, batch in enumerate(self.data.in_order(split, self.device, noise or self.data.noise, limit)):
            randomness.seed(self.device, "evaluation", step, 0)
            yield batch

    def examples(self, n: int) -> Batch:
        """Return `n` test data under the run's noise: those of `shown`, or else drawn evenly from the classes."""
        chosen = torch.tensor(self.chosen(evenly(self.images("test")[1], n))).sort().values
        parts: list[list[Any]] = []
        start = 0
        for batch in self.batches("test"):
            rows = chosen[(chosen >= start) & (chosen < start + len(batch.x))] - start
            start += len(batch.x)
            parts.append([None if t is None else t[rows.to(t.device)] for t in batch[:4]])
        joined: list[Any] = [None if some[0] is None else torch.cat(some) for some in zip(*parts, strict=True)]
        return Batch(*joined)

    def chosen(self, otherwise: Sequence[int]) -> list[int]:
        """Return the indices of the test data that figures show. Raises UserError for one that does not exist."""
        n = len(self.images("test")[1])
        if unknown := [index for index in self.shown or [] if not 0 <= index < n]:
            raise UserError(f"images={self.shown}: there is no test image {unknown[0]} (they are 0 … {n - 1})")
        return list(self.shown or otherwise)

    def _images(self, split: Split, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Return clean data (N, C, *sizes) and labels (N, …), on the CPU. What is missing is nan."""
        return _joined((batch.x, batch.y) for batch in self.batches(split, NoNoise(), limit))

    @torch.no_grad()
    def _codes(self, split: Split, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Return codes of the clean data (N, D), maps flattened, and labels (N, …), on the CPU."""
        batches = self.batches(split, NoNoise(), limit)
        return _joined((self.model.encode(batch.seen, batch.y).flatten(1).float(), batch.y) for batch in batches)

    @torch.no_grad()
    def _reconstructions(self, split: Split, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Return reconstructions (N, C, *sizes) of data under the run's noise, and labels (N, …), on the CPU."""
        batches = self.batches(split, limit=limit)
        return _joined((self.model.reconstruct(batch).float(), batch.y) for batch in batches)


@dataclass(frozen=True)
class Place:
    """Where the numbers and figures of a checkpoint on some data belong."""

    name: str
    """Empty for the run's own data and final checkpoint. Otherwise the name of a place beside them."""
    about: dict[str, Any]

    @classmethod
    def of(cls, run: Run, data: DataModule, checkpoint: str) -> "Place":
        """Return the place. A line says if the data is not what the run was trained on, and what changed."""
        manifest, names = run.manifest, []
        step = build.step_of(run, checkpoint)
        final = manifest.get("checkpoint", "best" if run.checkpoint("best").exists() else "last")
        if manifest.get("status") != "done" or checkpoint != final:
            names.append(f"{checkpoint}_step_{step}")
        if manifest.get("data") not in (None, data.fingerprint):
            names.append(f"data_{data.fingerprint[:8]}")
            log.warning("other data than the run was trained on: %s", data_changes(manifest, data.facts()))
        about = {"checkpoint": checkpoint, "step": step, "root": data.root, "data": data.fingerprint}
        return cls("_".join(names), about)

    def metrics(self, run: Run) -> dict[str, float]:
        """Return the numbers of this place."""
        return run.other_metrics(self.name) if self.name else run.metrics

    def add(self, run: Run, metrics: dict[str, float], measured: dict[str, str] | None = None) -> None:
        """Write numbers to this place.

        `measured` holds the settings of a group of metrics. Numbers that would replace those of other settings go
        beside them, and a line says where.
        """
        known, before = run.manifest.get("measured", {}), run.metrics
        others = {group: how for group, how in (measured or {}).items() if known.get(group, how) != how}
        if self.name:
            run.add_other_metrics(self.name, self.about, metrics)
        elif others and any(before.get(name, value) != value for name, value in metrics.items()):
            ((group, how),) = others.items()
            name = f"{group}_{hashlib.sha256(how.encode()).hexdigest()[:8]}"
            run.add_other_metrics(name, {**self.about, "settings": how}, metrics)
            log.warning("%s was computed with other settings before: see evaluations/%s.json", group, name)
        else:
            run.add_metrics(metrics, measured)


class MetricGroup(Protocol):
    """A group of metrics. `configs/metrics/NAME.yaml` builds it, and `ae evaluate metrics=[NAME]` asks for it."""

    def __call__(self, trained: Trained) -> dict[str, float]:
        """Return numbers by name, of the test split if they do not say otherwise. Raises Unsupported."""
        ...


def load(folder: str | Path, checkpoint: str = "best", trust: Sequence[str] = ()) -> Any:
    """Return the trained model of a run folder, in eval mode.

    An autoencoder (see `aelab.models.base`) has `encode(x)`, `decode(z)`, `model(x)` and, if it is generative,
    `sample(n)`. Of a classifier, `model(x)` gives logits and `features(x)` gives codes. `trust` names packages of your
    own that the run's config may build from. The weights need no gradients (`model.requires_grad_(True)`: they do).
    """
    return build.trained(Run(folder, trust), checkpoint).requires_grad_(False)


def evenly(labels: Tensor, n: int) -> list[int]:
    """Return the indices of `n` data, always the same ones, as many of each label as there are."""
    labels = torch.zeros(len(labels)) if labels.is_floating_point() else labels
    order = torch.randperm(len(labels), generator=randomness.generator("cpu", "examples")).tolist()
    had: dict[int, int] = {}
    turns = []
    for index in order:
        label = int(labels[index])
        had[label] = had.get(label, 0) + 1
        turns.append((had[label], label, index))
    return [index for _, _, index in sorted(turns)[:n]]


def _joined(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    values, labels = zip(*((a.cpu(), b.cpu()) for a, b in batches), strict=True)
    return torch.cat(values), torch.cat(labels)
