"""Health of a code, measured over all images of a validation or test split. A sick code gets one warning."""

import io
import logging
import math
from typing import Any

import matplotlib.pyplot as plt
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from aelab.callbacks.pictures import show
from aelab.data.loader import Batch
from aelab.models.base import perplexity

log = logging.getLogger(__name__)

EARLY = 500  # steps, before which no code is called ill
LEAST = 0.1  # nats, below which a level of a hierarchy counts as dead


class Health(Callback):
    """Logs how a code is used, and warns if most of it carries nothing.

    Numbers of a vector code:

    - `active_units`: number of units whose variance over images is above 0.01. For a variational code this is the
      variance of the posterior mean (Burda, Grosse & Salakhutdinov, 2016, section 5.4);
    - `active_share`: share of units that are on, averaged over images;
    - `dead_units`: number of units that are on for no image.

    The last two need a model that says which units are on (`active`). A variational code has a picture too:
    `kl_per_unit`, the mean KL of each unit over the images of a validation. A hierarchy has `kl_per_level` beside it.

    Numbers of codebooks:

    - `perplexity`: exp of the entropy of the use of entries, averaged over codebooks. If the entries of a codebook are
      used equally often, it is their number;
    - `used_entries`, `used_share`: number and share of entries that are used at least once;
    - `bits`: length of the code of an image, if each index is written with log2 of the number of its values.

    One warning is logged if a posterior collapsed, if a level of a hierarchy says less than 0.1 nats, if more than half
    of the units are dead, or if fewer than a tenth of the entries are used. No warning comes before step 500, because a
    code may wake up late. `folder` is where pictures go. If it is None, no picture is drawn.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self.sums: dict[str, Tensor] = {}
        self.warned = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sums = {}

    on_test_epoch_start = on_validation_epoch_start

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not batch.weight:
            return
        code = outputs["code"]
        new = {"images": torch.tensor(float(batch.x.shape[0]), device=batch.x.device)}
        if "indices" in code:
            new["uses"] = pl_module.uses(code["indices"])
        if "z" in code:
            z = code["z"].double()
            new |= {"z": z.sum(0), "squares": z.square().sum(0)}
        new |= {name: code[name].double().sum(0) for name in ("kl", "kl_per_level", "on") if name in code}
        self.sums = {name: value + self.sums.get(name, 0) for name, value in new.items()}

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sums: dict[str, Any] = {name: trainer.strategy.reduce(v, reduce_op="sum") for name, v in self.sums.items()}
        numbers, illness = (_of_codebook if "uses" in sums else _of_units)(sums)
        split = "test" if trainer.testing else "val"
        pl_module.log_dict({f"{split}/{name}": value for name, value in numbers.items()})
        if "kl" in sums and self.folder and trainer.is_global_zero and split == "val":
            units = (sums["kl"] / sums["images"]).sort(descending=True).values
            show(trainer, self.folder, "kl_per_unit", _bars(units, "units of the code, sorted"))
            if "kl_per_level" in sums:
                levels = _bars(sums["kl_per_level"] / sums["images"], "levels, the lowest first")
                show(trainer, self.folder, "kl_per_level", levels)
        if illness and not self.warned and trainer.global_step >= EARLY:
            self.warned = True
            log.warning(illness)

    on_test_epoch_end = on_validation_epoch_end


def _of_codebook(sums: dict[str, Any]) -> tuple[dict[str, float], str]:
    """Return the numbers of codebooks, and the warning about them. The warning is empty if they are healthy."""
    uses = sums["uses"]
    used, entries = int((uses > 0).sum()), uses.numel()
    illness = ""
    if used < 0.1 * entries:
        illness = (
            f"the codebook died: {used} of its {entries} entries are used; lower codebook.revive_after or "
            "codebook.size, or type codebook=fsq, which has no entries to lose"
        )
    numbers = {
        "perplexity": float(perplexity(uses)),
        "used_entries": float(used),
        "used_share": used / entries,
        "bits": float(uses.sum() / sums["images"]) * math.log2(uses.shape[1]),
    }
    return numbers, illness


def _of_units(sums: dict[str, Any]) -> tuple[dict[str, float], str]:
    """Return the numbers of a vector code, and the warning about it. The warning is empty if the code is healthy."""
    n, illness = sums["images"], ""
    variance = sums["squares"] / n - (sums["z"] / n).square()
    numbers = {"active_units": float((variance > 0.01).sum())}
    if "on" in sums:
        dead, units = int((sums["on"] == 0).sum()), len(sums["on"])
        numbers |= {"active_share": float((sums["on"] / n).mean()), "dead_units": float(dead)}
        if dead > units / 2:
            illness = (
                f"{dead} of {units} units of the code are on for no image and carry nothing: weigh sparsity less, or "
                "train longer"
            )
    if "kl" in sums and numbers["active_units"] == 0:
        illness = (
            "the posterior collapsed: no unit of the code changes with the image, so the decoder ignores it; lower the "
            "weight of the KL, or let it rise slowly (+schedule@model.beta=linear)"
        )
    elif "kl_per_level" in sums and (dead_levels := (sums["kl_per_level"] / n < LEAST).nonzero() + 1).numel():
        illness = (
            f"of the levels of the code, the lowest first, {', '.join(map(str, dead_levels.flatten().tolist()))} died: "
            f"their KL is below {LEAST} nats; let its weight rise slowly (+schedule@model.beta=linear)"
        )
    return numbers, illness


def _bars(values: Tensor, label: str) -> Image.Image:
    """Draw one bar of KL per value."""
    heights = values.tolist()
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.bar(range(1, len(heights) + 1), heights)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=label, ylabel="KL in nats")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    plt.close(figure)
    return Image.open(file)
