"""Errors of the reconstruction against the clean image."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from aelab.composition.trained import Trained
from aelab.data.errors import errors
from aelab.errors import UserError
from aelab.metrics.pca import PCA
from aelab.reconstruction import ssim

WEIGHTS = "alexnet-owt-7be5be79.pth"  # the name that torchvision gives the file


@dataclass(frozen=True)
class Reconstruction:
    """Errors against the clean image x, averaged over the images of the test split. Keys are NAME/SOURCE.

    NAME is

    - `sse`, `mse`, `mae`, `psnr`: see `aelab.data.errors`;
    - `bce`: -sum over pixels of x log x̂ + (1 - x) log(1 - x̂), in nats, x̂ kept 1e-7 away from 0 and 1;
    - `ssim`: structural similarity, with a Gaussian window of deviation 1.5 pixels. The window is made smaller for
      images that are smaller than it;
    - `ms_ssim`: structural similarity over five scales (Wang et al., 2003). It needs a shorter side of at least 176
      pixels;
    - `lpips`: distance in AlexNet's features (Zhang et al., 2018).

    SOURCE is

    - `model`: the model's reconstruction;
    - `pca`: the projection of the same input on as many principal components as the code has numbers, fitted to clean
      training images;
    - `seen`: the noisy input, if the run has noise.

    `lpips` chooses whether LPIPS is computed. True downloads AlexNet's weights once. None takes the weights if they are
    there. False leaves LPIPS out.

    Raises UserError if the weights of `lpips` cannot be downloaded.
    """

    lpips: bool | None

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        perceptual = self.perceptual(trained.device)
        pca = PCA.of(trained)
        sums: dict[str, Tensor] = {}
        images = 0
        for batch in trained.batches("test"):
            shown = {"model": trained.model.reconstruct(batch), "pca": pca(batch.seen)}
            if batch.seen is not batch.x:
                shown["seen"] = batch.seen
            for what, image in shown.items():
                for name, value in _errors(image, batch.x, perceptual).items():
                    sums[f"{name}/{what}"] = sums.get(f"{name}/{what}", 0) + value.double().sum()
            images += len(batch.x)
        return {name: float(total) / images for name, total in sums.items()}

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


def _errors(image: Tensor, x: Tensor, perceptual: nn.Module | None) -> dict[str, Tensor]:
    measured = errors(image, x, "unit")
    measured["bce"] = F.binary_cross_entropy(image.clamp(1e-7, 1 - 1e-7), x, reduction="none").flatten(1).sum(1)
    image = image.clamp(0, 1)
    measured["ssim"] = ssim(image, x, 1.5)
    if min(x.shape[2:]) >= 176:
        value = ms_ssim(image, x, data_range=1.0, reduction="none")
        assert isinstance(value, Tensor)
        measured["ms_ssim"] = value
    if perceptual is not None:
        a, b = (t.expand(-1, 3, -1, -1) if t.shape[1] == 1 else t for t in (image, x))
        measured["lpips"] = perceptual(a, b, normalize=True).flatten()
    return measured
