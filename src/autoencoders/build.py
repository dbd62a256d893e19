"""The one place that turns configs into objects: it alone calls Hydra's `instantiate`, with an allow-list.

What may be built comes from this program and from the user's own command line (`trust=[my_package]`), never from the
config that is loaded: a run folder from a stranger cannot name `os.system`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from autoencoders import randomness
from autoencoders.checkpoints import Atomic
from autoencoders.data.base import Images
from autoencoders.errors import UserError
from autoencoders.models.base import Autoencoder, Objective

TRUSTED = (
    "autoencoders.models",
    "autoencoders.classifier",
    "autoencoders.nets",
    "autoencoders.data",
    "autoencoders.noise",
    "autoencoders.reconstruction",
    "autoencoders.schedules",
    "autoencoders.optimizers",
    "autoencoders.callbacks",
    "autoencoders.metrics",
    "autoencoders.samplers",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.trainer.trainer",
    "torch.optim",
)


def model(config: DictConfig) -> Objective:
    """The model of a run, its weights drawn from the run's seed: an autoencoder, or a classifier on `encoders`."""
    trust = list(config.trust)
    randomness.seed(torch.device("cpu"), "init", config.seed)
    built: Objective
    if config.get("encoders"):
        encoders = [autoencoder(part, trust) for part in config.encoders]
        shape, num_classes = list(config.data.shape), config.data.num_classes
        built = build(config.model, trust, encoders=encoders, shape=shape, num_classes=num_classes)
    else:
        built = autoencoder(config, trust)
    built.optimizer = build(config.optimizer, trust)
    built.scheduler = build(config.scheduler, trust)
    built.seed = config.seed
    if config.compile:
        for part in built.children():
            part.compile()  # in place: no key of a checkpoint changes
    return built


def autoencoder(config: DictConfig, trust: Sequence[str]) -> Autoencoder:
    """Of `model`, `net` and `reconstruction`, which is all that it consists of."""
    net = build(config.net, trust)
    built: Autoencoder = build(config.model, trust, net=net, reconstruction=build(config.reconstruction, trust))
    if built.spatial != net.spatial:
        wants = "a map: net=spatial" if built.spatial else "a vector: net=mlp, or any other than spatial"
        raise UserError(f"the code of {type(built).__name__} is {wants}")
    return built


def data(config: DictConfig) -> Images:
    """The data module of a run."""
    trust = list(config.trust)
    built: Images = build(config.data, trust, noise=build(config.noise, trust), seed=config.seed)
    built.trust = trust
    return built


def trainer(config: DictConfig, extra: Sequence[Callback] = ()) -> Trainer:
    """The trainer of a run with its callbacks, `extra` ones, and loggers."""
    built: Trainer = build(
        config.trainer,
        list(config.trust),
        callbacks=[*_chosen(config, "callbacks").values(), *extra],
        logger=loggers(config),
        plugins=[Atomic()],
    )
    return built


def loggers(config: DictConfig) -> list[Logger]:
    return list(_chosen(config, "logger").values())


def metrics(config: DictConfig) -> dict[str, Any]:
    """The groups of metrics by name."""
    return _chosen(config, "metrics")


def _chosen(config: DictConfig, kind: str) -> dict[str, Any]:
    """Each part of a mapping, by name. Left out is one that is null, and one of which only values are stated: an
    experiment's, of a part that the command line did not choose."""
    parts = config.get(kind, {}).items()
    return {str(name): build(part, list(config.trust)) for name, part in parts if part and "_target_" in part}


def build(config: DictConfig | None, trust: Sequence[str] = (), **more: Any) -> Any:
    """The object that a config names by `_target_`, from plain Python values and `more`; None for None.

    Raises UserError for a target outside the allow-list, and for values that the object refuses.
    """
    if config is None:
        return None
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for target in _targets(plain):
        _check(target, trust)
    try:
        if not more:
            return instantiate(plain, _convert_="all")
        # Given to `instantiate`, a dataclass in `more` would be taken for a config and arrive as a dict.
        return instantiate({**plain, "_partial_": True}, _convert_="all")(**more)
    except (InstantiationException, ValueError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(cause, ValueError | TypeError | ModuleNotFoundError):
            raise
        # The program's own ValueErrors name their key; for another's, say what was being built.
        own = type(cause) is ValueError and str(cause).startswith(_KEYS)
        raise UserError(("" if own else f"{plain['_target_']}: ") + " ".join(str(cause).split())) from error


_KEYS = ("model.", "model=", "net.", "net=", "data.", "noise.", "reconstruction.", "metrics.")


def _targets(plain: Any) -> Iterator[str]:
    """Every `_target_`, however deep."""
    if isinstance(plain, dict):
        if "_target_" in plain:
            yield plain["_target_"]
        for value in plain.values():
            yield from _targets(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from _targets(value)


def _check(target: str, trust: Sequence[str]) -> None:
    """Refuse a target that is not, by its name *and* where it was really defined, inside a trusted package."""

    def inside(name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in (*TRUSTED, *trust))

    problem = f"_target_: {target} is not trusted: if you wrote it, type trust=[{target.split('.')[0]}]"
    if not isinstance(target, str) or not (inside(target) or target == "lightning.pytorch.Trainer"):
        raise UserError(problem)
    try:
        found = get_object(target)
    except Exception as error:
        raise UserError(f"_target_: {target} cannot be imported ({error.__cause__ or error})") from error
    # `autoencoders.run.os.system` begins well, but was defined elsewhere.
    if not callable(found) or not inside(f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"):
        raise UserError(problem)
