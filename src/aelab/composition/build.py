"""The objects of a run, built from its config: model, data, loggers, metrics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from hydra.utils import get_class
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict

from aelab import randomness
from aelab.classifier import check_unconditional
from aelab.composition import fits
from aelab.composition.instantiate import build
from aelab.data.base import DataModule
from aelab.data.codes import Codes
from aelab.errors import UserError
from aelab.models.base import Autoencoder, Objective
from aelab.runs.run import Run


def model(config: DictConfig) -> Objective:
    """Return the model of a run: an autoencoder, or a classifier on `encoders`. The run's seed draws its weights."""
    trust = list(config.trust)
    randomness.seed(torch.device("cpu"), "init", config.seed)
    built: Objective
    if config.get("encoders"):
        encoders = [autoencoder(part, trust) for part in config.encoders]
        shape, num_classes = list(config.data.shape), config.data.num_classes
        built = build(config.model, trust, encoders=encoders, shape=shape, num_classes=num_classes)
    else:
        built = autoencoder(config, trust, config.data)
    built.optimizer = build(config.optimizer, trust)
    built.scheduler = build(config.scheduler, trust)
    built.seed = config.seed
    if config.compile:
        for part in built.children():
            part.compile()  # in place, so that no key of a checkpoint changes
    return built


def autoencoder(config: DictConfig, trust: Sequence[str], of: DictConfig | None = None) -> Autoencoder:
    """Return an autoencoder. It consists of `model`, `net`, `reconstruction` and perhaps `codebook`.

    `of` is the config of its data. Raises UserError if a part does not take such data.
    """
    net, reconstruction = build(config.net, trust), build(config.reconstruction, trust)
    if of is not None:
        fits.check("model", get_class(config.model._target_), tuple(of.shape), of.domain)
        fits.check("net", net, tuple(of.shape), of.domain)
        fits.check("reconstruction", reconstruction, tuple(of.shape), of.domain)
    parts = {"net": net, "reconstruction": reconstruction}
    if "codebook" in signature(get_class(config.model._target_)).parameters:
        parts["codebook"] = build(config.codebook, trust)
    built: Autoencoder = build(config.model, trust, **parts)
    if of is not None:
        built.prepare_for(build(config.noise, trust))
    return built


def data(config: DictConfig) -> DataModule:
    """Return the data module of a run."""
    trust, more = list(config.trust), {}
    if config.data._target_.startswith("aelab.") and issubclass(get_class(config.data._target_), Codes):
        run = Run(config.data.root, trust)
        device = device_of(run.config)
        encoder = trained_autoencoder(run).to(device)
        check_unconditional(encoder)
        more = {"below": data(run.config), "encode": lambda x: encoder.encode(x.to(device)).cpu()}
    part = config.data
    if "of" in part:  # the data that these are made of
        plain: Any = OmegaConf.to_container(part, resolve=True)
        more = {"of": data(_with(config, data=plain.pop("of"), noise={"_target_": "aelab.noise.NoNoise"}))}
        part = OmegaConf.create(plain)
    noise = build(config.noise, trust)
    fits.check("noise", noise, tuple(config.data.shape), config.data.domain)
    built: DataModule = build(part, trust, noise=noise, seed=config.seed, **more)
    if not isinstance(built, DataModule):
        raise UserError(f"data: {part._target_} is no DataModule: from aelab.data.base import DataModule, and inherit")
    return built


def _with(config: DictConfig, **parts: Any) -> DictConfig:
    """Return a config with other parts."""
    copied = config.copy()
    with open_dict(copied):
        copied.update(parts)
    return copied


def restore(data: DataModule, run: Run, which: str = "best") -> DataModule:
    """Give data what a trained run keeps of its training data, such as means or a vocabulary, and return the data."""
    if data.state_dict():  # images keep nothing
        with _checkpoint(run, which) as state:
            data.load_state_dict(state[type(data).__qualname__])
    return data


def loggers(config: DictConfig) -> list[Logger]:
    """Return the loggers of a run."""
    return list(chosen(config, "logger").values())


def metrics(config: DictConfig) -> dict[str, Any]:
    """Return the groups of metrics by name."""
    return chosen(config, "metrics")


def chosen(config: DictConfig, kind: str) -> dict[str, Any]:
    """Build each entry of a mapping, by name.

    Entries that are null are skipped. So are entries without `_target_`, because an experiment may set a value of a
    callback that this run did not select.
    """
    parts = config.get(kind, {}).items()
    return {str(name): build(part, list(config.trust)) for name, part in parts if part and "_target_" in part}


def trained(run: Run, which: str = "best") -> Objective:
    """Return the trained model of a run, on the CPU and in eval mode.

    Raises UserError for a checkpoint that is absent, broken, or of another model.
    """
    built = model(run.config)
    with _checkpoint(run, which) as state:
        built.load_state_dict(state["state_dict"])
    return built.eval()


def step_of(run: Run, which: str = "best") -> int:
    """Return the number of steps after which a checkpoint was saved."""
    with _checkpoint(run, which) as state:
        return int(state["global_step"])


@contextmanager
def _checkpoint(run: Run, which: str) -> Iterator[dict[str, Any]]:
    """Give what a checkpoint holds, and say in one line what is wrong with it."""
    path = run.checkpoint(which)
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run saved nothing yet (checkpoint=best or checkpoint=last)")
    try:
        yield torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is broken or of another model ({reason}): try checkpoint=last") from error


def trained_autoencoder(run: Run, which: str = "best") -> Autoencoder:
    """As `trained`, but raises UserError for a classifier."""
    built = trained(run, which)
    if not isinstance(built, Autoencoder):
        raise UserError(f"{run.folder} is a classifier, and this wants the run of an autoencoder")
    return built


def check_device(config: DictConfig) -> None:
    """Raise UserError if the run asks for a device that this machine does not have."""
    wanted = config.trainer.accelerator
    if wanted in ("gpu", "cuda", "mps") and device_of(config).type == "cpu":
        raise UserError(f"trainer.accelerator={wanted}: torch finds no such device here: type trainer=cpu")


def device_of(config: DictConfig) -> torch.device:
    """Return the kind of device that a run was trained on, if this machine has one, else the CPU."""
    wanted = config.trainer.accelerator
    if torch.cuda.is_available() and wanted in ("gpu", "cuda", "auto"):
        return torch.device("cuda")
    if torch.backends.mps.is_available() and wanted in ("gpu", "mps", "auto"):
        return torch.device("mps")
    return torch.device("cpu")
