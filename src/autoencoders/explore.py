"""`ae explore run=DIR`: one page, without network or server, to walk through the codes of a trained model."""

import base64
import html
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from autoencoders.errors import UserError
from autoencoders.figures import PALETTE, POINTS
from autoencoders.metrics.base import Subject
from autoencoders.run import Run

STEPS = 32  # decoded images on each side of a plane; between them the page blends the nearest four
REACH = 3.0  # deviations from the centre of a plane to its edge
UNITS = 3  # that vary most, of which each pair has a plane

log = logging.getLogger(__name__)


@torch.no_grad()
def explore(run: Run, units: Sequence[int] | None = None, checkpoint: str = "best", root: str | None = None) -> Path:
    """Write `explore.html` into the run's folder, and return its path.

    Its planes: of two units of the code, the given ones or those that vary most; and of the first three principal axes.
    A conditional model has one of those a class. Raises UserError for a model whose code is not a vector of two units
    or more, and for units that it does not have.
    """
    subject = Subject.of(run, checkpoint, root)
    if subject.model.spatial or subject.model.latent_dim < 2:
        raise UserError("explore walks in a plane of the code, which must be a vector of two units or more")
    z, y = (values[:POINTS].numpy() for values in subject.codes("test"))
    if units is not None and (len(set(units)) != 2 or not set(units) <= set(range(z.shape[1]))):
        raise UserError(f"units={list(units)} must be two of the units 0 … {z.shape[1] - 1}: type units=[0,1]")
    classes = subject.data.num_classes if subject.model.conditional else None
    data = {
        "planes": [
            _plane(subject, name, z, centre, axes, label) for name, centre, axes, label in _planes(z, units, classes)
        ],
        "labels": y.tolist(),
        "steps": STEPS,
        "reach": REACH,
        "shape": list(subject.data.shape),
        "palette": [to_hex(colour) for colour in PALETTE],
    }
    pictures = "".join(
        f'<figure><img src="{_uri(path.read_bytes())}"><figcaption>{html.escape(path.stem)}</figcaption></figure>'
        for path in sorted((run.folder / "figures").glob("*.png"))
    )
    parts = {
        "TITLE": html.escape("/".join(run.folder.parts[-2:])),
        "METRICS": "".join(f"<tr><td>{html.escape(k)}</td><td>{v:.6g}</td></tr>" for k, v in run.metrics.items()),
        "PICTURES": pictures or "None yet: type ae visualize.",
        "CONFIG": html.escape((run.folder / "config.yaml").read_text()),
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }
    page = (files("autoencoders") / "explore.html").read_text()
    path = run.folder / "explore.html"
    path.write_text(re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], page))
    log.info("%s", os.path.relpath(path))
    return path


def _planes(
    z: NDArray[np.float32], units: Sequence[int] | None, classes: int | None
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any], int | None]]:
    """Name, centre (D,), two axes (2, D) of a deviation each, and label of each plane."""
    deviations = z.std(0)
    pca = PCA(min(3, z.shape[1]), random_state=0).fit(z)
    principal = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    for label in [None] if classes is None else range(classes):
        named = "" if label is None else f", class {label}"
        for a, b in combinations(range(len(principal)), 2) if classes is None else [(0, 1)]:
            yield f"principal axes {a + 1} and {b + 1}{named}", pca.mean_, principal[[a, b]], label
    most = sorted(np.argsort(-deviations)[:UNITS].tolist())
    for a, b in [units] if units is not None else combinations(most, 2):
        yield f"units {a} and {b}{named}", z.mean(0), np.diag(deviations)[[a, b]], label


def _plane(
    subject: Subject, name: str, z: NDArray[np.float32], centre: NDArray[Any], axes: NDArray[Any], label: int | None
) -> dict[str, Any]:
    """The decoded plane as one picture, row by row from below, and where the test codes lie on it, in deviations."""
    steps = np.linspace(-REACH, REACH, STEPS)
    points = np.stack([centre + s * axes[0] + t * axes[1] for t in steps for s in steps]).astype(np.float32)
    images = []
    for part in torch.from_numpy(points).to(subject.device).split(256):
        images.append(subject.model.decode(part, torch.full((len(part),), label or 0, device=subject.device)).cpu())
    decoded = torch.cat(images)
    shown = decoded if decoded.shape[1] in (1, 3) else decoded.mean(1, keepdim=True)
    file = io.BytesIO()
    to_pil_image(make_grid(shown, nrow=STEPS, padding=0)).save(file, format="png")
    where = (z - centre) @ np.linalg.pinv(axes)
    return {"name": name, "label": label, "points": np.round(where, 3).tolist(), "sheet": _uri(file.getvalue())}


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
