"""The page of `ae explore`, on which one walks through the codes of a model. It needs no network and no server."""

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

from aelab.atomic import write_text
from aelab.composition.trained import Place, Trained
from aelab.errors import UserError
from aelab.figures.codes import POINTS
from aelab.figures.sheet import PALETTE
from aelab.runs.run import Run

STEPS = 32  # decoded images on each side of a plane. Between them the page blends the nearest four
PIXELS = 250_000  # of a plane of other data than images, whose pictures are larger: it has fewer steps, 8 at least
REACH = 3.0  # deviations from the centre of a plane to its edge
UNITS = 3  # number of units that are shown, those that vary most. Each pair of them has a plane

log = logging.getLogger(__name__)


@torch.no_grad()
def explore(run: Run, units: Sequence[int] | None = None, checkpoint: str = "best", root: str | None = None) -> Path:
    """Write `explore.html` into the run's folder, and return its path.

    The page of other data than the run was trained on, or of another checkpoint than its final one, lies beside the
    figures of that place.

    The page shows planes of principal axes and planes of units. The principal axes are each pair of the first three, or
    for a conditional model the first two, once per class. The units are the given two, or each pair of the three that
    vary most. For a conditional model, planes of units are decoded with the last class.

    Raises UserError for a model whose code is not a vector of two units or more, and for units that it does not have.
    """
    trained = Trained.of(run, checkpoint, root)
    place = Place.of(run, trained.data, checkpoint)
    if len(trained.model.code_shape) > 1 or trained.model.latent_dim < 2:
        raise UserError("explore walks in a plane of the code, which must be a vector of two units or more")
    z, y = (values[:POINTS].numpy() for values in trained.codes("test"))
    if units is not None and (len(set(units)) != 2 or not set(units) <= set(range(z.shape[1]))):
        raise UserError(f"units={list(units)} must be two of the units 0 … {z.shape[1] - 1}: type units=[0,1]")
    classes = trained.data.num_classes if trained.model.conditional else None
    data = {
        "planes": [
            _plane(trained, name, z, centre, axes, label) for name, centre, axes, label in _planes(z, units, classes)
        ],
        "labels": y.tolist(),
        "names": [html.escape(trained.data.name_of(label)) for label in range(trained.data.num_classes or 0)],
        "steps": _steps(trained),
        "reach": REACH,
        "shape": list(trained.data.shape),
        "palette": [to_hex(colour) for colour in PALETTE],
    }
    pictures = "".join(
        f'<figure><img src="{_uri(path.read_bytes())}"><figcaption>{html.escape(path.stem)}</figcaption></figure>'
        for path in sorted((run.folder / "figures" / place.name).glob("*.png"))
    )
    parts = {
        "TITLE": html.escape("/".join(run.folder.parts[-2:])),
        "METRICS": "".join(
            f"<tr><td>{html.escape(k)}</td><td>{v:.6g}</td></tr>" for k, v in place.metrics(run).items()
        ),
        "PICTURES": pictures or "None yet: type ae visualize.",
        "CONFIG": html.escape((run.folder / "config.yaml").read_text(encoding="utf-8")),
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }
    page = (files("aelab.figures") / "explore.html").read_text(encoding="utf-8")
    path = (run.folder / "figures" / place.name if place.name else run.folder) / "explore.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], page))
    log.info("%s", os.path.relpath(path))
    return path


def _planes(
    z: NDArray[np.float32], units: Sequence[int] | None, classes: int | None
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any], int | None]]:
    """Yield name, centre (D,), two axes (2, D) of one deviation each, and label of each plane."""
    deviations = z.std(0)
    pca = PCA(min(3, *z.shape), random_state=0).fit(z)
    principal = pca.components_ * np.sqrt(pca.explained_variance_)[:, None]
    most = sorted(np.argsort(-deviations)[:UNITS].tolist())
    # A conditional model has one plane of each kind per class.
    pairs_of_axes = list(combinations(range(len(principal)), 2))[: None if classes is None else 1]
    pairs_of_units = list(combinations(most, 2))[: None if classes is None else 1]
    for label in [None] if classes is None else range(classes):
        named = "" if label is None else f", class {label}"
        for a, b in pairs_of_axes:
            yield f"principal axes {a + 1} and {b + 1}{named}", pca.mean_, principal[[a, b]], label
        for a, b in [units] if units is not None else pairs_of_units:
            yield f"units {a} and {b}{named}", z.mean(0), np.diag(deviations)[[a, b]], label


def _steps(trained: Trained) -> int:
    """Return the number of decoded pictures on each side of a plane."""
    if len(trained.data.shape) == 3:
        return STEPS
    height, width = trained.data.pictures(trained.images("test")[0][:1]).shape[2:]
    return min(max(int((PIXELS / (height * width)) ** 0.5), 8), STEPS)


def _plane(
    trained: Trained, name: str, z: NDArray[np.float32], centre: NDArray[Any], axes: NDArray[Any], label: int | None
) -> dict[str, Any]:
    """Return the decoded plane as one picture, and the places of the test codes on it.

    The lowest row of the plane is the first of the picture. Places are in deviations from the centre.
    """
    n = _steps(trained)
    steps = np.linspace(-REACH, REACH, n)
    points = np.stack([centre + s * axes[0] + t * axes[1] for t in steps for s in steps]).astype(np.float32)
    images = []
    for part in torch.from_numpy(points).to(trained.device).split(256):
        images.append(trained.model.decode(part, torch.full((len(part),), label or 0, device=trained.device)).cpu())
    file = io.BytesIO()
    to_pil_image(make_grid(trained.data.pictures(torch.cat(images)), nrow=n, padding=0)).save(file, format="png")
    where = (z - centre) @ np.linalg.pinv(axes)
    return {"name": name, "label": label, "points": np.round(where, 3).tolist(), "sheet": _uri(file.getvalue())}


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
