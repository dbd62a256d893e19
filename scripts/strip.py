"""Draws one row of reconstructions per run, all of the same test images, to compare runs at a glance.

python scripts/strip.py logs/zoo/model=* --output docs/zoo.png
"""

import argparse
from pathlib import Path

import torch

from aelab.composition.trained import Trained
from aelab.figures.sheet import COLUMNS, sheet
from aelab.runs.run import Run


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders that share their data")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows, labels = [], ["clean"]
    for run in map(Run, arguments.runs):
        trained = Trained.of(run)
        batch = next(trained.batches("test")).map(lambda t: t[:COLUMNS])
        rows.append(trained.data.pictures(trained.model.reconstruct(batch)))
        labels.append(run.manifest["choices"]["model"])
    sheet([trained.data.pictures(batch.x), *rows], labels).savefig(arguments.output, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
