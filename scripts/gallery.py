"""Makes docs/gallery.md from sweeps over models: what each made of the same ten digits, its line, its loss, its time.

    ae train -m name=gallery data=mnist trainer.max_epochs=3 model=ae,dae,…
    ae train -m name=denoiser data=mnist trainer.max_epochs=3 model=denoiser 'net.channels=[8,16,16]'
    python scripts/gallery.py logs/gallery logs/denoiser

It draws docs/gallery/MODEL.png, and docs/zoo.png with one row of reconstructions a model. The loss of a model is that
in docs/models.md.
"""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import torch

from aelab.composition.trained import Trained
from aelab.figures.sheet import COLUMNS, sheet
from aelab.runs.run import Run
from aelab.runs.sweep import Sweep, seconds, settings

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """\
# Gallery

For who looks for an objective: what each model made of the first ten test digits of MNIST after three epochs, in codes
of its default length. Rows are the digits, what the encoder saw if noise was on them, the reconstruction, and samples
if the model has any. Times are of one thread of a 2-core machine beside another training; seed 0.
`python scripts/gallery.py` makes this page.
"""


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", help="folders of sweeps over models")
    sweeps = [Sweep(folder) for folder in parser.parse_args().sweeps]
    losses = dict(re.findall(r"^- \[`(\w+)`\]\([^)]+\): (.+) \((?:[^()]|\([^()]*\))+\)$", read("models.md"), re.M))
    text, strips, labels = HEAD, [], ["clean"]
    (DOCS / "gallery").mkdir(exist_ok=True)
    clean: Any = None
    for sweep, name, manifest in [(s, *item) for s in sweeps for item in s.manifests().items()]:
        if manifest["status"] != "done":
            print(f"{name} is {manifest['status']}, and left out")
            continue
        model, took = manifest["choices"]["model"], seconds(manifest)
        clean, shown = rows(Run(sweep.folder / name))
        sheet(list(shown.values()), list(shown)).savefig(DOCS / "gallery" / f"{model}.png", dpi=80, bbox_inches="tight")
        strips.append(shown["reconstructed"])
        labels.append(model)
        words = [word for word in settings(sweep.jobs[name]) if not word.startswith("logger=")]
        words.sort(key=lambda word: not word.startswith("model="))  # the model comes first
        line = f"ae train {shlex.join(words)}   # {took:.0f} s"
        picture = f"![digits, and what {model} made of them](gallery/{model}.png)"
        text += f"\n## {model}\n\nLoss: {losses[model]}.\n\n```bash\n{line}\n```\n\n{picture}\n"
    sheet([clean, *strips], labels).savefig(DOCS / "zoo.png", dpi=90, bbox_inches="tight")
    (DOCS / "gallery.md").write_text(text, encoding="utf-8")


def rows(run: Run) -> tuple[Any, dict[str, Any]]:
    """Return the digits, and the rows of a model's picture by name."""
    trained = Trained.of(run)
    batch = next(trained.batches("test")).map(lambda t: t[:COLUMNS])
    pictures = trained.data.pictures
    shown = {"clean": pictures(batch.x)}
    if not torch.equal(batch.seen, batch.x):
        shown["seen"] = pictures(batch.seen)
    shown["reconstructed"] = pictures(trained.model.reconstruct(batch))
    if trained.model.generative:
        torch.manual_seed(0)
        y = batch.y if trained.model.conditional else None
        shown["samples"] = pictures(trained.model.sample(COLUMNS, y))
    return shown["clean"], shown


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
