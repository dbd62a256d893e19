"""A research template for autoencoders on PyTorch Lightning and Hydra.

In a notebook, `autoencoders.load("logs/<name>/<run>")` gives a trained model in eval mode.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoencoders.run import load as load

__all__ = ["load"]
__version__ = version("autoencoders")


def __getattr__(name: str) -> object:
    # torch takes seconds to import, so `ae --help` must not: `load` arrives when it is asked for.
    if name == "load":
        from autoencoders.run import load

        return load
    raise AttributeError(f"module 'autoencoders' has no attribute {name!r}")
