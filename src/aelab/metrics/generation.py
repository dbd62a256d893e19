"""How new images, and reconstructions, compare with those of the test split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from aelab.composition.trained import Trained
from aelab.errors import Unsupported, UserError
from aelab.metrics.classifier import classifier, features
from aelab.samplers import Sampler

TRAIN = 60_000  # training images, at most, among which the nearest is looked for
NEAREST = 1000  # samples whose nearest one is
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # as torch-fidelity names them


@dataclass(frozen=True)
class Generation:
    """`samples` new images by each of the `samplers` that this model has, against as many of the test split:

    - `frechet/NAME`, `frechet/reconstruction`: Fréchet distance of features (Heusel et al., 2017), those of a small
      classifier of the same data, so not to be compared with distances in Inception's; `fid/…`: in Inception's.
      `inception`: true downloads its weights once, null takes them if they are there, false leaves it out;
    - `precision/NAME`, `recall/NAME`: the share of samples within the manifold of the test images, and of test images
      within that of the samples: no farther from one than its `neighbours`-th nearest, in the classifier's features
      (Kynkäänniemi et al., 2019);
    - `nearest/NAME`: distance from a sample to the nearest training image, root of the summed squares of pixels, a mean
      over 1000 samples, beside `nearest/test`, of test images: samples that are much nearer were memorised.

    Raises UserError for weights of Inception that cannot be had.
    """

    samples: int
    neighbours: int
    inception: bool | None
    samplers: Mapping[str, Sampler | None]

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        net, device = classifier(trained), trained.device
        extractors: dict[str, nn.Module | int] = {"frechet": net}
        if self.inception or (self.inception is None and _inception_is_there()):
            extractors["fid"] = 2048
        real = trained.images("test", self.samples)[0]
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
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        return False
    return (Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS).is_file()


def frechet(extractor: nn.Module | int, real: Tensor, fake: Tensor, device: torch.device) -> float:
    """|m - m'|² + tr(S + S' - 2 (S S')^(1/2)) of the means and covariances of features of two sets (N, C, H, W)."""
    try:
        distance = FrechetInceptionDistance(extractor, normalize=True).to(device)
    except Exception as error:
        raise UserError(
            f"Inception's weights cannot be had ({' '.join(str(error).split())}): they come once by download, with "
            f"`pip install torch-fidelity`, as {torch.hub.get_dir()}/checkpoints/{WEIGHTS}; without them type "
            "metrics.generation.inception=false"
        ) from error
    for images, is_real in ((real, True), (fake, False)):
        for batch in images.split(500):
            # Inception has seen colours only.
            grey = isinstance(extractor, int) and batch.shape[1] == 1
            distance.update((batch.expand(-1, 3, -1, -1) if grey else batch).to(device), real=is_real)
    return float(distance.compute())


def coverage(manifold: Tensor, points: Tensor, k: int) -> float:
    """The share of `points` (M, F) that are no farther from one of `manifold` (N, F) than its k-th nearest there."""
    radius = torch.cdist(manifold, manifold).kthvalue(min(k + 1, len(manifold)), dim=1).values  # 1st: the point itself
    inside = [(torch.cdist(part, manifold) <= radius).any(1) for part in points.split(1000)]
    return float(torch.cat(inside).float().mean())


def nearest(images: Tensor, train: Tensor) -> float:
    """Mean distance of images (N, C, H, W) to the nearest of the training images (M, C, H, W)."""
    flat = train.flatten(1)
    return float(torch.cat([torch.cdist(part.flatten(1), flat).amin(1) for part in images.split(200)]).mean())
