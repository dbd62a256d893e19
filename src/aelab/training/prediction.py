"""What a trained model makes of new data: codes, reconstructions and scores, as files. No training data are needed."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import Subset
from torchvision.transforms.functional import to_pil_image

from aelab import randomness
from aelab.atomic import replacing, write_text
from aelab.composition import build
from aelab.composition.instantiate import build as instantiate
from aelab.data.base import DataModule
from aelab.data.image_files import Files, Unreadable
from aelab.data.images import Images
from aelab.data.layout import find
from aelab.data.loader import Batch, Items
from aelab.errors import UserError, require
from aelab.models.base import Autoencoder
from aelab.noise import Luminance, NoNoise
from aelab.runs.run import Run
from aelab.training.activations import Layer
from aelab.training.calibration import Calibration, distances, score

What = Literal["codes", "reconstructions", "scores"]
LOSSLESS = {".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".tga"}


@dataclass(frozen=True)
class Source:
    """What is predicted."""

    names: list[str]
    """Names of files below a folder, or `test/12` of a known source."""
    labels: list[str]
    """The class of each. It is the empty word where none is known."""
    pixels: Items


def predict(
    run: Run,
    output: str | Path,
    source: Source,
    what: Sequence[What] = ("codes", "reconstructions", "scores"),
    noise: Any = None,
    codes: str = "codes.npz",
    by: Literal["error", "distance"] = "error",
    quantile: float = 0.95,
    checkpoint: str = "best",
    layer: str | None = None,
) -> tuple[list[tuple[str, float, float, bool]], list[str]]:
    """Write what is predicted into `output`. Return the scores, worst first, and what is wrong with unreadable files.

    - `codes.npz`: names, codes (N, D), and labels if there are any. A name in .csv or .parquet makes a table. A name in
      .npy makes an array alone, with labels in a file beside it, as `data=arrays` reads it. With `layer`, codes are
      what the module of that name computes, flattened;
    - `reconstructions/`: images of the same names, without loss. A name in .jpg becomes one in .png. Other data are in
      one file: reconstructions.csv of a table, .txt of texts, .npy of all else;
    - `scores.csv`: name, score, threshold, anomaly, the greatest score first.

    What was done is kept in `.parts`. So the same call goes on where an earlier one was killed, and a later one
    computes new files only. Of a classifier there are codes alone. Raises UserError if `output` holds a prediction of
    another kind.
    """
    output, noise = Path(output), noise or NoNoise()
    if Path(codes).suffix not in (".npz", ".npy", ".csv", ".parquet"):
        raise UserError(f"codes={codes} ends in none of .npz, .npy, .csv, .parquet")
    model: Any = build.trained(run, checkpoint)
    if not isinstance(model, Autoencoder) and set(what) != {"codes"}:
        raise UserError(f"{run.folder} is a classifier, of which there are codes alone: type what=[codes]")
    recorded = Layer(model, layer) if layer is not None else None
    device = build.device_of(run.config)
    model.to(device)
    data = build.restore(build.data(run.config), run, checkpoint)
    pictures = isinstance(data, Images)
    completes = isinstance(model, Autoencoder) and model.completes
    if completes and isinstance(noise, NoNoise):
        noise = data.noise if isinstance(data.noise, Luminance) else noise  # grey pictures hide their colours
    if completes and isinstance(noise, NoNoise):
        raise UserError(f"{type(model).__name__} completes what is hidden: say what is, such as noise=quadrants")
    classes = run.manifest.get("dataset", {}).get("classes", [])
    if (
        isinstance(model, Autoencoder)
        and model.conditional
        and (unknown := [n for n, y in zip(source.names, source.labels, strict=True) if y not in classes])
    ):
        raise UserError(f"{type(model).__name__} needs labels, and {unknown[0]} is in no class folder of {classes}")
    calibration = Calibration.load(run) if "scores" in what else None
    _claim(output, run, what, noise, checkpoint, layer)

    done = {name for part in _parts(output) for name in part["names"].tolist()}
    todo = [index for index, name in enumerate(source.names) if name not in done]
    size = run.config.data.eval_batch_size
    targets, broken = _targets(source.names) if pictures else [], []
    chunks = [todo[i : i + size] for i in range(0, len(todo), size)]
    with ThreadPoolExecutor() as threads:
        for chunk in track(chunks, "predicting", console=Console(stderr=True), transient=True):
            read = list(threads.map(lambda index: _read(source.pixels, index), chunk))
            broken += [str(item) for item in read if isinstance(item, Unreadable)]
            rows = [index for index, item in zip(chunk, read, strict=True) if isinstance(item, Tensor)]
            if not rows:
                continue
            g = randomness.generator(device, "predict", source.names[rows[0]])
            pixels = torch.stack([item for item in read if isinstance(item, Tensor)])
            x = data.target(data.kept(pixels, "predict").to(device), g)
            known = [classes.index(source.labels[i]) if source.labels[i] in classes else 0 for i in rows]
            # Draws follow from the first name of a batch. So a call that goes on draws what one that was not cut draws.
            randomness.seed(device, "predict", source.names[rows[0]])
            seen, hidden = noise(x.nan_to_num(0) if data.domain == "real" else x, g)
            batch = Batch(seen, x, torch.tensor(known, device=device), hidden)
            parts: dict[str, Any] = {"names": np.array([source.names[i] for i in rows])}
            if isinstance(model, Autoencoder):
                z, shown, error = score(model, batch, data.domain)
                parts["error"] = error.numpy()
            else:
                with torch.no_grad():
                    z = (model if recorded else model.features)(batch.seen).float().cpu()
            parts["codes"] = (recorded.values() if recorded else z).numpy()
            if "reconstructions" in what and not pictures:
                parts["shown"] = shown.numpy()
            elif "reconstructions" in what:
                stored = data.restored(shown)
                jobs = ((output / "reconstructions" / targets[i], row) for i, row in zip(rows, stored, strict=True))
                list(threads.map(lambda job: _save(*job), jobs))
            number = len(list((output / ".parts").glob("*.npz")))
            with replacing(output / ".parts" / f"{number:06d}.npz") as file:
                np.savez(file, **parts)
    return _finish(output, source, what, codes, by, quantile, calibration, data), broken


def predict_files(
    folder: str | Path, root: str | Path, output: str | Path, trust: Sequence[str] = (), **more: Any
) -> list[tuple[str, float, float, bool]]:
    """Predict all that lies in `root` with the run in `folder`, as `ae predict` does, and return the scores.

    `more` are the keywords of `predict`. Raises UserError for a file that cannot be read, after all others are written.
    """
    run = Run(folder, trust)
    scores, broken = predict(run, output, unknown(run, str(root), Path(output)), **more)
    if broken:
        raise UserError(f"{len(broken)} files could not be read. The first: {broken[0]}")
    return scores


def unknown(run: Run, root: str, output: Path, resize: bool | None = None, checkpoint: str = "best") -> Source:
    """Return new data of a user, read as the run read its own: image files below a folder, or a file of numbers."""
    data = build.restore(build.data(run.config), run, checkpoint)
    if isinstance(data, Images):
        return files(run, root, output, resize)
    return Source(*data.new(root))


def files(run: Run, folder: str, output: Path, resize: bool | None = None) -> Source:
    """Return the image files below a folder, read as the run read its own unless `resize` says otherwise."""
    root = Path(folder).expanduser()
    if output.resolve().is_relative_to(root.resolve()):
        raise UserError(f"output={output} lies in data.root={folder}, whose files are read: type another output")
    own = run.config.data
    names = find(root).images
    if not names:
        raise UserError(f"{root} holds no image: type data.root=FOLDER with image files")
    resize = bool(own.get("resize", False)) if resize is None else resize
    pixels = Files(root, names, tuple(own.shape), resize, own.get("background", "black"), own.binarize == "threshold")
    return Source(names, [name.split("/")[-2] if "/" in name else "" for name in names], pixels)


def known(run: Run, data: DictConfig, split: Any, trust: Sequence[str]) -> Source:
    """Return a split of a source that the program knows, such as mnist."""
    built = instantiate(data, trust, noise=NoNoise(), seed=0)
    if list(built.shape) != list(run.config.data.shape):
        raise UserError(
            f"the run takes {list(run.config.data.shape)}, and this source has {list(built.shape)}: type data.shape=…"
        )
    built.setup()
    pixels, labels, indices = built.splits[split]
    names = [f"{split}/{index}" for index in indices.tolist()]
    rows: Items = Subset(pixels, indices.tolist())
    named = labels.ndim == 1  # several numbers, such as factors, are no class
    return Source(names, [built.name_of(y) if named else "" for y in labels[indices].tolist()], rows)


def _read(pixels: Items, index: int) -> Tensor | Unreadable:
    try:
        return pixels[index]
    except Unreadable as error:
        return error


def _save(path: Path, image: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture: Image.Image = to_pil_image((image.clamp(0, 1) * 255).round().to(torch.uint8))
    with replacing(path) as file:
        picture.save(file, format=Image.registered_extensions()[path.suffix.lower()])


def _targets(names: Sequence[str]) -> list[str]:
    """Return the name of the reconstruction of each file. No two are the same."""
    taken = set(names)
    targets = []
    for name in names:
        target = PurePosixPath(name)
        if target.suffix.lower() not in LOSSLESS:
            other = target.with_suffix(".png") if target.suffix.lower() in Image.registered_extensions() else target
            target = PurePosixPath(f"{name}.png") if other == target or str(other) in taken else other
        taken.add(str(target))
        targets.append(str(target))
    return targets


def _claim(output: Path, run: Run, what: Sequence[str], noise: Any, checkpoint: str, layer: str | None) -> None:
    """Say in `output` what is predicted there. Raises UserError if that is something else."""
    about = {
        "config": hashlib.sha256((run.folder / "config.yaml").read_bytes()).hexdigest()[:16],
        "checkpoint": checkpoint,
        "step": build.step_of(run, checkpoint),
        "what": sorted(what),
        "noise": repr(noise) if not isinstance(noise, NoNoise) else "none",
    } | ({"layer": layer} if layer is not None else {})
    path = output / "prediction.json"
    if path.is_file() and (then := json.loads(path.read_text(encoding="utf-8"))) != about:
        differs = ", ".join(key for key in about if then.get(key) != about[key])
        raise UserError(f"{output} holds another prediction ({differs}): type another output")
    write_text(path, json.dumps(about, indent=2) + "\n")
    (output / ".parts").mkdir(exist_ok=True)


def _parts(output: Path) -> list[dict[str, NDArray[Any]]]:
    parts = []
    for path in sorted((output / ".parts").glob("*.npz")):
        with np.load(path) as content:
            parts.append(dict(content))
    return parts


def _finish(
    output: Path,
    source: Source,
    what: Sequence[str],
    codes: str,
    by: str,
    quantile: float,
    calibration: Calibration | None,
    data: DataModule,
) -> list[tuple[str, float, float, bool]]:
    """Join the parts, in the order of the source, and write the tables."""
    parts = _parts(output)
    if not parts:
        return []
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    place = {name: row for row, name in enumerate(joined["names"].tolist())}
    there = [index for index, name in enumerate(source.names) if name in place]
    rows = [place[source.names[index]] for index in there]
    names, z = [source.names[index] for index in there], joined["codes"][rows]
    labels = [source.labels[index] for index in there]
    if "codes" in what:
        _write_codes(output / codes, names, z, labels if any(labels) else None)
    if "shown" in joined:
        data.write(output, names, torch.from_numpy(joined["shown"][rows]))
    if calibration is None:
        return []
    values = joined["error"][rows] if by == "error" else distances(torch.from_numpy(z), calibration.centres)
    threshold = calibration.threshold(by, quantile)
    order = np.argsort(-np.nan_to_num(values, nan=np.inf), kind="stable")
    scores = [(names[i], float(values[i]), threshold, not values[i] <= threshold) for i in order]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", by, "threshold", "anomaly"])
    table.writerows([name, repr(value), repr(limit), str(strange).lower()] for name, value, limit, strange in scores)
    write_text(output / "scores.csv", text.getvalue())
    return scores


def _write_codes(path: Path, names: list[str], z: NDArray[np.float32], labels: list[str] | None) -> None:
    columns: dict[str, Any] = {"name": names} | ({"label": labels} if labels else {})
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {"names": np.array(names), "codes": z}
        with replacing(path) as file:
            np.savez(file, **arrays | ({"labels": np.array(labels)} if labels else {}))
        return
    if path.suffix == ".npy":
        for file_name, values in ((path, z), (path.with_name(f"{path.stem}_labels.npy"), labels)):
            if values is not None:
                with replacing(file_name) as file:
                    np.save(file, np.asarray(values))
        return
    columns |= {f"z{unit}": z[:, unit] for unit in range(z.shape[1])}
    if path.suffix == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        table.writerows(zip(*columns.values(), strict=True))
        write_text(path, text.getvalue())
        return
    require("pyarrow", path.name, "type codes=codes.npz")
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(pa.table(columns), file)
