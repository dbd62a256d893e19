"""Measures images per second of three training loops, which take turns in one process.

All have the same net, batch size and optimizer.

    hand        a hand-written loop over a tensor in memory, with which the others are compared
    ae          `ae train`'s own loop, with its core callbacks and default loggers
    template    torchvision images through a DataLoader, Lightning, and `self.log` at every step, as in
                lightning-hydra-template

    python scripts/benchmark.py --rounds 9 data=mnist data.root=data reconstruction=mse [trainer=gpu] [...]
    python scripts/benchmark.py --variant "model=cae" --variant "model=cae model.estimator=exact" [...]

With `--variant`, `ae train`'s own loop is timed with the model `ae` and with each variant. The ratio says how many
steps of `ae` take as long as one step of the variant.

Each loop trains two epochs per round, and the second one is timed. One time is that of its training steps. The other is
that of the whole epoch, from the end of the one before it. It has the validation, which the hand-written loop does too
and `template` does not, and the checkpoints, which only `ae` writes. The script prints medians, ranges and ratios.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchvision.transforms import functional as transforms

from aelab.composition import build
from aelab.composition.compose import compose
from aelab.data.base import DataModule
from aelab.data.images import Images
from aelab.data.loader import Batch, as_floats
from aelab.runs.log import start_log
from aelab.runs.run import Run
from aelab.training.fit import fit


@dataclass
class Seconds:
    """The seconds that the training steps of an epoch took, and that the epoch took with validation and checkpoints."""

    training: float = 0.0
    epoch: float = 0.0


class Clock(Checkpoint):  # Lightning calls subclasses of Checkpoint last, so the steps begin when this is called
    """Times the last epoch. It begins where the one before it ended, with the checkpoint between the two."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, Seconds()
        self.start = self.first_step = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.first_step = now(self.device)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_last_batch:
            self.seconds.training = now(self.device) - self.first_step

    def on_train_epoch_end(self, *_: Any) -> None:
        end = now(self.device)
        self.seconds.epoch, self.start = end - self.start, end


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def hand(config: DictConfig, data: DataModule, device: torch.device) -> Seconds:
    model = build.model(config).to(device)
    optimizer = model.optimizer(model.parameters())
    images, labels, indices = data.splits["train"]
    x_all, y_all = images[indices].to(device), labels[indices].to(device)  # type: ignore[index]
    val = data.splits["val"][0][data.splits["val"][2]].to(device)  # type: ignore[index]
    if x_all.dtype != torch.uint8:  # a hand-written loop standardises once
        x_all, val = (data.target(items, torch.Generator()) for items in (x_all, val))
    for _ in range(2):
        seconds, start, total = Seconds(), now(device), torch.zeros((), device=device)
        order = torch.randperm(len(x_all), device=device)
        for index in order.split(data.batch_size):
            x = as_floats(x_all[index])
            loss = model.loss(Batch(x, x, y_all[index]))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        seconds.training = now(device) - start
        model.eval()
        sums: Counter[str] = Counter()
        with torch.no_grad():
            for pixels in val.split(data.eval_batch_size):
                x = as_floats(pixels)
                z = model.encode(x)  # type: ignore[operator]
                out = model.out(z)  # type: ignore[operator]
                errors = data.errors(model.reconstruction.mean(out), x)  # type: ignore[operator]
                errors["loss"] = model.reconstruction.error(out, x)  # type: ignore[union-attr, operator]
                sums.update({name: float(value.sum()) for name, value in errors.items()})
        model.train()
        seconds.epoch = now(device) - start
    return seconds


def ae(config: DictConfig, data: DataModule, device: torch.device, choices: dict[str, Any]) -> Seconds:
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(Path(folder) / "run", config, choices)
        start_log(run.folder, quiet=True)
        clock = Clock(device)
        fit(run, data, callbacks=[clock])
    return clock.seconds


class Pictures(Dataset[tuple[Tensor, int]]):
    """Does what torchvision's data sets do: an array becomes a PIL image, and that becomes a float tensor."""

    def __init__(self, images: Any, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return transforms.to_tensor(transforms.to_pil_image(self.images[index])), int(self.labels[index])


class Module(LightningModule):
    """The body of lightning-hydra-template's module, with an autoencoder's loss."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.model = build.model(config)
        self.train_loss = MeanMetric()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = self.model.loss(Batch(x, x, y))["loss"]
        self.train_loss(loss)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return self.model.optimizer(self.parameters())


def template(config: DictConfig, data: DataModule, device: torch.device) -> Seconds:
    images, labels, indices = data.splits["train"]
    dataset = Pictures(images[indices], labels[indices])  # type: ignore[index]
    loader = DataLoader(dataset, data.batch_size, shuffle=True, num_workers=0)
    clock = Clock(device)
    trainer = Trainer(
        accelerator=config.trainer.accelerator,
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    trainer.fit(Module(config), loader)
    return clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="as for `ae train`; the model is ae, except with --variant")
    parser.add_argument("--variant", action="append", default=[], help="overrides in quotes; may be repeated")
    arguments = parser.parse_intermixed_args()
    warnings.filterwarnings("ignore")

    config, choices = compose("train", ["model=ae", *arguments.overrides, "trainer.max_epochs=2"])
    data = build.data(config)
    data.setup()
    device = torch.device("cpu" if config.trainer.accelerator == "cpu" else "cuda")
    loops = {
        "hand": lambda: hand(config, data, device),
        "ae": lambda: ae(config, data, device, choices),
        "template": lambda: template(config, data, device),  # of images only
    }
    if not isinstance(data, Images):
        del loops["template"]
    if arguments.variant:
        loops = {"ae": loops["ae"]}
    for variant in arguments.variant:
        other = compose("train", [*arguments.overrides, "trainer.max_epochs=2", *variant.split()])
        loops[variant] = partial(ae, other[0], data, device, other[1])
    images = data.size("train")
    rates: dict[str, dict[str, list[float]]] = {what: {name: [] for name in loops} for what in ("training", "epoch")}
    for number in range(arguments.rounds):
        for name in sorted(loops, reverse=number % 2 == 1):  # the order alternates, so that it favours no loop
            seconds = loops[name]()
            for what in rates:
                rates[what][name].append(images / getattr(seconds, what))
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{images} images, batch {data.batch_size}, {hardware}, torch {torch.__version__}, {arguments.rounds} rounds")
    for what, of in rates.items():
        print({"training": "training steps", "epoch": "whole epochs, validation included"}[what])
        for name, values in of.items():
            if what == "training" or name != "template":  # `template` does not validate
                spread = f"{min(values):10,.0f} … {max(values):,.0f}"
                print(f"  {name:9s} {statistics.median(values):10,.0f} images/s   {spread}")
        for name in loops:
            ratios = [a / b for a, b in zip(of["ae"], of[name], strict=True)]
            if name != "ae" and (what == "training" or name != "template"):
                print(f"  ae/{name:9s} {statistics.median(ratios):.3f}   {min(ratios):.2f} … {max(ratios):.2f}")


if __name__ == "__main__":
    main()
