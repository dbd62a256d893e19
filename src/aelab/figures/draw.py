"""The list of figures of a trained run, and how they are written."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import pil_to_tensor

from aelab.composition.trained import Trained
from aelab.errors import Unsupported, UserError, did_you_mean
from aelab.figures import codes, curves, images
from aelab.runs.run import Run

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
def draw(run: Run, names: Sequence[str] | None = None, checkpoint: str = "best", root: str | None = None) -> list[str]:
    """Draw the figures with these names, or all that the run supports, and return the names of those drawn.

    Each is written as PNG and PDF into `figures/`, and to TensorBoard. Raises UserError for a name that does not exist,
    and for a figure in `names` that the run does not support.
    """
    known = figures()
    for name in names or []:
        if name not in known:
            raise UserError(f"no figure '{name}'{did_you_mean(name, known)} (there are {', '.join(known)})")
    trained = Trained.of(run, checkpoint, root)
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    drawn = []
    with SummaryWriter(str(run.folder / "tensorboard")) as writer:
        for name in names or known:
            try:
                figure = known[name](trained, run)
            except Unsupported as reason:
                if names:
                    raise
                log.info("no %s: %s", name, reason)
                continue
            for kind in ("png", "pdf"):
                figure.savefig(folder / f"{name}.{kind}", dpi=150, bbox_inches="tight")
            writer.add_image(f"visualize/{name}", pil_to_tensor(Image.open(folder / f"{name}.png").convert("RGB")))
            drawn.append(name)
            log.info("%s", folder / f"{name}.png")
        if not names:
            _projector(trained, writer)
    return drawn


def _projector(trained: Trained, writer: SummaryWriter) -> None:
    """Write codes for TensorBoard's projector, each with its label and a picture."""
    z, y = trained.codes("test")
    n = min(len(z), codes.POINTS)
    pictures = trained.data.pictures(trained.images("test")[0][:n])
    writer.add_embedding(z[:n], y[:n].tolist(), pictures, tag="codes")
