"""Figures of codes. They show where codes lie, and what is decoded between and around them."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.errors import Unsupported
from aelab.figures.sheet import COLUMNS, PALETTE, sheet
from aelab.metrics.disentanglement import known_share, mutual_information
from aelab.runs.run import Run

POINTS = 2000  # at most this many codes are in a scatter plot


@needs("pair")
def latent_2d(trained: Trained, run: Run) -> Figure:
    """Draw codes of test images, coloured by label.

    The panels are the two units of greatest variance, PCA, t-SNE, and UMAP if it is installed. A code of two units has
    only the first panel.
    """
    z, y = _codes(trained)
    if z.shape[1] < 2:
        raise Unsupported("the figure needs a code of two units or more")
    first, second = np.argsort(-z.var(0))[:2]
    panels = {(f"unit {first}", f"unit {second}"): z[:, [first, second]]}
    if z.shape[1] > 2:
        panels["1st principal axis", "2nd principal axis"] = PCA(2, random_state=0).fit_transform(z)
        panels["t-SNE", ""] = TSNE(2, random_state=0, init="pca", perplexity=min(30, (len(z) - 1) / 3)).fit_transform(z)
        try:
            from umap import UMAP

            panels["UMAP", ""] = UMAP(random_state=0, n_neighbors=min(15, len(z) - 1)).fit_transform(z)
        except ImportError:
            pass
    figure = Figure(figsize=(4.5 * len(panels) + 0.8, 4.2), layout="constrained")
    for index, ((xlabel, ylabel), points) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        _scatter(axes, points, y, trained.data.name_of)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if not ylabel:
            axes.set(xticks=[], yticks=[])  # neighbourhoods have a meaning, but coordinates have none
    figure.legend(*axes.get_legend_handles_labels(), title="label", loc="outside right center", markerscale=3)
    return figure


def latent_3d(trained: Trained, run: Run) -> Figure:
    """Draw codes of test images on their first three principal axes, coloured by label."""
    z, y = _codes(trained)
    if min(z.shape) < 3:
        raise Unsupported("the figure needs a code of at least three units, and three test images")
    figure = Figure(figsize=(7.5, 5.5))
    axes: Any = figure.add_subplot(projection="3d")
    _scatter(axes, PCA(3, random_state=0).fit_transform(z), y, trained.data.name_of)
    axes.set(xlabel="1st principal axis", ylabel="2nd principal axis", zlabel="3rd principal axis")
    figure.legend(*axes.get_legend_handles_labels(), title="label", loc="center right", markerscale=3)
    return figure


@needs("vector", "pair")
def manifold(trained: Trained, run: Run) -> Figure:
    """Draw what is decoded from a plane of codes, over ±2 deviations.

    The plane is that of the two units, or of the first two principal axes of a longer code.
    """
    z, n = _codes(trained)[0], 15
    centre, axes = plane(z)
    steps = np.linspace(-2, 2, n)
    points = np.stack([centre + a * axes[0] + b * axes[1] for b in steps[::-1] for a in steps])
    return sheet(_decode(trained, points).split(n), xlabel="-2 … 2 deviations, both ways", scale=0.4)


@needs("vector", "pair")
def interpolations(trained: Trained, run: Run) -> Figure:
    """Draw what is decoded between the codes of two test images, along a line (odd rows) and an arc (even rows).

    `images` of `ae visualize` are the images, in their order: two or more.
    """
    x, y = trained.images("test")
    x = trained.data.pictures(x)
    z = trained.codes("test")[0]
    chosen = trained.chosen(range(min(5, len(z))))
    if len(chosen) < 2:
        raise Unsupported("it leads from one test image to another: type images=[3,14]")
    rows = []
    for a, b in pairwise(chosen):
        for path in (_line, _arc):
            points = np.stack([path(z[a].numpy(), z[b].numpy(), t) for t in np.linspace(0, 1, COLUMNS)])
            middle = _decode(trained, points, y[[a] * (COLUMNS // 2) + [b] * (COLUMNS - COLUMNS // 2)])
            rows.append(torch.cat([x[[a]], middle, x[[b]]]))
    return sheet(rows, [kind for _ in range(len(rows) // 2) for kind in ("line", "arc")])


@needs("vector", "pair")
def traversals(trained: Trained, run: Run) -> Figure:
    """Draw one row per unit, for the 16 units of greatest variance.

    That unit moves from -2 to +2 standard deviations. All others keep the code of one test image. If the factors of the
    data are known, the rows are sorted by the factor of which a unit knows most, and say how much of it.
    """
    z, y = trained.codes("test")[0].numpy(), trained.images("test")[1]
    deviation = z.std(0)
    rows, units = [], np.argsort(-deviation)[:16].tolist()
    labels = [f"unit {unit}" for unit in units]
    if names := trained.data.factor_names:
        known = _known(trained)
        units = sorted(units, key=lambda unit: (known[unit].argmax(), -known[unit].max()))
        labels = [f"unit {unit}: {names[known[unit].argmax()]} {known[unit].max():.2f}" for unit in units]
    for unit in units:
        points = np.repeat(z[:1], COLUMNS, 0)
        points[:, unit] = z[:, unit].mean() + np.linspace(-2, 2, COLUMNS) * deviation[unit]
        rows.append(_decode(trained, points, y[[0] * COLUMNS]))
    return sheet(rows, labels, "-2 … 2 deviations of the unit")


@needs("vector", "factors")
def information(trained: Trained, run: Run) -> Figure:
    """Draw how much each unit knows of each factor: their mutual information, as a share of the factor's entropy."""
    known, names = _known(trained), trained.data.factor_names
    figure = Figure(figsize=(1.5 + 0.6 * len(names), 1.5 + 0.3 * len(known)), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(known, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(known)))
    axes.set(ylabel="unit")
    figure.colorbar(picture, label="information / entropy of the factor")
    return figure


def _known(trained: Trained) -> NDArray[np.float64]:
    """Return the mutual information of units and factors, as a share of the factor's entropy, (D, F)."""
    z, y = (values.double().numpy() for values in trained.codes("test", POINTS * 5))
    factors = y.astype(np.int64)
    return known_share(mutual_information(z, factors, 20), factors)


def plane(z: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centre (D,) of codes and two axes (2, D), each one deviation long.

    The axes are the two units, or the first two principal axes of a longer code.
    """
    if z.shape[1] == 2:
        return z.mean(0), np.diag(z.std(0))
    pca = PCA(2, random_state=0).fit(z)
    return pca.mean_, pca.components_ * np.sqrt(pca.explained_variance_)[:, None]


def _scatter(axes: Any, points: NDArray[Any], y: NDArray[np.int64], name_of: Callable[[int], str]) -> None:
    """Draw points (N, 2) or (N, 3), one colour per label. In the plane, the label's name is written at its median."""
    for label in np.unique(y):
        own = points[y == label]
        axes.scatter(*own.T, color=PALETTE[label % len(PALETTE)], s=4, label=name_of(label))
        if points.shape[1] == 2:
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axes.text(*np.median(own, axis=0), name_of(label), ha="center", va="center", bbox=box)


def _decode(trained: Trained, points: NDArray[Any], labels: Tensor | None = None) -> Tensor:
    z = torch.from_numpy(np.asarray(points, dtype=np.float32)).to(trained.device)
    y = torch.zeros(len(z), dtype=torch.long) if labels is None else labels
    return trained.data.pictures(trained.model.decode(z, y.to(trained.device))).cpu()


def _codes(trained: Trained) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    z, y = trained.codes("test")
    labels = torch.zeros(len(z), dtype=torch.long) if y.is_floating_point() else y  # attributes are no classes
    return z[:POINTS].numpy(), labels[:POINTS].numpy()


def _line(a: NDArray[Any], b: NDArray[Any], t: float) -> NDArray[Any]:
    return (1 - t) * a + t * b


def _arc(a: NDArray[Any], b: NDArray[Any], t: float) -> NDArray[Any]:
    """Return a point of the spherical interpolation (Shoemake, 1985), which has a constant angular speed."""
    cosine = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:
        return _line(a, b, t)
    return np.asarray((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))
