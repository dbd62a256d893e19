"""The configs of stages. A stage follows a run. It is an autoencoder on its codes, or a classifier on its encoder.

A stage inherits the config of its run. If the stage gives a group a `_target_`, that group is replaced as a whole.
Otherwise its values are merged into the group.
"""

import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from aelab.data.codes import Codes
from aelab.data.images import Images
from aelab.runs.run import Run

CLASSIFIER = "aelab.classifier."
CODES = f"{Codes.__module__}.{Codes.__qualname__}"


def follow(run: Run, before: Run, name: str) -> DictConfig:
    """Return the config of the stage `stages.NAME` of a run. `before` is the run or the stage that it stands on."""
    stage = _plain(run.config.stages[name])
    base = _plain(run.config, resolve=False) | {"stages": {}, "metrics": {}, "score": "val/loss"}
    folder = os.path.relpath(before.folder, run.folder / name)
    if stage.get("model", {}).get("_target_", "").startswith(CLASSIFIER):
        # A classifier has no objective, net or noise of an autoencoder.
        base |= {"noise": {"_target_": "aelab.noise.NoNoise"}, "net": None, "reconstruction": None}
        return on_encoder(_merge(base, stage), before, folder)
    return on_codes(base, stage, before, folder)


def on_codes(base: dict[str, Any], stage: dict[str, Any], before: Run, folder: str) -> DictConfig:
    """Return the config of an autoencoder on the codes of a run. Each code stays in the split of its image."""
    names = {field.name for field in fields(Images)} & base["data"].keys()
    shape = [1, 1, math.prod(before.code_shape)]
    base["data"] = {name: base["data"][name] for name in names} | {
        "_target_": CODES,
        "root": f"${{folder}}/{folder}",
        "shape": shape,
        "loader": "resident",
        "binarize": "none",
        "colours": None,
        "domain": "unit",
    }
    base["net"] = base["net"] | {"shape": shape}
    return _merge(base, stage)


def on_encoder(config: DictConfig, before: Run, folder: str | None = None) -> DictConfig:
    """Return a classifier's config, completed with the encoders of a run and of the runs below it.

    `folder` is where the run lies, seen from the folder of the classifier. If it is None, the run's absolute path is
    written.
    """
    if is_classifier(before.config):
        chain, encoders, data = [before], before.config.encoders, before.config.data
    else:
        chain = [before]
        while chain[0].config.data._target_ == CODES:
            chain.insert(0, Run(chain[0].config.data.root, before.trust))
        parts = ("model", "net", "reconstruction", "codebook")
        encoders = [{part: run.config[part] for part in parts if part in run.config} for run in chain]
        data = chain[0].config.data
    places = [str(run.folder) for run in chain]
    if folder is not None:
        places = [f"${{folder}}/{os.path.normpath(Path(folder, os.path.relpath(p, before.folder)))}" for p in places]
    plain = _plain(config, resolve=False)
    stated = {key: value for key, value in (plain.get("data") or {}).items() if value is not None}
    plain |= {"data": _plain(data) | stated, "encoders": [_plain(OmegaConf.create(e)) for e in encoders]}
    return OmegaConf.create(plain | {"init": places})


def choices(config: DictConfig, before: Run) -> dict[str, Any]:
    """Return the choice of each group, for the config of a stage that follows a run."""
    chosen: dict[str, Any] = dict(before.manifest["choices"])
    if not is_classifier(config):
        return chosen | {"data": "codes"}
    kept = {group: name for group, name in chosen.items() if group not in ("net", "reconstruction", "codebook")}
    return kept | {"model": "classifier", "noise": "none"}


def is_classifier(config: DictConfig) -> bool:
    """Whether a config is one of a classifier, not of an autoencoder."""
    return str(config.model._target_).startswith(CLASSIFIER)


def _plain(config: Any, resolve: bool = True) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _merge(base: dict[str, Any], stage: dict[str, Any]) -> DictConfig:
    whole = {key: value for key, value in stage.items() if isinstance(value, dict) and "_target_" in value}
    merged = OmegaConf.merge(OmegaConf.create(base | whole), OmegaConf.create(stage))
    assert isinstance(merged, DictConfig)
    return merged
