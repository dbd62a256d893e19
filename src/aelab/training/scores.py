"""Whether a run will have the number that its sweep asks for. A search that ends without it has searched nothing."""

from omegaconf import DictConfig

from aelab.composition import build
from aelab.data.base import DataModule
from aelab.errors import UserError, did_you_mean
from aelab.training.evaluation import evaluator

ALWAYS = "val/loss"


def check(config: DictConfig, data: DataModule) -> None:
    """Raise UserError if `score` names a number that the run will not log, or one of the test split.

    One batch of validation says which numbers there are. `data` was set up.
    """
    wanted = [config.score] if isinstance(config.score, str) else list(config.score)
    known: set[str] = set()
    for name in wanted:
        group, _, inner = name.partition("/")
        stage = group in (config.get("stages") or {})
        if name == ALWAYS or (stage and not inner.startswith("test/")):
            continue
        if group == "test" or stage or group in config.get("metrics", {}):
            raise UserError(f"score={name} is a number of the test split, which selects nothing: type score=val/…")
        known = known or names(config, data)
        if name not in known:
            there = ", ".join(sorted(known))
            raise UserError(f"score={name} is no number of this run{did_you_mean(name, known)} (there are {there})")


def names(config: DictConfig, data: DataModule) -> set[str]:
    """Return the names of the numbers that each epoch logs, of training and of validation."""
    model = build.model(config)
    model.attach(data)
    trainer = evaluator(model, accelerator="cpu", limit_val_batches=1)
    trainer.validate(model, datamodule=data, verbose=False)
    with_images = set(trainer.callback_metrics) - {"val/images"}
    with model.remembering():
        terms = model.loss(next(iter(data.val_dataloader())))
    return with_images | {f"train/{name}" for name in terms}
