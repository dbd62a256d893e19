"""What may follow a run, as configs: an autoencoder on its codes, or a classifier on its encoder.

A stage takes from the run that it belongs to whatever it does not state itself: of a group all, if it names a
`_target_`, or some values.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from autoencoders.run import Run

CLASSIFIER = "autoencoders.classifier."
CODES = "autoencoders.data.codes.Codes"


def follow(run: Run, before: Run, name: str) -> DictConfig:
    """The config of the stage `then.NAME` of a run, after the run `before` it, which is this one or another stage."""
    stage = _plain(run.config.then[name])
    base = _plain(run.config, resolve=False) | {"then": {}, "metrics": {}, "score": "val/loss"}
    folder = os.path.relpath(before.folder, run.folder / name)
    if stage.get("model", {}).get("_target_", "").startswith(CLASSIFIER):
        # Of an autoencoder neither the objective nor the net stays.
        base |= {"noise": {"_target_": "autoencoders.noise.NoNoise"}, "net": None, "reconstruction": None}
        return on_encoder(_merge(base, stage), before, folder)
    return on_codes(base, stage, before, folder)


def on_codes(base: dict[str, Any], stage: dict[str, Any], before: Run, folder: str) -> DictConfig:
    """An autoencoder on the codes of a run, which keeps that run's splits."""
    from autoencoders.data.base import Images
    from autoencoders.data.codes import code_shape

    names = {field.name for field in fields(Images)} & base["data"].keys()
    shape = code_shape(before)
    base["data"] = {name: base["data"][name] for name in names} | {
        "_target_": CODES,
        "root": f"${{folder}}/{folder}",
        "shape": shape,
        "loader": "resident",
        "binarize": "none",
    }
    base["net"] = base["net"] | {"shape": shape}
    return _merge(base, stage)


def on_encoder(config: DictConfig, before: Run, folder: str | None = None) -> DictConfig:
    """A classifier's config, completed with the encoders of a run and of those whose codes it was trained on.

    `folder`: where the run lies, seen from that of the classifier; None: for good where it is.
    """
    if is_classifier(before.config):
        chain, encoders, data = [before], before.config.encoders, before.config.data
    else:
        chain = [before]
        while chain[0].config.data._target_ == CODES:
            chain.insert(0, Run(chain[0].config.data.root, before.trust))
        encoders = [{part: run.config[part] for part in ("model", "net", "reconstruction")} for run in chain]
        data = chain[0].config.data
    places = [str(run.folder) for run in chain]
    if folder is not None:
        places = [f"${{folder}}/{os.path.normpath(Path(folder, os.path.relpath(p, before.folder)))}" for p in places]
    plain = _plain(config, resolve=False)
    stated = {key: value for key, value in (plain.get("data") or {}).items() if value is not None}
    plain |= {"data": _plain(data) | stated, "encoders": [_plain(OmegaConf.create(e)) for e in encoders]}
    return OmegaConf.create(plain | {"init": places})


def choices(config: DictConfig, before: Run) -> dict[str, Any]:
    """What was chosen of each group, where a stage follows a run."""
    chosen: dict[str, Any] = dict(before.manifest["choices"])
    if not is_classifier(config):
        return chosen | {"data": "codes"}
    kept = {group: name for group, name in chosen.items() if group not in ("net", "reconstruction")}
    return kept | {"model": "classifier", "noise": "none"}


def is_classifier(config: DictConfig) -> bool:
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
