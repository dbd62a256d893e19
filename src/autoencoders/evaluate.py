"""`ae evaluate run=DIR`: the numbers of a trained run, from nothing but its folder."""

from collections.abc import Sequence

from lightning import Trainer
from rich.console import Console
from rich.table import Table

from autoencoders import build
from autoencoders.callbacks.averages import Averages
from autoencoders.callbacks.health import Health
from autoencoders.data.base import Images, Split
from autoencoders.run import Run


def evaluate(
    run: Run,
    splits: Sequence[Split],
    data: Images | None = None,
    checkpoint: str = "best",
    root: str | None = None,
) -> dict[str, float]:
    """Every term of the loss and every error of the images, by `split/name`, over each image exactly once.

    Always one process on one device, whatever trained the run, and the same draws: twice gives the same numbers.
    `root`: where the data lies now, if it moved.
    """
    config = run.config
    if root is not None:
        config.data.root = root
    model = run.load_model(checkpoint)
    data = data or build.data(config)
    trainer = Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        precision=config.trainer.precision,
        inference_mode=False,  # a contractive model differentiates in evaluation too
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[Averages(), Health(folder=None)],
    )
    metrics: dict[str, float] = {}
    for split in splits:
        verb = trainer.validate if split == "val" else trainer.test
        verb(model, datamodule=data, verbose=False)
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        seen, size = metrics[f"{split}/images"], data.size(split)
        if seen != size:
            raise RuntimeError(f"the evaluation saw {seen:.0f} images of a {split} split of {size}")
    return metrics


def show(metrics: dict[str, float], title: str) -> None:
    """Print the numbers as a table: a row a quantity, a column a split."""
    splits = list(dict.fromkeys(name.split("/")[0] for name in metrics))
    table = Table("", *splits, title=title)
    for quantity in dict.fromkeys(name.split("/", 1)[1] for name in metrics if "/" in name):
        values = (metrics.get(f"{split}/{quantity}") for split in splits)
        table.add_row(quantity, *("" if value is None else f"{value:.6g}" for value in values))
    Console().print(table)
