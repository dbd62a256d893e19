"""`ae visualize run=DIR`: every picture of a trained run, as PNG and PDF in its `figures/`, and in TensorBoard."""

import inspect
import logging
from collections.abc import Sequence

import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.functional import pil_to_tensor

from autoencoders import figures
from autoencoders.errors import UserError, did_you_mean
from autoencoders.metrics.base import Subject, Unsupported
from autoencoders.run import Run

log = logging.getLogger(__name__)


def pictures() -> list[str]:
    """The pictures there are: every public function of `figures` that takes a subject and a run."""
    return [
        name
        for name, f in vars(figures).items()
        if inspect.isfunction(f) and list(inspect.signature(f).parameters) == ["subject", "run"]
    ]


@torch.no_grad()
def visualize(
    run: Run, names: Sequence[str] | None = None, checkpoint: str = "best", root: str | None = None
) -> list[str]:
    """Draw the pictures with these names, or all that this run supports; return those that were drawn.

    Raises UserError for a name that there is not, and for one asked for that the run does not support.
    """
    for name in names or []:
        if name not in pictures():
            raise UserError(f"no picture '{name}'{did_you_mean(name, pictures())} (there are {', '.join(pictures())})")
    subject = Subject.of(run, checkpoint, root)
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    drawn = []
    with SummaryWriter(str(run.folder / "tensorboard")) as writer:
        for name in names or pictures():
            try:
                figure = getattr(figures, name)(subject, run)
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
            _projector(subject, writer)
    return drawn


def _projector(subject: Subject, writer: SummaryWriter) -> None:
    """Codes with labels and a sprite each, for TensorBoard's projector."""
    z, y = subject.codes("test")
    x = subject.images("test")[0]
    x = x.mean(1, keepdim=True).expand(-1, 3, -1, -1) if x.shape[1] != 3 else x
    n = min(len(z), figures.POINTS)
    writer.add_embedding(z[:n], y[:n].tolist(), x[:n], tag="codes")
