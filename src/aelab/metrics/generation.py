"""Comparison of generated images, and of reconstructions, with the images of the test split."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.errors import Unsupported, UserError, require
from aelab.metrics.classifier import classifier, features
from aelab.ranges import Count
from aelab.samplers import Sampler

log = logging.getLogger(__name__)

TRAIN = 60_000  # at most this many training images are searched for the nearest one
NEAREST = 1000  # number of samples whose nearest training image is searched for
FEW = 10  # images per feature, below which a covariance is not known
INCEPTION = 2048  # features, which is how torchmetrics calls the last layer of Inception
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # the name that torch-fidelity gives the file


@dataclass(frozen=True)
class Generation:
    """Compares generated images with as many images of the test split.

    Each of the `samplers` that this model supports generates `samples` images, or as many as the test split has if
    those are fewer. NAME is the name of a sampler.

    - `frechet/NAME`, `frechet/reconstruction`: Fréchet distance in the features of a small classifier of the same data
      (Heusel et al., 2017). It is not comparable with a distance in Inception's features;
    - `fid/NAME`, `fid/reconstruction`: Fréchet distance in Inception's features;
    - `precision/NAME`: share of samples within the manifold of the test images (Kynkäänniemi et al., 2019);
    - `recall/NAME`: share of test images within the manifold of the samples;
    - `nearest/NAME`: Euclidean distance in pixels from a sample to the nearest training image, averaged over 1000
      samples;
    - `nearest/test`: the same distance from test images. Samples that are much nearer were memorised.

    A point is within the manifold of a set if, for some point of the set, it is no farther away than the
    `neighbours`-th nearest other point of the set. Distances are measured in the classifier's features.

    `inception` chooses whether `fid` is computed. True downloads Inception's weights once. None takes the weights if
    they are there. False leaves `fid` out.

    Raises UserError if Inception's weights cannot be loaded, and Unsupported for data without labels.
    """

    samples: Count
    neighbours: Count
    inception: bool | None
    samplers: Mapping[str, Sampler | None]

    def __post_init__(self) -> None:
        if self.inception:  # what is missing is said before hours of training
            require("torch_fidelity", "metrics.generation.inception=true", "type metrics.generation.inception=false")
            _distance(INCEPTION)

    @needs("images", "labels")
    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        net, device = classifier(trained), trained.device
        extractors: dict[str, nn.Module | int] = {"frechet": net}
        if self.inception or (self.inception is None and _inception_is_there()):
            extractors["fid"] = INCEPTION
        real = trained.images("test", self.samples)[0]
        if len(real) < FEW * net.num_features:
            log.warning("Fréchet distances of %d images are too large, because so few have no covariance", len(real))
        fakes = {}
        for name, sampler in self.samplers.items():
            try:
                fakes[name] = sampler(trained, len(real)) if sampler else None
            except Unsupported:
                continue
        sets = {name: fake for name, fake in fakes.items() if fake is not None}
        with_reconstruction = {"reconstruction": trained.reconstructions("test", self.samples)[0], **sets}
        result = {
            f"{kind}/{name}": frechet(extractor, real, images, device)
            for kind, extractor in extractors.items()
            for name, images in with_reconstruction.items()
        }
        real_features, train = features(net, real, device), trained.images("train", TRAIN)[0].to(device)
        for name, images in sets.items():
            fake_features = features(net, images, device)
            result[f"precision/{name}"] = coverage(real_features, fake_features, self.neighbours)
            result[f"recall/{name}"] = coverage(fake_features, real_features, self.neighbours)
            result[f"nearest/{name}"] = nearest(images[:NEAREST].to(device), train)
        result["nearest/test"] = nearest(real[:NEAREST].to(device), train)
        return result


def _inception_is_there() -> bool:
    return find_spec("torch_fidelity") is not None and (Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS).is_file()


def _distance(extractor: nn.Module | int) -> FrechetInceptionDistance:
    """Return what measures the distance. Raises UserError if Inception's weights cannot be loaded."""
    try:
        return FrechetInceptionDistance(extractor, normalize=True)
    except Exception as error:
        raise UserError(
            f"Inception's weights cannot be loaded ({' '.join(str(error).split())}): they are downloaded once, as "
            f"{torch.hub.get_dir()}/checkpoints/{WEIGHTS}; to do without them type metrics.generation.inception=false"
        ) from error


def frechet(extractor: nn.Module | int, real: Tensor, fake: Tensor, device: torch.device) -> float:
    """Return the Fréchet distance of two sets of images (N, C, H, W) in the features of `extractor`.

    It is |m - m'|² + tr(S + S' - 2 (S S')^(1/2)), with means m, m' and covariances S, S' of the features.
    """
    distance = _distance(extractor).to(device)
    for images, is_real in ((real, True), (fake, False)):
        for batch in images.split(500):
            # Inception takes images of three channels only.
            grey = isinstance(extractor, int) and batch.shape[1] == 1
            distance.update((batch.expand(-1, 3, -1, -1) if grey else batch).to(device), real=is_real)
    return float(distance.compute())


def coverage(manifold: Tensor, points: Tensor, k: int) -> float:
    """Return the share of `points` (M, F) that lie within the manifold of the points `manifold` (N, F).

    A point lies within it if, for some point of `manifold`, it is no farther away than the k-th nearest other point.
    """
    # Each point is its own nearest, so the k-th nearest other point is the (k + 1)-th.
    radius = torch.cdist(manifold, manifold).kthvalue(min(k + 1, len(manifold)), dim=1).values
    inside = [(torch.cdist(part, manifold) <= radius).any(1) for part in points.split(1000)]
    return float(torch.cat(inside).float().mean())


def nearest(images: Tensor, train: Tensor) -> float:
    """Return the mean distance from images (N, C, H, W) to the nearest of the training images (M, C, H, W)."""
    flat = train.flatten(1)
    return float(torch.cat([torch.cdist(part.flatten(1), flat).amin(1) for part in images.split(200)]).mean())
