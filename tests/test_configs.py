"""The two trees, configs and code, mirror each other, and everything that can be chosen can be built."""

import importlib
import inspect
import re

import pytest
from conftest import compose, names
from hydra.utils import get_class
from lightning import Trainer
from omegaconf import OmegaConf

from aelab.composition.compose import configs
from aelab.composition.instantiate import build

FILES = {"model": "models", "net": "nets", "data": "data", "metrics": "metrics"}  # one file a config
CLASSES = {
    "noise": "noise",
    "reconstruction": "reconstruction",
    "schedule": "schedules",
}  # one class a config


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removeprefix("No") if name == "NoNoise" else name).lower()


def target(group: str, name: str) -> str:
    config = OmegaConf.load(configs() / group / f"{name}.yaml")
    return (config if "_target_" in config else config[name])._target_


@pytest.mark.parametrize(("group", "package"), FILES.items())
def test_a_config_is_named_after_its_file(group, package):
    folder = configs().parent / "src" / "aelab" / package
    if not folder.is_dir():
        folder = configs().parent / package
    shared = {"base", "__init__", "loader", "resident", "stream", "download", "errors", "codebook", "pca", "classifier"}
    assert set(names(group)) == {path.stem for path in folder.glob("*.py")} - shared
    for name in names(group):
        assert target(group, name).startswith(f"aelab.{package}.{name}.")


@pytest.mark.parametrize(("group", "module"), CLASSES.items())
def test_a_config_is_named_after_its_class(group, module):
    module = importlib.import_module(f"aelab.{module}")
    classes = {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and not getattr(cls, "_is_protocol", False)
    }
    assert sorted(classes, key=str.lower) == sorted(
        (target(group, name).rpartition(".")[2] for name in names(group)), key=str.lower
    )
    for name in names(group):
        assert snake(target(group, name).rpartition(".")[2]) == ("noise" if name == "none" else name)


@pytest.mark.parametrize("group", [*FILES, *CLASSES, "optimizer", "scheduler"])
def test_every_choice_states_each_argument_exactly_once(group):
    """A default stands in yaml alone, and no key is one that the class does not have."""
    wiring = {"net", "reconstruction", "noise", "seed", "below", "encode", "params", "optimizer"}
    for name in names(group):
        if group == "metrics":
            node = compose("evaluate", ["run=.", f"metrics=[{name}]"])[0].metrics[name]
        elif group == "schedule":
            node = compose("train", [f"+schedule@it={name}"])[0].it
        else:
            node = compose("train", [f"{group}={name}"])[0][group]
        keys = {key for key in node if not key.startswith("_")}
        parameters = inspect.signature(get_class(node._target_)).parameters
        assert keys <= set(parameters), name
        if node._target_.startswith("aelab."):
            assert set(parameters) - wiring == keys, name
            assert all(p.default is inspect.Parameter.empty for p in parameters.values()), name


@pytest.mark.parametrize("name", names("trainer"))
def test_every_trainer_preset_is_one_that_lightning_takes(name):
    config, _ = compose("train", [f"trainer={name}"])
    assert set(config.trainer) - {"_target_"} <= set(inspect.signature(Trainer).parameters)


@pytest.mark.parametrize("group", ["callbacks", "logger"])
def test_callbacks_and_loggers_compose(group):
    config, _ = compose("train", [f"{group}=[{','.join(names(group))}]"])
    for node in config[group].values():
        assert set(node) - {"_target_"} <= set(inspect.signature(get_class(node._target_)).parameters)


def test_modules_get_plain_python():
    net = build(compose("train", ["net.hidden_dims=[8,4]"])[0].net)
    assert type(net.hidden_dims) is list
    assert type(net.shape) is list
