"""Features of a small classifier. Generated images are compared with real ones in these features, without a download.

The classifier is trained once on the images of the run's data set. It is kept on disk.
"""

import logging
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab import randomness
from aelab.atomic import replacing
from aelab.composition.trained import Trained
from aelab.data.base import DataModule
from aelab.errors import UserError

GOOD = 0.9  # share of test images, below which a classifier judges badly
VERSION = 1  # numbers of two versions of the net and its training are not comparable
EPOCHS = 5
IMAGES = 60_000  # at most this many training images, drawn at random

log = logging.getLogger(__name__)


class Classifier(nn.Module):
    """Maps images (B, C, H, W) to features (B, 64), by two convolutions of stride 2 and one linear layer."""

    num_features = 64

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, self.num_features),
            nn.ReLU(),
        )
        self.logits = nn.Linear(self.num_features, classes)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x)
        return features


def cache(folder: str | None = None) -> Path:
    """Return the folder of trained classifiers: `paths.cache_dir`, or else $XDG_CACHE_HOME/aelab, or ~/.cache/aelab."""
    if folder is not None:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aelab"


def classifier(trained: Trained) -> Classifier:
    """Return the classifier of the run's data. If there is none yet, it is trained now.

    It does not depend on the run's seed. Raises UserError if the kept file is broken.
    """
    data = trained.data
    assert data.num_classes is not None
    path = cache(trained.cache_dir) / f"classifier-v{VERSION}-{_key(data)}.pt"
    net = Classifier(data.shape[0], data.num_classes).to(trained.device)
    if path.is_file():
        try:
            net.load_state_dict(torch.load(path, map_location=trained.device, weights_only=True))
        except Exception as error:
            raise UserError(f"{path} is broken: delete it, and the next evaluation trains it again") from error
        _judge(net.eval(), trained)
        return net
    x, y = trained.images("train", IMAGES)
    randomness.seed(trained.device, "classifier")
    net = Classifier(data.shape[0], data.num_classes).to(trained.device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x)).split(64):
                logits = net.logits(net(x[rows].to(trained.device)))
                optimizer.zero_grad()
                F.cross_entropy(logits, y[rows].to(trained.device)).backward()
                optimizer.step()
    log.info("trained the classifier that samples are compared with, kept as %s", path)
    with replacing(path) as file:
        torch.save(net.state_dict(), file)
    _judge(net.eval(), trained)
    return net


def _judge(net: Classifier, trained: Trained) -> None:
    """Warn if the classifier is too weak for what is said in its features."""
    x, y = trained.images("test", IMAGES)
    right = (net.logits(features(net, x, trained.device)).argmax(1).cpu() == y).float().mean()
    if right < GOOD:
        log.warning(
            "the classifier that judges samples is right for %.0f %% of the test images: what it says (frechet, "
            "precision, recall, coherence) is worth little",
            100 * right,
        )


def _key(data: DataModule) -> str:
    """Return a key of the images that a classifier is trained on.

    Each data set, shape, binarisation, validation split and selection of classes has a classifier of its own.
    """
    place = (
        data.fingerprint,
        *data.shape,
        getattr(data, "binarize", "none"),
        str(data.val_size),
        data.split_seed,
        str(data.classes),
    )
    return f"{randomness.key(*place):016x}"


@torch.no_grad()
def features(net: Classifier, images: Tensor, device: torch.device) -> Tensor:
    """Return the features (N, 64) of images (N, C, H, W)."""
    return torch.cat([net(batch.to(device)) for batch in images.split(1000)])
