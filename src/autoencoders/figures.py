"""The pictures of `ae visualize`, each a function of a trained model and its run; its name is what the user types.

Raises Unsupported where the model, or the run, does not have what a picture shows.
"""

import csv
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib import color_sequences, colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn

from autoencoders import randomness
from autoencoders.metrics.base import Subject, Unsupported
from autoencoders.run import Run
from autoencoders.samplers import GMM, KDE, Autoregressive, Gaussian, Sampler

COLUMNS = 10
POINTS = 2000  # of a scatter
PALETTE = color_sequences["petroff10"]  # told apart by colour-blind readers (Petroff, 2021, arXiv:2107.02270)


def reconstructions(subject: Subject, run: Run) -> Figure:
    """Clean image, what the encoder saw, reconstruction, and each pixel's error (red: too bright, blue: too dark)."""
    batch = next(subject.batches("test"))
    seen, x, y = batch.seen[:COLUMNS], batch.x[:COLUMNS], batch.y[:COLUMNS]
    image = subject.model(seen, y)
    error = (image - x).mean(1, keepdim=True)
    return sheet([x, seen.clamp(0, 1), image, error], ["clean", "seen", "reconstruction", "error"])


def latent_2d(subject: Subject, run: Run) -> Figure:
    """Codes of test images by label: the two units of greatest variance, PCA, t-SNE, and UMAP if it is installed."""
    z, y = _codes(subject)
    if z.shape[1] < 2:
        raise Unsupported("a code of one unit has no plane")
    first, second = np.argsort(-z.var(0))[:2]
    panels = {(f"unit {first}", f"unit {second}"): z[:, [first, second]]}
    if z.shape[1] > 2:
        panels["1st principal axis", "2nd principal axis"] = PCA(2, random_state=0).fit_transform(z)
        panels["t-SNE", ""] = TSNE(2, random_state=0, init="pca").fit_transform(z)
        try:
            from umap import UMAP

            panels["UMAP", ""] = UMAP(random_state=0).fit_transform(z)
        except ImportError:
            pass
    figure = Figure(figsize=(4.5 * len(panels) + 0.8, 4.2), layout="constrained")
    for index, ((xlabel, ylabel), points) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        _scatter(axes, points, y)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if not ylabel:
            axes.set(xticks=[], yticks=[])  # only who is whose neighbour means something
    figure.legend(*axes.get_legend_handles_labels(), title="label", loc="outside right center", markerscale=3)
    return figure


def latent_3d(subject: Subject, run: Run) -> Figure:
    """Codes of test images on their first three principal axes, coloured by label."""
    z, y = _codes(subject)
    if z.shape[1] < 3:
        raise Unsupported("a code of fewer than three units has no space")
    figure = Figure(figsize=(7.5, 5.5))
    axes: Any = figure.add_subplot(projection="3d")
    _scatter(axes, PCA(3, random_state=0).fit_transform(z), y)
    axes.set(xlabel="1st principal axis", ylabel="2nd principal axis", zlabel="3rd principal axis")
    figure.legend(*axes.get_legend_handles_labels(), title="label", loc="center right", markerscale=3)
    return figure


def manifold(subject: Subject, run: Run) -> Figure:
    """The decoded plane of a code: its two units, or the two principal axes of a longer one, over ±2 deviations."""
    _vector(subject)
    z, n = _codes(subject)[0], 15
    centre, axes = plane(z)
    steps = np.linspace(-2, 2, n)
    points = np.stack([centre + a * axes[0] + b * axes[1] for b in steps[::-1] for a in steps])
    return sheet(_decode(subject, points).split(n), xlabel="-2 … 2 deviations, both ways", scale=0.4)


def interpolations(subject: Subject, run: Run) -> Figure:
    """Between pairs of test images: along a line (odd rows), and along an arc between the codes (even rows)."""
    _vector(subject)
    x, y = subject.images("test")
    z = subject.codes("test")[0]
    rows = []
    for a, b in pairwise(range(5)):
        for path in (_line, _arc):
            points = np.stack([path(z[a].numpy(), z[b].numpy(), t) for t in np.linspace(0, 1, COLUMNS)])
            middle = _decode(subject, points, y[[a] * (COLUMNS // 2) + [b] * (COLUMNS - COLUMNS // 2)])
            rows.append(torch.cat([x[[a]], middle.cpu(), x[[b]]]))
    return sheet(rows, [kind for _ in range(4) for kind in ("line", "arc")])


def traversals(subject: Subject, run: Run) -> Figure:
    """One row a unit, the most varying first, at most 16: it goes over ±2 deviations, the others stay at an image's."""
    _vector(subject)
    z, y = subject.codes("test")[0].numpy(), subject.images("test")[1]
    deviation = z.std(0)
    rows, units = [], np.argsort(-deviation)[:16]
    for unit in units:
        points = np.repeat(z[:1], COLUMNS, 0)
        points[:, unit] = z[:, unit].mean() + np.linspace(-2, 2, COLUMNS) * deviation[unit]
        rows.append(_decode(subject, points, y[[0] * COLUMNS]))
    return sheet(rows, [f"unit {unit}" for unit in units], "-2 … 2 deviations of the unit")


def priors(subject: Subject, run: Run) -> Figure:
    """Draws from the model's prior, of a conditional model a column a class; and from densities fitted to its codes."""
    rows, labels = [], []
    if subject.model.generative:
        randomness.seed(subject.device, "pictures")
        classes = min(subject.data.num_classes or COLUMNS, COLUMNS)
        y = torch.arange(4 * COLUMNS, device=subject.device) % COLUMNS % classes
        rows += subject.model.sample(4 * COLUMNS, y).split(COLUMNS)
        labels += ["prior", *[""] * 3]
    fitted: dict[str, Sampler] = {
        "normal": Gaussian(),
        "10 normals": GMM(10),
        "KDE": KDE(),
        "GRU": Autoregressive(128, 5),
    }
    for name, sampler in fitted.items():
        try:
            rows += sampler(subject, 2 * COLUMNS).split(COLUMNS)
            labels += [name, ""]
        except Unsupported:
            continue
    return sheet(rows, labels)


def filters(subject: Subject, run: Run) -> Figure:
    """The first layer: what each unit looks for, as an image (a linear layer) or a kernel (a convolution)."""
    layers = [m for m in subject.model.encoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    channels, height, width = subject.data.shape
    weight = layers[0].weight.detach()
    if isinstance(layers[0], nn.Linear):
        if weight.shape[1] % (height * width):
            raise Unsupported("the first layer does not see a whole image")
        weight = weight.view(len(weight), -1, height, width)
    images = weight[:100, :channels].mean(1, keepdim=True)
    images = images / images.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return sheet(images.split(COLUMNS))


def learning_curves(subject: Subject, run: Run) -> Figure:
    """Every term that has a mean over the epoch, in training and validation."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        raise Unsupported("the run has no metrics.csv: train with logger=[csv]")
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                split, _, term = name.partition("/")
                if value and split in ("train", "val") and term not in ("images",):
                    curves.setdefault(term, {}).setdefault(split, []).append((float(row["step"]), float(value)))
    columns = 3
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    for index, (term, splits) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_prop_cycle(color=PALETTE[:2], linestyle=["-", "--"])
        for split, points in splits.items():
            axes.plot(*zip(*points, strict=True), label=split, marker="." if len(points) < 20 else "")
        axes.set(ylabel=term, xlabel="step")
        axes.legend()
    return figure


def robustness(subject: Subject, run: Run) -> Figure:
    """The curves of `ae evaluate metrics=[robustness]`: psnr by severity, of the model and of classical denoisers."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for key, value in run.metrics.items():
        if key.startswith("robustness/"):
            noise, severity, kind = key.split("/")[1:]
            curves.setdefault(noise, {}).setdefault(kind, []).append((float(severity), value))
    if not curves:
        raise Unsupported(f"there are no curves yet: type ae evaluate run={run.folder} metrics=[robustness]")
    figure = Figure(figsize=(3.6 * len(curves) + 1, 3.6), layout="constrained")
    for index, (noise, kinds) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), index + 1)
        axes.set_prop_cycle(color=PALETTE[:8], marker=list("os^vDPX*"))
        for kind, points in kinds.items():
            axes.plot(*zip(*sorted(points), strict=True), label=kind, linewidth=3 if kind == "model" else 1.5)
        axes.set(title=noise, xlabel="severity", ylabel="psnr in dB")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def strangest(subject: Subject, run: Run) -> Figure:
    """The test images with the least and the greatest squared error, each above its reconstruction."""
    x, images = subject.images("test")[0], subject.reconstructions("test")[0]
    order = (images - x).square().flatten(1).sum(1).argsort()
    least, most = order[:COLUMNS], order.flip(0)[:COLUMNS]
    return sheet([x[least], images[least], x[most], images[most]], ["least error", "", "greatest error", ""])


def plane(z: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centre (D,) of codes and two axes (2, D), each one deviation long: the units of a 2-D code, else PCA's."""
    if z.shape[1] == 2:
        return z.mean(0), np.diag(z.std(0))
    pca = PCA(2, random_state=0).fit(z)
    return pca.mean_, pca.components_ * np.sqrt(pca.explained_variance_)[:, None]


def _scatter(axes: Any, points: NDArray[Any], y: NDArray[np.int64]) -> None:
    """Points (N, 2) or (N, 3), a colour a label; in the plane the label also stands at the middle of its points."""
    for label in np.unique(y):
        own = points[y == label]
        axes.scatter(*own.T, color=PALETTE[label % len(PALETTE)], s=4, label=str(label))
        if points.shape[1] == 2:
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axes.text(*np.median(own, axis=0), str(label), ha="center", va="center", bbox=box)


def _decode(subject: Subject, points: NDArray[Any], labels: Tensor | None = None) -> Tensor:
    z = torch.from_numpy(np.asarray(points, dtype=np.float32)).to(subject.device)
    y = torch.zeros(len(z), dtype=torch.long) if labels is None else labels
    return subject.model.decode(z, y.to(subject.device))


def _codes(subject: Subject) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    z, y = subject.codes("test")
    return z[:POINTS].numpy(), y[:POINTS].numpy()


def _vector(subject: Subject) -> None:
    if subject.model.spatial or subject.model.latent_dim < 2:
        raise Unsupported("this needs a code that is a vector of two units or more")


def _line(a: NDArray[Any], b: NDArray[Any], t: float) -> NDArray[Any]:
    return (1 - t) * a + t * b


def _arc(a: NDArray[Any], b: NDArray[Any], t: float) -> NDArray[Any]:
    """Spherical interpolation (Shoemake, 1985): at a constant angular speed."""
    cosine = a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-6:
        return _line(a, b, t)
    return np.asarray((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle))


def sheet(rows: Sequence[Tensor], labels: Sequence[str] = (), xlabel: str = "", scale: float = 0.7) -> Figure:
    """Rows of images (N, C, H, W) in [0, 1], each with its label; a row with negative values is one of differences."""
    height, width = rows[0].shape[2:]
    columns = max(len(row) for row in rows)
    gap = max(height // 16, 1)
    canvas = np.ones((len(rows) * (height + gap), columns * (width + gap), 3))
    for i, row in enumerate(rows):
        for j, image in enumerate(_colours(row)):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    figure = Figure(figsize=(scale * columns, scale * len(rows) * height / width))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas[:-gap, :-gap], interpolation="nearest")
    axes.spines[:].set_visible(False)
    centres = np.arange(len(rows)) * (height + gap) + height / 2
    axes.set_yticks(centres[: len(labels)], labels, fontsize=8)
    axes.set_xticks([])
    axes.set_xlabel(xlabel, fontsize=8)
    axes.tick_params(length=0)
    return figure


def _colours(images: Tensor) -> NDArray[np.float64]:
    """(N, C, H, W) -> (N, H, W, 3) in [0, 1]."""
    x = images.detach().cpu().double()
    if (x < 0).any():
        return np.asarray(colormaps["RdBu_r"]((x.mean(1).numpy() + 1) / 2)[..., :3])
    x = x if x.shape[1] == 3 else x.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return np.asarray(x.clamp(0, 1).movedim(1, -1).numpy())
