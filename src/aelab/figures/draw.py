"""The list of figures of a trained run, and how they are written."""

import inspect
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import pil_to_tensor

from aelab.composition.trained import Place, Trained
from aelab.errors import Unsupported, UserError, did_you_mean
from aelab.figures import codes, curves, images
from aelab.runs.run import Run

SYNONYMS = {  # names that people look for
    "tsne": "latent_2d",
    "t_sne": "latent_2d",
    "umap": "latent_2d",
    "pca": "latent_2d",
    "latent": "latent_2d",
    "samples": "priors",
    "interpolation": "interpolations",
    "traversal": "traversals",
    "reconstruction": "reconstructions",
    "anomalies": "strangest",
}
SPRITE = 8192  # pixels a side, at most, of the projector's sheet of pictures

log = logging.getLogger(__name__)


def figures() -> dict[str, Callable[[Trained, Run], Figure]]:
    """Return the figures by name: every public function of this package that takes a trained model and its run.

    Each figure raises Unsupported if the model or the run does not have what it shows.
    """
    functions = {name: f for module in (images, codes, curves) for name, f in vars(module).items()}
    wanted: dict[str, Any] = {
        name: f
        for name, f in functions.items()
        if inspect.isfunction(f) and list(inspect.signature(f).parameters) == ["trained", "run"]
    }
    return wanted


@torch.no_grad()
def draw(
    run: Run,
    names: Sequence[str] | None = None,
    checkpoint: str = "best",
    root: str | None = None,
    images: Sequence[int] | None = None,
) -> list[str]:
    """Draw the figures with these names, or all that the run supports, and return the names of those drawn.

    Each is written as PNG and PDF into `figures/`, and to TensorBoard. Figures of other data than the run was trained
    on, or of another checkpoint than its final one, have a folder of their own there. `images` are indices of the test
    images that are shown.

    A figure that fails keeps no other from being drawn. Its error is raised after them. Raises UserError for a name
    that does not exist, and for a figure in `names` that the run does not support.
    """
    known = figures()
    names = names and list(dict.fromkeys(SYNONYMS.get(name.lower(), name) for name in names))
    for name in names or []:
        if name not in known:
            hint = did_you_mean(name, [*known, *SYNONYMS])
            raise UserError(f"no figure '{name}'{hint} (there are {', '.join(known)})")
    trained = Trained.of(run, checkpoint, root)
    trained.shown = list(images) if images else None
    place = Place.of(run, trained.data, checkpoint).name
    folder = run.folder / "figures" / place
    folder.mkdir(parents=True, exist_ok=True)
    drawn, failed = [], None
    with SummaryWriter(str(run.folder / "tensorboard")) as writer:
        for name in names or known:
            try:
                figure = known[name](trained, run)
            except Unsupported as reason:
                if names:
                    raise
                log.info("no %s: %s", name, reason)
                continue
            except UserError:
                raise
            except Exception as error:
                log.error("no %s: it failed (%s)", name, error)
                failed = failed or error
                continue
            for kind in ("png", "pdf"):
                figure.savefig(folder / f"{name}.{kind}", dpi=150, bbox_inches="tight")
            writer.add_image(
                f"visualize/{place}/{name}".replace("//", "/"),
                pil_to_tensor(Image.open(folder / f"{name}.png").convert("RGB")),
            )
            drawn.append(name)
            log.info("%s", folder / f"{name}.png")
        if not names:
            _projector(trained, writer)
    if failed:
        raise failed
    return drawn


def _projector(trained: Trained, writer: SummaryWriter) -> None:
    """Write codes for TensorBoard's projector, each with its class and a picture.

    The projector takes square pictures, on a sheet of at most 8192 pixels a side. So others are padded with white, and
    large ones are scaled down.
    """
    z, y = trained.codes("test")
    n = min(len(z), codes.POINTS)
    pictures = trained.data.pictures(trained.images("test")[0][:n])
    height, width = pictures.shape[2:]
    side, largest = max(height, width), SPRITE // math.ceil(math.sqrt(n))
    right, down = side - width, side - height
    pictures = F.pad(pictures, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0)
    if side > largest:
        pictures = F.interpolate(pictures, size=(largest, largest), mode="area")
    labels = [str(one) if y.is_floating_point() else trained.data.name_of(one) for one in y[:n].tolist()]
    writer.add_embedding(z[:n], labels, pictures, tag="codes")
