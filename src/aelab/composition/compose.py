"""Where the configs lie, and how one is composed, on the command line and outside of it."""

import functools
import importlib
import math
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.runs.sweep import job_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

CHOOSERS = ("model", "experiment", "sweep", "data")  # groups whose choices may choose for other groups


def configs() -> Path:
    """Return the configs inside the installed package, or in a clone those that people edit."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


def register_resolvers() -> None:
    """Register the functions that configs call:

    - `${unique:}`: eight letters that no other run has;
    - `${link:DOMAIN}`: how a decoder's output becomes a datum, sigmoid of data in [0, 1], else identity;
    - `${vocabulary:LEVEL}`: the number of ids of bytes or words;
    - `${scale:DOMAIN}`: the scale of a density, 0.1 of data in [0, 1], else 1;
    - `${shape_of:KIND,ROOT,…}`: the shape of a datum of a user's file, which `aelab.data.KIND_files` reads;
    - `${pair:BY,SHAPE,VIEW}`: the shape of the view `x` or `y` of images, by halves or colours;
    - `${run_name:EXPERIMENT,MODEL,DATA}`: the default name of a run;
    - `${job_folder:SWEEP_FOLDER,OVERRIDES}`: the name of the folder of a job;
    - `${of_run:FOLDER,KEY}`: a key of the data of a run, or `code_shape`, the shape of its codes as images.
    """
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(4), replace=True)
    OmegaConf.register_new_resolver("run_name", lambda e, model, data: e or f"{model}_{data}", replace=True)
    OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("of_run", _of_run, replace=True)
    OmegaConf.register_new_resolver("link", lambda domain: "sigmoid" if domain == "unit" else "identity", replace=True)
    OmegaConf.register_new_resolver("scale", lambda domain: 0.1 if domain == "unit" else 1.0, replace=True)
    OmegaConf.register_new_resolver("vocabulary", lambda level: 260 if level == "bytes" else 10_000, replace=True)
    OmegaConf.register_new_resolver("shape_of", _shape_of, replace=True)
    OmegaConf.register_new_resolver("pair", _pair, replace=True)


def compose(verb: str, overrides: Sequence[str] = ()) -> tuple["DictConfig", dict[str, Any]]:
    """Return the config that `ae VERB OVERRIDES` composes, and the choice of each group."""
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
    """Return the choice of each group in the config that Hydra is running."""
    from hydra.core.hydra_config import HydraConfig

    choices = HydraConfig.get().runtime.choices
    return {group: name for group, name in choices.items() if name and not group.startswith("hydra/")}


def chosen_by_others() -> dict[str, str]:
    """Return the groups of the running config that another group chose, for example {"noise": "model=dae"}."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    typed = {word.partition("=")[0] for word in hydra.overrides.task}
    choices = hydra.runtime.choices
    chosen: dict[str, str] = {}
    for chooser in CHOOSERS:
        name = choices.get(chooser)
        for group in _overridden(hydra.runtime.config_sources, chooser, name) if name else ():
            if group not in typed and choices.get(group):
                chosen.setdefault(group, f"{chooser}={name}")
    return chosen


def _overridden(sources: Any, group: str, name: str) -> Iterator[str]:
    """Yield the groups that the config GROUP/NAME overrides in its defaults list."""
    from omegaconf import OmegaConf

    paths = (Path(source.path) / group / f"{name}.yaml" for source in sources if source.schema == "file")
    for path in (path for path in paths if path.is_file()):
        config: Any = OmegaConf.load(path)
        for key in (str(key) for entry in config.get("defaults", []) if hasattr(entry, "keys") for key in entry):
            if key.startswith("override /"):
                yield key.removeprefix("override /").partition("@")[0]


def _shape_of(kind: str, root: str | None, *options: Any) -> list[int]:
    if root is None:
        raise UserError("data.root is missing: type data.root=FILE, or a folder of files")
    path = Path(root).expanduser()
    changed = path.stat().st_mtime_ns if path.exists() else 0
    plain = tuple(tuple(one) if isinstance(one, Sequence) and not isinstance(one, str) else one for one in options)
    return list(_read_shape(kind, root, plain, changed))


@functools.cache  # a config asks for it at every access
def _read_shape(kind: str, root: str, options: tuple[Any, ...], changed: int) -> list[int]:
    reader = importlib.import_module(f"aelab.data.{kind}_files")
    shape: list[int] = reader.shape(root, *options)
    return shape


def _pair(by: str, of: Sequence[int], view: str) -> list[int]:
    """Return the shape of the view `x` or `y` of images (C, H, W). Raises UserError for images without that view."""
    if len(of) != 3 or (by == "colours" and of[0] != 3):
        wanted = "images of three channels: type data@data.of=cifar10" if by == "colours" else "images"
        raise UserError(f"data.by={by} and data.of.shape={list(of)}: it wants {wanted}")
    channels, height, width = of
    if by == "colours":
        return [1 if view == "x" else 2, height, width]
    return [channels, height, width // 2 if view == "x" else width - width // 2]


def _of_run(folder: str | None, key: str) -> Any:
    if folder is None:
        raise UserError("data=codes is of a trained run: type data.root=logs/NAME/RUN")
    run = Run(folder)
    return [1, 1, math.prod(run.code_shape)] if key == "code_shape" else run.config.data[key]
