"""What `ae doctor` finds: the state of data, and what codes of some lengths hold of them. Nothing is read of the test
split but which of its data stand in the training split too.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from aelab.composition import build
from aelab.composition.trained import Trained
from aelab.data.base import DataModule
from aelab.data.loader import Split
from aelab.errors import UserError
from aelab.metrics.pca import PCA
from aelab.metrics.representation import linear_probe
from aelab.noise import NoNoise
from aelab.runs.run import Run
from aelab.runs.sweep import Sweep

DATA = 10_000  # at most this many training data are looked at, except for duplicates
STEPS = 10  # whose mean time says how long an epoch takes
ENOUGH = 0.95  # of what the longest code explains


@dataclass
class Patient:
    """Data, the training data (N, D), the validation data (M, D) with their labels, and the seconds of an epoch."""

    data: DataModule
    train: Tensor
    y: Tensor
    val: Tensor
    y_val: Tensor
    seconds: float

    @classmethod
    def of(cls, config: DictConfig) -> Self:
        """Read data and time some steps. Raises UserError for tokens, of which no variance is explained."""
        if config.data.domain == "tokens":
            raise UserError("ae doctor measures explained variance, and tokens have none: type data=… of numbers")
        data = build.data(config)
        data.setup()
        (train, y), (val, y_val) = (_all(data, split, DATA) for split in ("train", "val"))
        return cls(data, train, y, val, y_val, _epoch(config, data))

    def findings(self) -> Iterator[str]:
        """Yield a line for each thing that was looked at."""
        data, x = self.data, self.train
        sizes = " / ".join(f"{data.size(split)} {split}" for split in ("train", "val", "test"))
        yield f"data    {'×'.join(map(str, data.shape))}: {sizes}"
        missing = int(x.isnan().sum())
        low, high = float(x.nan_to_num(0).min()), float(x.nan_to_num(0).max())
        yield f"range   {low:.4g} to {high:.4g}, mean {float(x.nanmean()):.4g}" + (
            f"; {missing} numbers are missing" if missing else ""
        )
        if data.domain == "unit" and high - low < 0.2:
            yield f"warning the data use {high - low:.2g} of the range from 0 to 1: scale them"
        filled = x.nan_to_num(0)
        constant = int((filled.amax(0) == filled.amin(0)).sum())
        yield f"fixed   {constant} of {x.shape[1]} numbers never change in {len(x)} training data"
        if constant == x.shape[1]:
            raise UserError("all training data are equal: there is nothing to learn")
        rows = {split: _rows(data, split) for split in ("train", "val", "test")}
        first = set(rows["train"])
        twice = len(rows["train"]) - len(first)
        both = {split: sum(row in first for row in rows[split]) for split in ("val", "test")}
        yield f"twice   {twice} training data stand there twice" + "".join(
            f", {n} of {len(rows[split])} {split} data stand in training too" for split, n in both.items()
        )
        if both["test"]:
            yield "warning test data that were trained on make every number of the test split too good"
        yield from self.classes()
        yield f"epoch   {-(-data.size('train') // data.batch_size)} steps, about {self.seconds:.2g} s here"

    def classes(self) -> Iterator[str]:
        """Yield how many data the classes have."""
        if not self.labelled:
            yield "classes none"
            return
        found, counts = self.y.unique(return_counts=True)
        least, most = int(counts.argmin()), int(counts.argmax())
        yield (
            f"classes {len(found)}, of {int(counts[least])} ({self.data.name_of(int(found[least]))}) to "
            f"{int(counts[most])} ({self.data.name_of(int(found[most]))}) of {len(self.y)} training data"
        )
        if counts[most] > 10 * counts[least]:
            yield "warning the classes are unequal: accuracies say little of the rare ones"

    @property
    def labelled(self) -> bool:
        """Whether there are labels of two classes or more."""
        return not self.y.is_floating_point() and len(self.y.unique()) > 1

    def show(self, sweep: Sweep) -> None:
        """Print what the codes of a ladder hold, and which length to take."""
        runs = [Run(sweep.folder / job) for job in sweep.jobs]
        found = sorted((self.measured(run) for run in runs), key=lambda row: row["length"])
        spectrum = self.spectrum(found[-1]["length"])
        columns = ["explained variance", "by PCA", "active units", *(["probe"] if self.labelled else [])]
        table = Table(Column("code", justify="right"), *(Column(name, justify="right") for name in columns))
        for row in found:
            cells = [f"{row['explained']:.3f}", f"{spectrum[row['length'] - 1]:.3f}", f"{row['active']:.0f}"]
            table.add_row(str(row["length"]), *cells, *([f"{row['probe']:.3f}"] if self.labelled else []))
        Console().print(table)
        print(f"Of {len(self.val)} validation data, without noise. Runs: {sweep.folder}")
        print(recommendation(found, spectrum))

    def measured(self, run: Run) -> dict[str, Any]:
        """Return what a run's code of the validation data holds."""
        trained = Trained.of(run)
        x, shown = self.val, []
        with torch.no_grad():
            for batch in self.data.in_order("val", trained.device, NoNoise()):
                shown.append(trained.model.reconstruct(batch).flatten(1).cpu())
        z, y = trained.codes("train", DATA)
        z_val, y_val = trained.codes("val")
        row = {"length": trained.model.latent_dim, "explained": self.explained(torch.cat(shown), x)}
        row["active"] = float((z_val.var(0, correction=0) > 0.01).sum())
        if self.labelled:
            row["probe"] = linear_probe(z.numpy(), y.numpy(), z_val.numpy(), y_val.numpy())
        return row

    def explained(self, shown: Tensor, x: Tensor) -> float:
        """Return 1 - |x - shown|² / |x - mean|², over data (N, D), with the mean of the training data."""
        around = (x - self.train.nanmean(0)).square().nansum()
        return 1 - float((x - shown).square().nansum() / around)

    def spectrum(self, most: int) -> list[float]:
        """Return what 1 to `most` principal components of the training data explain of the validation data."""
        pca = PCA(self.train, most).fitted
        centred = self.val.nan_to_num(0).numpy() - pca.mean_
        shares = np.square(centred @ pca.components_.T).sum(0) / np.square(centred).sum()
        return np.concatenate([shares, np.zeros(most - len(shares))]).cumsum().tolist()  # type: ignore[no-any-return]


def recommendation(found: list[dict[str, Any]], spectrum: list[float]) -> str:
    """Return which length to take, and why. `found` is sorted by length."""
    best = max(row["explained"] for row in found)
    if best <= 0:
        return "take    none: no code explains anything yet: give a longer budget=MINUTES, or another net"
    row = next(row for row in found if row["explained"] >= ENOUGH * best)
    length, active = int(row["length"]), int(row["active"])
    reason = (
        f"it explains {row['explained']:.3f} of the variance, {row['explained'] / best:.0%} of the most, {best:.3f}"
    )
    if active < length:
        reason += f"; {active} of its units are active"
    needs = next((n for n, share in enumerate(spectrum, 1) if share >= row["explained"]), None)
    reason += f"; PCA needs {needs or f'more than {len(spectrum)}'} numbers for as much"
    if len(found) > 1 and found[-1]["explained"] - found[-2]["explained"] > 0.02:
        reason += f"; a code longer than {int(found[-1]['length'])} may explain more: type lengths=[…]"
    if spectrum[length - 1] > row["explained"] + 0.01:
        reason += "; PCA explains more with as many, so train longer (budget=…)"
    return f"take    model.latent_dim={length}: {reason}"


def _all(data: DataModule, split: Split, limit: int | None = None) -> tuple[Tensor, Tensor]:
    batches = list(data.in_order(split, torch.device("cpu"), NoNoise(), limit))
    return torch.cat([batch.x.flatten(1) for batch in batches]), torch.cat([batch.y for batch in batches])


def _rows(data: DataModule, split: Split) -> list[bytes]:
    """Return a hash of each datum of a split."""
    batches = data.in_order(split, torch.device("cpu"), NoNoise())
    rows = (row for batch in batches for row in batch.x.flatten(1).numpy())
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def _epoch(config: DictConfig, data: DataModule) -> float:
    """Return how many seconds an epoch of training takes, by the mean of some steps."""
    model = build.model(config)
    model.attach(data)
    optimizer = torch.optim.Adam(model.parameters())
    took = []
    loader = data.batches("train")
    for _, batch in zip(range(STEPS + 1), loader, strict=False):
        start = time.perf_counter()
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
        took.append(time.perf_counter() - start)
    return float(np.mean(took[1:] or took)) * -(-data.size("train") // data.batch_size)
