"""The only place that calls Hydra's `instantiate`, with an allow-list.

What may be built comes from this program and from the user's own command line (`trust=[my_package]`), never from the
config that is loaded. A run folder from a stranger therefore cannot name `os.system`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from aelab.composition import signatures, values
from aelab.errors import UserError, require

TRUSTED = (
    "aelab.models",
    "aelab.classifier",
    "aelab.nets",
    "aelab.codebooks",
    "aelab.data",
    "aelab.noise",
    "aelab.reconstruction",
    "aelab.schedules",
    "aelab.optimizers",
    "aelab.callbacks",
    "aelab.metrics",
    "aelab.samplers",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.trainer.trainer",
    "torch.optim",
)
_NEEDED = {"lightning.pytorch.loggers.MLFlowLogger": "mlflow", "lightning.pytorch.loggers.WandbLogger": "wandb"}
_KEYS = tuple(
    f"{group}{mark}"
    for group in ("model", "net", "codebook", "data", "noise", "reconstruction", "metrics", "scheduler")
    for mark in ".="
)


def build(config: DictConfig | None, trust: Sequence[str] = (), **more: Any) -> Any:
    """Return the object that a config names by `_target_`, built from plain Python values and `more`. None for None.

    Raises UserError for a target outside the allow-list, for a value of another type than its parameter has, and for
    values that the object refuses.
    """
    if config is None:
        return None
    check(config, trust)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    try:
        if not more:
            return instantiate(plain, _convert_="all")
        # `instantiate` would take a dataclass in `more` for a config, and hand over a dict.
        return instantiate({**plain, "_partial_": True}, _convert_="all")(**more)
    except (InstantiationException, ValueError, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, UserError):
            raise cause from error
        if not isinstance(cause, ValueError | TypeError | ModuleNotFoundError):
            raise
        # The program's own ValueErrors name their key. For another's, say what was being built.
        own = type(cause) is ValueError and str(cause).startswith(_KEYS)
        raise UserError(("" if own else f"{plain['_target_']}: ") + " ".join(str(cause).split())) from error


def check(config: DictConfig, trust: Sequence[str] = ()) -> None:
    """Check every part of a config, however deep, without building anything.

    Raises UserError for a target outside the allow-list, for a value of another type than its parameter has, and for a
    library that is not installed.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    parts = list(_parts(plain, _key(config)))
    for _, part in parts:
        _check_name(part["_target_"], trust)
    for key, part in parts:  # before anything is imported, because torch takes seconds
        values.check(part, signatures.parameters(part["_target_"]), key and f"{key}.")
    for key, part in parts:
        if package := _NEEDED.get(part["_target_"]):
            require(package, key.replace("logger.", "logger="))
    for _, part in parts:
        _check_object(part["_target_"], trust)


def _key(config: DictConfig) -> str:
    """Return the dotted key of a config inside the config of its run."""
    return str(config._get_full_key(None) or "")


def _parts(plain: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping with a `_target_`, however deep, after its dotted key."""
    if isinstance(plain, dict):
        if "_target_" in plain:
            yield key, plain
        for name, value in plain.items():
            yield from _parts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            yield from _parts(value, f"{key}[{index}]")


def _trusted(name: str, trust: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in (*TRUSTED, *trust))


def _distrust(target: Any) -> UserError:
    return UserError(f"_target_: {target} is not trusted: if you wrote it, type trust=[{str(target).split('.')[0]}]")


def _check_name(target: Any, trust: Sequence[str]) -> None:
    if not isinstance(target, str) or not (_trusted(target, trust) or target == "lightning.pytorch.Trainer"):
        raise _distrust(target)


def _check_object(target: str, trust: Sequence[str]) -> None:
    """Import what a target names. It must lie inside a trusted package by its name *and* where it was defined."""
    try:
        found = get_object(target)
    except Exception as error:
        raise UserError(f"_target_: {target} cannot be imported ({error.__cause__ or error})") from error
    # `aelab.metrics.base.os.system` would begin well, but be defined elsewhere.
    module, name = (getattr(found, key, "") for key in ("__module__", "__qualname__"))
    if not callable(found) or not _trusted(f"{module}.{name}", trust):
        raise _distrust(target)
