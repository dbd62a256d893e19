"""How well colours are given back, for models that colour grey images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.colours import AB, colourfulness, of_rgb
from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.noise import NoNoise
from aelab.ranges import Count

LEVELS = 256  # of luminance


@dataclass(frozen=True)
class Colour:
    """Colours of reconstructions of test images under the run's noise. Keys are NAME/SOURCE.

    NAME is

    - `ab_rmse`: root of the mean squared error of a and b of CIE L*a*b*, over both and over all pixels. It is in units
      of Lab. PSNR says nothing about colours: grey has the best one, and the worst of these errors;
    - `colourfulness`, per image: see `aelab.colours`.

    SOURCE is

    - `model`: the model's reconstruction;
    - `grey`: a = b = 0;
    - `mean`: the mean a and b of training images;
    - `luminance`: the mean a and b of the pixels of training images that have the same of 256 levels of luminance,
      which is the best that the luminance of a pixel alone tells;
    - `clean`: the image itself.

    At most `images` training images give the means, and None takes all.
    """

    images: Count | None

    @needs("colours")
    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        data = trained.data
        counts = torch.zeros(LEVELS, dtype=torch.double, device=trained.device)
        totals = torch.zeros(LEVELS, 2, dtype=torch.double, device=trained.device)
        for batch in trained.batches("train", NoNoise(), self.images):
            level, ab = _flat(of_rgb(data.restored(batch.x), "lab"))
            counts += torch.bincount(level, minlength=LEVELS)
            totals.index_add_(0, level, ab)
        mean = totals.sum(0) / counts.sum()
        at_level = torch.where(counts[:, None] > 0, totals / counts[:, None].clamp_min(1), mean)

        squares: dict[str, float] = {}
        full: dict[str, float] = {}
        pixels = images = 0
        for batch in trained.batches("test"):
            rgb, clean = data.restored(trained.model.reconstruct(batch)).clamp(0, 1), data.restored(batch.x)
            level, ab = _flat(of_rgb(clean, "lab"))
            shown = {
                "model": _flat(of_rgb(rgb, "lab"))[1],
                "grey": torch.zeros_like(ab),
                "mean": mean,
                "luminance": at_level[level],
            }
            for what, value in shown.items():
                squares[what] = squares.get(what, 0) + float((value - ab).square().sum())
            for what, image in {"model": rgb, "clean": clean}.items():
                full[what] = full.get(what, 0) + float(colourfulness(image).sum())
            pixels, images = pixels + ab.numel(), images + len(clean)
        result = {f"ab_rmse/{what}": (total / pixels) ** 0.5 for what, total in squares.items()}
        return result | {f"colourfulness/{what}": total / images for what, total in full.items()}


def _flat(lab: Tensor) -> tuple[Tensor, Tensor]:
    """Return the level of luminance (N,) of each pixel, and its a and b (N, 2) in units of Lab."""
    light, *ab = lab.movedim(1, 0).flatten(1).double().unbind(0)
    return (light * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1), (torch.stack(ab, 1) - 0.5) * AB
