"""The mistakes that a user can mend, and the words that help to mend them."""

import os
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"  # as the user set it: `cli` sets it later for Hydra


class UserError(Exception):
    """A mistake that the user can mend. `ae` prints its text as one line, without a traceback."""


class Unsupported(UserError):
    """The user asked for something that this model, or this data, does not have.

    `ae evaluate` and `ae visualize` leave it out with its text as the reason. They raise it if the user asked for it
    by name.
    """


EXTRAS = {  # of pyproject.toml, by what they bring
    "optuna": "sweep",
    "torch_fidelity": "metrics",
    "skimage": "metrics",
    "umap": "metrics",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "safetensors": "export",
    "pyarrow": "export",
    "nibabel": "volumes",
    "mlflow": "track",
    "wandb": "track",
}


def require(package: str, what: str, otherwise: str = "") -> None:
    """Raise UserError if `what` needs a package that is not installed. `otherwise` is how to do without it."""
    if find_spec(package) is None:
        line = f"{what} needs {package}: pip install -e '.[{EXTRAS[package]}]'"
        raise UserError(f"{line}, or {otherwise}" if otherwise else line)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'vae'?` for `vea`, and an empty string if no known word is near."""
    by_letters = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_letters, n=1, cutoff=0.6)
    return f", did you mean '{by_letters[near[0]]}'?" if near else ""
