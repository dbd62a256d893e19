"""The encoder and the decoder of a trained run as files that other programs load."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aelab.atomic import replacing, write_text
from aelab.composition import build
from aelab.errors import UserError, require
from aelab.models.base import Autoencoder
from aelab.runs.run import Run

TOLERANCE = 1e-4
BATCHES = (1, 7)  # of the check; neither is the batch that is traced

Inputs = tuple[Tensor, ...]


class Encode(nn.Module):
    """Images (B, C, H, W) in [0, 1], and labels (B,) of a conditional model, to codes (B, *code_shape)."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.model.encode(x, y)


class Decode(nn.Module):
    """Codes (B, *code_shape), and labels (B,) of a conditional model, to images (B, C, H, W) in [0, 1]."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.model.decode(z, y)


def export(
    run: Run,
    format: Literal["torch_export", "onnx", "safetensors"],
    output: str | Path | None = None,
    checkpoint: str = "best",
) -> Path:
    """Write `encode` and `decode` with a dynamic batch, and return their folder.

    A model that decodes no codes has `reconstruct` instead of `decode`.

    - `torch_export`: encode.pt2 and decode.pt2, for `torch.export.load(path).module()`;
    - `onnx`: encode.onnx and decode.onnx, for onnxruntime;
    - `safetensors`: model.safetensors, the weights by their names in the model.

    `export.json` says shapes, range and classes. Raises UserError if what was written differs by more than 1e-4 from
    the model on one of two sizes of a batch, or if a package is missing.
    """
    model = build.trained_autoencoder(run, checkpoint).float().requires_grad_(False)
    shape, classes = list(run.config.data.shape), run.manifest.get("dataset", {}).get("classes", [])
    folder = Path(output) if output else run.folder / "export" / format
    folder.mkdir(parents=True, exist_ok=True)
    labels = {"y": ["batch"]} if model.conditional else {}
    images = {"x": ["batch", *shape]} | labels
    parts: list[tuple[str, nn.Module, Sequence[int]]] = [("encode", Encode(model), shape)]
    parts += [("decode", Decode(model), model.code_shape)] if model.decodes else [("reconstruct", model, shape)]
    about = {
        "format": format,
        "checkpoint": checkpoint,
        "step": build.step_of(run, checkpoint),
        "model": run.manifest.get("choices", {}).get("model"),
        "encode": images,
        **({"decode": {"z": ["batch", *model.code_shape]} | labels} if model.decodes else {"reconstruct": images}),
        **_units(run, checkpoint),
        "classes": classes,
    }
    if format == "safetensors":
        _save_weights(model, folder / "model.safetensors")
    else:
        for name, part, size in parts:
            ids = int(run.config.data.vocabulary) if name != "decode" and run.config.data.domain == "tokens" else 0
            _save(part.eval(), name, list(size), len(classes) if model.conditional else 0, ids, folder, format)
    write_text(folder / "export.json", json.dumps(about, indent=2) + "\n")
    return folder


def _units(run: Run, checkpoint: str) -> dict[str, Any]:
    """Return what the numbers of a datum are, and how they are made of those that are stored."""
    domain = run.config.data.domain
    if domain == "unit":
        return {"range": [0, 1], "normalisation": "uint8 / 255"}
    kept = build.restore(build.data(run.config), run, checkpoint).state_dict()
    plain = {name: value.flatten().tolist() if isinstance(value, Tensor) else value for name, value in kept.items()}
    if domain == "tokens":
        return {"range": "ids", "normalisation": "ids of data.level", "vocabulary": plain["known"]}
    return {"range": "real", "normalisation": "(x - mean) / deviation of each channel"} | plain


def _inputs(batch: int, size: list[int], classes: int, vocabulary: int = 0) -> Inputs:
    g = torch.Generator().manual_seed(batch)
    x = torch.randint(vocabulary, (batch, *size), generator=g) if vocabulary else torch.rand(batch, *size, generator=g)
    return (x, torch.randint(classes, (batch,), generator=g)) if classes else (x,)


def _save(part: nn.Module, name: str, size: list[int], classes: int, ids: int, folder: Path, format: str) -> None:
    """Trace a part, write it, read it again and compare."""
    inputs = _inputs(3, size, classes, ids)
    dynamic = tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs)
    path = folder / f"{name}.{'pt2' if format == 'torch_export' else 'onnx'}"
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(part, inputs, dynamic_shapes=dynamic, strict=False)
            if format == "torch_export":
                with replacing(path) as file:
                    torch.export.save(program, file)
            else:
                for package in ("onnx", "onnxscript", "onnxruntime"):
                    require(package, "format=onnx", "type format=torch_export")
                written = torch.onnx.export(program, dynamo=True, external_data=False)
                assert written is not None
                with replacing(path) as file:
                    file.write(written.model_proto.SerializeToString())
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{name} cannot be exported as {format} ({reason}): type another format=…") from error
        run = _torch(path) if format == "torch_export" else _onnx(path)
        for batch in BATCHES:
            inputs = _inputs(batch, size, classes, ids)
            difference = float((part(*inputs) - run(inputs)).abs().max())
            if not difference <= TOLERANCE:
                path.unlink()
                raise UserError(f"the {name} of {path.name} differs by {difference:.2g} from the model on {batch} data")


def _torch(path: Path) -> Callable[[Inputs], Tensor]:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs)


def _onnx(path: Path) -> Callable[[Inputs], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Inputs) -> Tensor:
        fed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, fed)[0])

    return run


def _save_weights(model: Autoencoder, path: Path) -> None:
    require("safetensors", "format=safetensors")
    from safetensors.torch import load, save

    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    with replacing(path) as file:
        file.write(save(state))
    again = load(path.read_bytes())
    if again.keys() != state.keys() or not all(torch.equal(again[name], value) for name, value in state.items()):
        raise UserError(f"{path} does not hold the weights that were written")


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Keep what exporters say of their progress off the screen. Errors are raised."""
    level = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
