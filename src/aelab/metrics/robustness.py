"""Denoising of test images under several kinds and severities of noise.

The run need not have been trained with any of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import Tensor

from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.data.errors import errors
from aelab.metrics.pca import PCA
from aelab.ranges import Count

Denoiser = Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B, C, H, W)


@dataclass(frozen=True)
class Robustness:
    """PSNR in dB against the clean image, averaged over `images` test images. Keys are NOISE/SEVERITY/SOURCE.

    SOURCE is

    - `noisy`: the noisy image;
    - `model`: the model's reconstruction;
    - `pca`: the projection on as many principal components as the code has numbers;
    - `median`: a 3×3 median filter;
    - `nl_means`: non-local means (Buades, Coll & Morel, 2005);
    - `wavelet`: BayesShrink (Chang, Yu & Vetterli, 2000).

    The last two need scikit-image (`pip install -e '.[metrics]'`). No denoiser is told the noise.

    `noises` maps the name of each noise to three entries: `noise`, a function that builds it; `severity`, the argument
    that is varied; and `values`, the severities.
    """

    images: Count
    noises: Mapping[str, Mapping[str, Any]]

    @needs("images")
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
                        values = errors(image.clamp(0, 1), batch.x, "unit")["psnr"]
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
        """Return a denoiser that applies `denoise` to one image at a time.

        The deviation of the noise is estimated from each image. If the estimate is 0, the image stays as it is.
        """

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
