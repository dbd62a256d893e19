"""What a trained run keeps of its data, so that new data is judged without them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor

from aelab.atomic import replacing
from aelab.composition import build
from aelab.composition.stages import is_classifier
from aelab.composition.trained import Trained
from aelab.data.base import DataModule
from aelab.data.errors import errors
from aelab.data.loader import Batch, Split
from aelab.errors import UserError
from aelab.models.base import Autoencoder
from aelab.noise import NoNoise
from aelab.runs.run import Run

CODES = 10_000  # at most this many training codes are clustered, drawn at random
CLUSTERS = 10
FEW = 500  # validation data that are scored if a reconstruction walks


@dataclass(frozen=True)
class Calibration:
    """Scores of validation images, and the centres of clusters of training codes. Both are of clean images.

    A model that completes what is hidden sees them under the noise of its run.
    """

    error: NDArray[np.float64]
    """(N,): squared error of the reconstruction of each validation image, summed over channels and pixels."""
    distance: NDArray[np.float64]
    """(N,): distance of each validation code from the nearest centre."""
    centres: NDArray[np.float64]
    """(K, D): centres of the training codes, by k-means."""

    @classmethod
    @torch.no_grad()
    def of(cls, trained: Trained) -> "Calibration":
        """Compute it."""
        batches = _batches(trained, "train", CODES)
        z = torch.cat([trained.model.encode_batch(batch).flatten(1).float().cpu() for batch in batches]).numpy()
        centres = KMeans(min(CLUSTERS, len(np.unique(z, axis=0))), n_init=1, random_state=0).fit(z).cluster_centers_
        val = _batches(trained, "val", FEW if trained.model.walks else None)
        codes, _, errors = zip(*(score(trained.model, batch, trained.data.domain) for batch in val), strict=True)
        return cls(torch.cat(errors).numpy(), distances(torch.cat(codes), centres), centres.astype(np.float64))

    def threshold(self, by: str, quantile: float) -> float:
        """Return the score that a share `quantile` of the validation images stays below."""
        return float(np.quantile(getattr(self, by), quantile))

    def save(self, run: Run) -> None:
        """Write it into the folder of the run."""
        with replacing(_path(run)) as file:
            np.savez(file, error=self.error, distance=self.distance, centres=self.centres)

    @classmethod
    def load(cls, run: Run) -> "Calibration":
        """Read it. Raises UserError for a run of a version that kept none."""
        path = _path(run)
        if not path.is_file():
            raise UserError(
                f"{run.folder} has no calibration.npz, so no score has a threshold: type what=[codes,reconstructions], "
                "or ae evaluate run=… metrics=[] where its data are, which writes it"
            )
        with np.load(path) as content:
            return cls(content["error"], content["distance"], content["centres"])


def calibrate(run: Run, data: DataModule, checkpoint: str) -> None:
    """Compute and keep what judges new data. A classifier has nothing of it."""
    if not is_classifier(run.config):
        model = build.trained_autoencoder(run, checkpoint)
        Calibration.of(Trained(model, data, build.device_of(run.config))).save(run)


@torch.no_grad()
def score(model: Autoencoder, batch: Batch, domain: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (B, D), reconstructions (B, C, *sizes), and the error of each datum, (B,), on the CPU.

    The error is squared. Of tokens it is the reconstruction term, in nats, because tokens have no differences.
    """
    with model.remembering():  # so that the batch is encoded once
        z, shown = model.encode_batch(batch), model.reconstruct(batch)
    error = model.error(z, batch) if domain == "tokens" else errors(shown, batch.x, domain)["sse"]
    return z.flatten(1).float().cpu(), shown.float().cpu(), error.double().cpu()


def distances(z: Tensor, centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each code (B, D) from the nearest centre (K, D)."""
    nearest: NDArray[np.float64] = torch.cdist(z.double(), torch.from_numpy(centres).double()).min(1).values.numpy()
    return nearest


def _batches(trained: Trained, split: Split, limit: int | None) -> Iterator[Batch]:
    return trained.batches(split, None if trained.model.completes else NoNoise(), limit)


def _path(run: Run) -> Path:
    return run.folder / "calibration.npz"
