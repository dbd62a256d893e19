"""How well noisy images are cleaned, for kinds and severities of noise that the run need not have seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import Tensor

from aelab.composition.trained import Trained
from aelab.data.errors import image_errors
from aelab.metrics.pca import PCA

Denoiser = Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B, C, H, W)


@dataclass(frozen=True)
class Robustness:
    """For each of `noises`, and each of its severities, psnr in dB against the clean image, a mean over `images` of
    the test split, as `NOISE/SEVERITY/WHAT`: of the `noisy` image, of the `model`'s reconstruction, and of classical
    denoisers, none of which is told the noise: `pca` (projection on as many components as the code has numbers),
    `median` (3×3), and where scikit-image is installed (`pip install -e '.[metrics]'`) `nl_means` (Buades, Coll &
    Morel, 2005) and `wavelet` (BayesShrink; Chang, Yu & Vetterli, 2000).

    `noises`: by name `noise`, `severity`, which of its arguments that is, and the `values` it takes.
    """

    images: int
    noises: Mapping[str, Mapping[str, Any]]

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        denoisers: dict[str, Denoiser] = {"pca": PCA.of(trained), "median": _median, **_of_scikit_image()}
        result: dict[str, float] = {}
        for name, kind_of_noise in self.noises.items():
            for severity in kind_of_noise["values"]:
                noise = kind_of_noise["noise"](**{kind_of_noise["severity"]: severity})
                psnr: dict[str, list[float]] = {}
                for batch in trained.batches("test", noise, self.images):
                    images = {"noisy": batch.seen, "model": trained.model.reconstruct(batch)}
                    images |= {kind: denoise(batch.seen) for kind, denoise in denoisers.items()}
                    for kind, image in images.items():
                        values = image_errors(image.clamp(0, 1), batch.x)["psnr"]
                        psnr.setdefault(kind, []).extend(values.tolist())
                result |= {f"{name}/{severity}/{kind}": float(np.mean(values)) for kind, values in psnr.items()}
        return result


def _median(noisy: Tensor) -> Tensor:
    return torch.from_numpy(median_filter(noisy.cpu().numpy(), size=(1, 1, 3, 3))).to(noisy)


def _of_scikit_image() -> dict[str, Denoiser]:
    try:
        from skimage.restoration import denoise_nl_means, denoise_wavelet, estimate_sigma
    except ImportError:
        return {}

    def each(denoise: Callable[..., Any]) -> Denoiser:
        """Image by image, with the noise's deviation estimated from the image itself; where there is none, left."""

        def run(noisy: Tensor) -> Tensor:
            colours = noisy.shape[1] > 1
            axis = {"channel_axis": -1 if colours else None}
            images = (noisy.movedim(1, -1) if colours else noisy[:, 0]).cpu().numpy()
            sigmas = [float(np.mean(estimate_sigma(image, **axis))) for image in images]
            cleaned = [denoise(a, s, **axis) if s > 0 else a for a, s in zip(images, sigmas, strict=True)]
            result = torch.from_numpy(np.stack(cleaned)).to(noisy)
            return result.movedim(-1, 1) if colours else result[:, None]

        return run

    def nl_means(image: NDArray[Any], sigma: float, **axis: Any) -> Any:
        return denoise_nl_means(
            image, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True, **axis
        )

    def wavelet(image: NDArray[Any], sigma: float, **axis: Any) -> Any:
        return denoise_wavelet(image, sigma=sigma, **axis)

    return {"nl_means": each(nl_means), "wavelet": each(wavelet)}
