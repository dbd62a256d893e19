"""A research template for autoencoders on PyTorch Lightning and Hydra.

In a notebook, `aelab.load("logs/<name>/<run>")` returns a trained model in eval mode, and
`aelab.predict("logs/<name>/<run>", "files", "output")` writes what it makes of new files.
"""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING

# An OpenMP thread that waits for work spins. Two runs on one machine then take each other's cores: an epoch of MNIST
# that takes 1.4 s alone takes 30 s and more. 1000 spins are enough for a run alone and harmless beside another. libgomp
# reads the variable when torch loads it, and child processes inherit it, so it is set here, before any import of torch.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"

if TYPE_CHECKING:
    from aelab.composition.trained import load as load
    from aelab.training.prediction import predict_files as predict

__all__ = ["load", "predict"]
__version__ = version("aelab")


def __getattr__(name: str) -> object:
    # torch takes seconds to import and `ae --help` does not need it, so these are imported when they are first used.
    if name == "load":
        from aelab.composition.trained import load

        return load
    if name == "predict":
        from aelab.training.prediction import predict_files

        return predict_files
    raise AttributeError(f"module 'aelab' has no attribute {name!r}")
