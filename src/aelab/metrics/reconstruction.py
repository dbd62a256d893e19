"""Errors of the reconstruction against the clean datum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from aelab.composition.trained import Trained
from aelab.data.errors import errors
from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.metrics.pca import PCA
from aelab.noise import NoNoise
from aelab.reconstruction import ssim
from aelab.tokens import PADDING

CHANNELS = 32  # of more channels R² is not printed one by one
WEIGHTS = "alexnet-owt-7be5be79.pth"  # the name that torchvision gives the file


@dataclass(frozen=True)
class Reconstruction:
    """Errors against the clean datum x, averaged over the test split. Keys are NAME/SOURCE.

    NAME is, of numbers,

    - `sse`, `mse`, `mae`, `psnr`: see `aelab.data.errors`;
    - `r2` of real numbers: 1 - sum (x - x̂)² / sum (x - mean)², and `r2_of/CHANNEL` of each channel, if there are at
      most 32;
    - `bce` of numbers in [0, 1]: -sum x log x̂ + (1 - x) log(1 - x̂), in nats, x̂ kept 1e-7 away from 0 and 1;
    - `ssim` of images and volumes: structural similarity, with a Gaussian window of deviation 1.5 pixels. The window is
      made smaller for images that are smaller than it;
    - `ms_ssim`: structural similarity over five scales (Wang et al., 2003). It needs a shorter side of at least 176
      pixels;
    - `lpips` of images: distance in AlexNet's features (Zhang et al., 2018).

    SOURCE is

    - `model`: the model's reconstruction;
    - `pca`: the projection of the same input on as many principal components as the code has numbers, fitted to clean
      training data;
    - `mean`: the mean of the training data;
    - `seen`: the noisy input, if the run has noise;
    - `visible`: the input with the mean of its visible values at all places that the noise hid.

    Of tokens there are `accuracy` and `exact` (see `aelab.data.errors`) of the model, `nats`, which is the
    reconstruction term and for a variational model the KL too, per text, and `perplexity`, exp(nats / tokens). The last
    two have `bag_of_words` beside the model: each token is drawn by itself, with its training frequency, of which each
    id has one more than it was seen.

    `lpips` chooses whether LPIPS is computed. True downloads AlexNet's weights once. None takes the weights if they are
    there. False leaves LPIPS out.

    Raises UserError if the weights of `lpips` cannot be downloaded.
    """

    lpips: bool | None

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        return _of_tokens(trained) if trained.data.domain == "tokens" else self.of_numbers(trained)

    def of_numbers(self, trained: Trained) -> dict[str, float]:
        """Return the errors of numbers."""
        data, channels = trained.data, Channels()
        perceptual = self.perceptual(trained.device) if len(data.shape) == 3 and data.domain == "unit" else None
        pca = PCA.of(trained)
        mean = torch.from_numpy(pca.fitted.mean_).float().view(1, *data.shape).to(trained.device)
        sums: dict[str, Tensor] = {}
        images = 0
        for batch in trained.batches("test"):
            shown = {"model": trained.model.reconstruct(batch), "pca": pca(batch.seen), "mean": mean.expand_as(batch.x)}
            if batch.seen is not batch.x and not data.missing:
                shown["seen"] = batch.seen
                if batch.hidden is not None:
                    shown["visible"] = _filled_with_means(batch)
            for what, image in shown.items():
                measured = _errors(image, batch.x, data.domain)
                if perceptual is not None:
                    colours = (data.restored(t.clamp(0, 1)).expand(-1, 3, -1, -1) for t in (image, batch.x))
                    measured["lpips"] = perceptual(*colours, normalize=True).flatten()
                for name, value in measured.items():
                    sums[f"{name}/{what}"] = sums.get(f"{name}/{what}", 0) + value.double().sum()
                if data.domain == "real":
                    channels.add(what, image, batch.x)
            images += len(batch.x)
        return {name: float(total) / images for name, total in sums.items()} | channels.r2(data.channels)

    def perceptual(self, device: torch.device) -> nn.Module | None:
        """Return the net that maps two batches (B, 3, H, W) to their LPIPS distances. Return None if LPIPS is left out.

        Raises UserError if the weights cannot be downloaded.
        """
        there = (Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS).is_file()
        if not (self.lpips or (self.lpips is None and there)):
            return None
        try:
            return LearnedPerceptualImagePatchSimilarity("alex", normalize=True).net.to(device)
        except Exception as error:
            raise UserError(
                f"lpips needs AlexNet's weights, and they cannot be downloaded ({error}): put {WEIGHTS} into "
                f"{torch.hub.get_dir()}/checkpoints, or type metrics.reconstruction.lpips=false"
            ) from error


class Channels:
    """Sums over one channel each, of which R² is computed."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, what: str, shown: Tensor, x: Tensor) -> None:
        """Add data (B, C, *sizes). What is missing is left out."""
        x, shown = (t.double().transpose(0, 1).flatten(1) for t in (x, shown))
        there = ~x.isnan()
        squares, x = (shown - x).nan_to_num(0).square(), x.nan_to_num(0)
        new = torch.stack([squares.sum(1), x.square().sum(1), x.sum(1), there.sum(1)])
        self.sums[what] = self.sums.get(what, 0) + new

    def r2(self, names: Sequence[str]) -> dict[str, float]:
        """Return R² over all channels, and of each."""
        result = {}
        for what, (wrong, squares, totals, n) in self.sums.items():
            spread = squares - totals.square() / n
            result[f"r2/{what}"] = float(1 - wrong.sum() / spread.sum())
            if 1 < len(n) <= CHANNELS:
                for channel, value in enumerate((1 - wrong / spread).tolist()):
                    result[f"r2_of/{names[channel] if names else channel}/{what}"] = value
        return result


def _filled_with_means(batch: Batch) -> Tensor:
    hidden = batch.chosen.expand_as(batch.x)
    mean = batch.seen.masked_fill(hidden, torch.nan).flatten(1).nanmean(1).nan_to_num(0)
    return torch.where(hidden, mean.view(-1, *[1] * (batch.x.ndim - 1)), batch.seen)


def _of_tokens(trained: Trained) -> dict[str, float]:
    bag = _log_frequencies(trained)
    sums: dict[str, float] = {"nats/bag_of_words": 0.0}
    tokens = texts = 0
    for batch in trained.batches("test"):
        for name, value in errors(trained.model.reconstruct(batch), batch.x, "tokens").items():
            sums[f"{name}/model"] = sums.get(f"{name}/model", 0) + float(value.sum())
        terms = trained.model.loss(batch)
        nats = float(terms["reconstruction"]) + float(terms.get("kl", 0))
        sums["nats/model"] = sums.get("nats/model", 0) + nats * len(batch.x)
        sums["nats/bag_of_words"] -= float(bag[batch.x[batch.x != PADDING]].sum())
        tokens, texts = tokens + int((batch.x != PADDING).sum()), texts + len(batch.x)
    perplexity = {
        f"perplexity/{what}": math.exp(min(sums[f"nats/{what}"] / tokens, 700)) for what in ("model", "bag_of_words")
    }
    return {name: total / texts for name, total in sums.items()} | perplexity


def _log_frequencies(trained: Trained) -> Tensor:
    """Return the log of the training frequency of each id that is no padding, (ids,)."""
    ids = torch.cat([batch.x.flatten().cpu() for batch in trained.batches("train", NoNoise())])
    counts = torch.bincount(ids, minlength=trained.data.vocabulary).double() + 1  # type: ignore[attr-defined]
    counts[PADDING] = 0
    return (counts / counts.sum()).log().to(trained.device)


def _errors(image: Tensor, x: Tensor, domain: str) -> dict[str, Tensor]:
    measured = errors(image, x, domain)
    if domain == "real":
        return measured
    inside = image.clamp(1e-7, 1 - 1e-7)
    measured["bce"] = F.binary_cross_entropy(inside, x, reduction="none").flatten(1).sum(1)
    image = image.clamp(0, 1)
    if x.ndim < 4:
        return measured
    measured["ssim"] = ssim(image, x, 1.5)
    if x.ndim == 4 and min(x.shape[2:]) >= 176:
        value = ms_ssim(image, x, data_range=1.0, reduction="none")
        assert isinstance(value, Tensor)
        measured["ms_ssim"] = value
    return measured
