"""Kills runs of every model by SIGKILL at random steps, goes on with them, and compares with runs that were not killed.

    python scripts/kill.py [--times 5] [vae aae ...] [data=mnist data.root=data trainer.max_epochs=3 ...]

Prints one line per model. The exit code is 1 if a weight or a number differs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from aelab.composition.compose import configs
from aelab.runs.run import Run
from aelab.runs.sweep import seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how often each model is killed")
    parser.add_argument("words", nargs="*", help="models, all by default, and key=value for `ae train`")
    arguments, more = parser.parse_known_args()  # argparse takes words behind an option for unknown
    overrides = [word for word in (*arguments.words, *more) if "=" in word or word.startswith("~")]
    models = [word for word in (*arguments.words, *more) if word not in overrides]
    same = True
    with tempfile.TemporaryDirectory() as folder:
        for model in models or sorted(path.stem for path in (configs() / "model").glob("*.yaml")):
            words = [f"model={model}", *overrides]
            whole, cut = (Path(folder) / f"{model}_{name}" for name in ("whole", "cut"))
            train(words, whole).wait()
            took = seconds(Run(whole).manifest) or 1.0
            for _ in range(arguments.times):
                starts = count(cut)
                process = train(words, cut)
                while process.poll() is None and count(cut) == starts:  # the process is still importing
                    time.sleep(0.02)
                time.sleep(random.uniform(0, took / arguments.times))
                process.kill()
                process.wait()
            train(words, cut).wait()
            equal = is_same(Run(whole), Run(cut))
            same &= equal
            print(f"{model:12} {count(cut)} starts  {'same' if equal else 'DIFFERENT'}", flush=True)
    sys.exit(not same)


def train(words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "aelab", "train", *words, f"hydra.run.dir={folder}", "name=kill"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def count(folder: Path) -> int:
    """Return how often a run was started."""
    return len(Run(folder).manifest.get("starts", [])) if (folder / "config.yaml").exists() else 0


def is_same(a: Run, b: Run) -> bool:
    """Return whether every weight, bit for bit, and every number of two runs are the same."""
    files = [[run.checkpoint(which) for which in ("best", "last")] for run in (a, b)]
    states = [[torch.load(path, weights_only=True)["state_dict"] for path in paths] for paths in files]
    pairs = zip(*states, strict=True)
    return a.metrics == b.metrics and all(torch.equal(p[key], q[key]) for p, q in pairs for key in p)


if __name__ == "__main__":
    main()
