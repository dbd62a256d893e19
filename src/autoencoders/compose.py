"""Where the configs lie, and how a config is composed outside the command line (scripts, tests, notebooks)."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


def configs() -> Path:
    """The configs that people edit in a clone, or those inside the installed package."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def register_resolvers() -> None:
    """`${unique:}` in a config: eight letters that no other run has. `${job_folder:…}`: of a job in a sweep.
    `${of_run:DIR,KEY}`: what the data of a run are, or the shape of its codes."""
    from omegaconf import OmegaConf

    from autoencoders.sweep import job_folder

    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("of_run", _of_run, replace=True)
    OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(4), replace=True)


def compose(verb: str, overrides: Sequence[str] = ()) -> tuple["DictConfig", dict[str, Any]]:
    """The config that `ae VERB OVERRIDES` would compose, and the choice of each group."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(configs()), version_base="1.3"):
        config = hydra.compose(verb, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    choices = group_choices()
    with open_dict(config):
        del config["hydra"]
    return config, choices


def group_choices() -> dict[str, Any]:
    """The choice of each group of the config that Hydra is running."""
    from hydra.core.hydra_config import HydraConfig

    choices = HydraConfig.get().runtime.choices
    return {group: name for group, name in choices.items() if name and not group.startswith("hydra/")}


def _of_run(folder: str | None, key: str, trust: Sequence[str] = ()) -> Any:
    from autoencoders.errors import UserError
    from autoencoders.run import Run

    if folder is None or not (Path(folder) / "config.yaml").is_file():
        raise UserError(f"data=codes, and data.root={folder} is no trained run: type data.root=logs/NAME/RUN")
    if key != "code_shape":
        return Run(folder).config.data[key]
    from autoencoders.data.codes import code_shape

    return code_shape(Run(folder, trust))
