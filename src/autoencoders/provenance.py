"""Where a result comes from: the commit of the code that runs, and the versions of what it depends on."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("autoencoders", "torch", "torchvision", "lightning", "hydra-core", "omegaconf")


def versions() -> dict[str, str]:
    """Of the packages that a result depends on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()}


def code() -> dict[str, Any]:
    """The commit, and whether the tree differs from it; None outside a repository."""
    status = _git("status", "--porcelain")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def code_diff() -> str:
    """How the tree differs from its commit."""
    return f"{_git('status', '--porcelain')}\n\n{_git('diff', 'HEAD')}\n"


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", Path(__file__).parent, *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
