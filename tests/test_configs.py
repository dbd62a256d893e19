"""The trees of configs and of code mirror each other, and every choice fits the class that it names."""

import importlib
import inspect
import re
import shutil

import pytest
from conftest import compose, names
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from lightning import Trainer
from omegaconf import OmegaConf

from aelab.composition import compose as composing
from aelab.composition.compose import configs
from aelab.composition.instantiate import build

FILES = {
    "model": "models",
    "net": "nets",
    "codebook": "codebooks",
    "data": "data",
    "metrics": "metrics",
}  # one file per config
CLASSES = {
    "noise": "noise",
    "reconstruction": "reconstruction",
    "schedule": "schedules",
}  # one class per config


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
    shared = {
        "base",
        "__init__",
        "loader",
        "resident",
        "stream",
        "download",
        "errors",
        "next_index",
        "pca",
        "classifier",
        "ddim",
    }
    shared |= {"hierarchical", "modalities", "sparse_coder"}  # wiring of models
    shared |= {"layout", "image_files", "cache"}  # of data=folder
    shared |= {"images", "values", "drawing", "labels", *(f"{name}_files" for name in names("data"))}
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
    """Defaults stand in yaml only, and the class takes every key of its config."""
    wiring = {"net", "reconstruction", "codebook", "noise", "seed", "below", "encode", "params", "optimizer"}
    for name in names(group):
        if group == "metrics":
            node = compose("evaluate", ["run=.", f"metrics=[{name}]"])[0].metrics[name]
        elif group == "codebook":
            node = compose("train", ["model=vqvae", f"codebook={name}"])[0].codebook
        elif group == "schedule":
            node = compose("train", [f"+schedule@it={name}"])[0].it
        else:
            node = compose("train", [f"{group}={name}"])[0][group]
        keys = {key for key in node if not key.startswith("_")}
        parameters = inspect.signature(get_class(node._target_)).parameters
        assert keys <= set(parameters), name
        if node._target_.startswith("aelab."):
            assert set(parameters) - wiring - ({"dim"} if group == "codebook" else set()) == keys, name
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


# core callbacks, and choices that one group makes for another


def test_core_callbacks_are_always_there():
    core = set(compose("train")[0].callbacks)
    assert {"averages", "checkpoint", "resume", "progress"} <= core
    for verb, more in (("train", ()), ("finetune", ("run=.",))):
        assert set(compose(verb, [*more, "callbacks=[early_stopping]"])[0].callbacks) == core | {"early_stopping"}
    assert set(compose("train", ["~callbacks.pictures"])[0].callbacks) == core - {"pictures"}


@pytest.mark.parametrize("experiment", names("experiment"))
def test_an_experiment_keeps_the_core(experiment):
    assert set(compose("train")[0].callbacks) <= set(compose("train", [f"experiment={experiment}"])[0].callbacks)


@pytest.mark.parametrize(
    "word",
    [
        "trainer.max_steps=9",
        "trainer.limit_train_batches=1",
        "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=1",
        "trainer.check_val_every_n_epoch=2",
    ],
)
def test_keys_that_need_no_plus(word):
    key, _, value = word.removeprefix("trainer.").partition("=")
    assert compose("train", [word])[0].trainer[key] == int(value)


def test_paths_follow_the_environment(monkeypatch):
    monkeypatch.setenv("AE_DATA", "/somewhere/data")
    monkeypatch.setenv("AE_LOGS", "/elsewhere")
    config, _ = composing.compose("train", ["data=mnist"])
    assert config.data.root == "/somewhere/data"
    assert HydraConfig.get().run.dir.startswith("/elsewhere/vae_mnist/")
    config, _ = composing.compose("train", ["data=mnist", "data.root=here", "paths.log_dir=there"])
    assert config.data.root == "here"
    assert HydraConfig.get().sweep.dir == "there/vae_mnist"


def test_the_name_of_a_run_is_that_of_its_experiment():
    assert compose("train", ["model=ae", "data=mnist"])[0].name == "ae_mnist"
    assert compose("train", ["experiment=mnist_vae_static", "model=ae"])[0].name == "mnist_vae_static"
    assert compose("train", ["experiment=mnist_vae_static", "name=mine"])[0].name == "mine"


def test_what_a_group_chooses_for_another_is_known():
    def chosen(*words):
        composing.compose("train", words)
        return composing.chosen_by_others()

    assert chosen() == {}
    assert chosen("model=dae") == {"noise": "model=dae"}
    assert chosen("model=dae", "noise=gaussian") == {}, "the command line made this choice"
    assert chosen("model=sigma_vae") == {"reconstruction": "model=sigma_vae"}
    of_experiment = chosen("experiment=mnist_cvae_quadrants", "net=conv")
    assert of_experiment["model"] == "experiment=mnist_cvae_quadrants"
    assert of_experiment["noise"] == "model=structured_cvae"
    assert "net" not in of_experiment


def test_a_sweep_chooses_its_sweeper():
    for words, sweeper in (
        (["sweep=tpe"], "aelab_search.Search"),
        (["sweep=seeds"], "aelab_sweepers.Grid"),
        ([], "aelab_sweepers.Grid"),
        (["hydra/sweeper=optuna"], "aelab_search.Search"),
    ):
        composing.compose("train", words)
        assert HydraConfig.get().sweeper._target_ == f"hydra_plugins.{sweeper}"
    composing.compose("train", ["sweep=tpe"])
    assert "interval" in HydraConfig.get().sweeper.params["optimizer.lr"]


def test_composing_the_codes_of_a_run_loads_no_checkpoint(vae_run, tmp_path):
    run = shutil.copytree(vae_run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("*.ckpt"))
    config, _ = compose("train", ["data=codes", f"data.root={run}"])
    assert config.data.shape == config.net.shape == [1, 1, 16]
    assert config.data.num_classes == 10


def test_own_defaults_are_optional_and_ignored_by_git(run_ae, tmp_path):
    """A user's own defaults stand in `local/default.yaml`. Here `--config-dir` names the folder that holds it."""
    local = tmp_path / "mine" / "local"
    local.mkdir(parents=True)
    (local / "default.yaml").write_text("# @package _global_\ntrainer:\n  max_epochs: 1\nname: mine\n")
    words = ("--config-dir", str(tmp_path / "mine"), "~callbacks.pictures", "logger=[]")
    assert run_ae("train", *words)[0] == 0
    (folder,) = (tmp_path / "logs" / "mine").iterdir()
    assert "epoch 1/1" in (folder / "train.log").read_text(encoding="utf-8")
    ignored = (configs().parent / ".gitignore").read_text(encoding="utf-8").split()
    assert "/configs/local/" in ignored
