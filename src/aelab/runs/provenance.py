"""Where a result comes from: the commit of the code that runs, and the versions of the packages it depends on."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGES = ("aelab", "torch", "torchvision", "lightning", "hydra-core", "omegaconf")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()}


def git_state() -> dict[str, Any]:
    """Return the commit, and whether the working tree differs from it. Both are None outside a repository."""
    status = _git("status", "--porcelain")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def git_diff() -> str:
    """Return how the working tree differs from its commit."""
    return f"{_git('status', '--porcelain')}\n\n{_git('diff', 'HEAD')}\n"


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", Path(__file__).parent, *words],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def data_changes(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how the data differs from what a manifest says of it: images per split, and classes."""
    then = manifest.get("dataset")
    if then is None:
        return "the fingerprint differs"
    counts = (
        (split, sum(then["images"][split].values()), sum(now["images"][split].values())) for split in now["images"]
    )
    changes = [f"{split} {before} images, now {after}" for split, before, after in counts if before != after]
    new, gone = (set(a["classes"]) - set(b["classes"]) for a, b in ((now, then), (then, now)))
    changes += [f"new classes {', '.join(sorted(new))}"] * bool(new) + [f"no classes {', '.join(sorted(gone))}"] * bool(
        gone
    )
    return "; ".join(changes) or "as many images, but not the same"
