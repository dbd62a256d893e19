"""The frozen config of a run, and the changes that bring one of an earlier version up to date.

A run stays loadable for ever. Whoever adds a key to a class, moves a target or renames a word raises `VERSION` by one
and writes a change here in the same commit. `tests/test_frozen.py` says what is missing.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

VERSION = 10

Part = dict[str, Any]
Change = Callable[[Part, Part], None]
_CHANGES: list[tuple[int, bool, Change]] = []


def change(version: int, of_root: bool = False) -> Callable[[Change], Change]:
    """Register a function that changes a config of an earlier version in place into one of `version`.

    It is called as f(part, root) for each part of the tree that has a `_target_`, or, with `of_root`, once as
    f(root, root).
    """

    def register(function: Change) -> Change:
        _CHANGES.append((version, of_root, function))
        return function

    return register


def migrated(config: Part) -> Part:
    """Return a plain config of any version as one of `VERSION`. A config without a version is of version 0."""
    then = config.get("version", 0)
    for version, of_root, function in _CHANGES:
        if then < version:
            for part in [config] if of_root else list(_parts(config)):
                function(part, config)
    return config | {"version": VERSION}


def _parts(node: Any) -> Iterator[Part]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in list(node.values()):
            yield from _parts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _parts(value)


# Version 1


@change(1)
def _package(part: Part, root: Part) -> None:
    """The package `autoencoders` became `aelab`."""
    part["_target_"] = re.sub(r"^autoencoders\.", "aelab.", str(part["_target_"]))


@change(1)
def _learning_rate(part: Part, root: Part) -> None:
    """Schedulers have classes of their own. These step by epoch or by step and may warm up."""
    names = {
        "torch.optim.lr_scheduler.ConstantLR": "Constant",
        "torch.optim.lr_scheduler.CosineAnnealingLR": "Cosine",
        "torch.optim.lr_scheduler.MultiStepLR": "MultiStep",
        "torch.optim.lr_scheduler.ReduceLROnPlateau": "Plateau",
    }
    if part["_target_"] not in names or set(part) - _SCHEDULER_KEYS:
        return  # a scheduler of the user's own: it is still built as it is
    part["_target_"] = f"aelab.optimizers.{names[part['_target_']]}"
    for key in ("_partial_", "factor") if part["_target_"].endswith("Constant") else ("_partial_",):
        part.pop(key, None)
    if "T_max" in part:
        total = part.pop("T_max")
        part["total"] = None if total == root.get("trainer", {}).get("max_epochs") else total
    part |= {"warmup": 0} if part["_target_"].endswith("Plateau") else {"interval": "epoch", "warmup": 0}


_SCHEDULER_KEYS = {"_target_", "_partial_", "factor", "T_max", "eta_min", "milestones", "gamma", "patience", "min_lr"}


@change(1)
def _trainer(part: Part, root: Part) -> None:
    """Keys of the trainer that had to be added with a `+` are always there."""
    if part["_target_"] == "lightning.pytorch.Trainer":
        new = {"max_steps": -1, "limit_val_batches": None, "limit_test_batches": None, "check_val_every_n_epoch": 1}
        part |= {key: value for key, value in new.items() if key not in part}


@change(1)
def _emphasis(part: Part, root: Part) -> None:
    """`dae` weighed the pixels that the noise changed. It now weighs those that the noise chose."""
    if part["_target_"] == "aelab.models.dae.DAE":
        part["emphasis"] = "changed"


@change(1, of_root=True)
def _words(root: Part, _: Part) -> None:
    """`then` became `stages`, and the places of data and logs stand under `paths`."""
    if "then" in root:
        root["stages"] = root.pop("then")
    if "log_dir" in root:
        root["paths"] = {"data_dir": "data", "log_dir": root.pop("log_dir")}


# Version 2


@change(2)
def _folder(part: Part, root: Part) -> None:
    """Files were split by their place among all. They are split by name now, and decoded images are kept."""
    if part["_target_"] == "aelab.data.folder.Folder":
        part |= {"split_by": "order", "cache": False, "cache_dir": None, "background": "black", "skip_broken": False}


@change(2, of_root=True)
def _cache_dir(root: Part, _: Part) -> None:
    """The place of caches stands under `paths`."""
    if isinstance(root.get("paths"), dict):
        root["paths"].setdefault("cache_dir", None)


# Version 3


@change(3)
def _domain(part: Part, root: Part) -> None:
    """All data were in [0, 1], so terms read logits."""
    if "split_seed" in part and "shape" in part:
        part.setdefault("domain", "unit")
    if part["_target_"] in {f"aelab.reconstruction.{name}" for name in ("MSE", "MAE", "Gaussian", "Laplace")}:
        part["link"] = "sigmoid"


@change(3)
def _mlp(part: Part, root: Part) -> None:
    """The MLP had no batch normalisation."""
    if part["_target_"] == "aelab.nets.mlp.MLP":
        part.setdefault("batch_norm", False)


@change(3)
def _lstm(part: Part, root: Part) -> None:
    """The LSTM read single steps, and its decoder did not know where it was."""
    if part["_target_"] == "aelab.nets.lstm.LSTM":
        part |= {"patch_size": 1, "positions": 0, "pooled": False}


# Version 4


@change(4)
def _hidden_code(part: Part, root: Part) -> None:
    """The code of the MLP was always linear."""
    if part["_target_"] == "aelab.nets.mlp.MLP":
        part.setdefault("hidden_code", False)


@change(4)
def _drop_last(part: Part, root: Part) -> None:
    """The last batch of an epoch was always kept."""
    if "split_seed" in part and "shape" in part:
        part.setdefault("drop_last", False)


# Version 5


@change(5)
def _bias(part: Part, root: Part) -> None:
    """Convolutions always had biases."""
    if part["_target_"] == "aelab.nets.conv.Conv":
        part.setdefault("bias", True)


# Version 6


@change(6)
def _colours(part: Part, root: Part) -> None:
    """Images of three channels were RGB."""
    if "split_seed" in part and "binarize" in part:
        part.setdefault("colours", None)


# Version 7


@change(7)
def _shows(part: Part, root: Part) -> None:
    """What two models show followed from the noise. Some runs of version 6 say it already."""
    if part["_target_"] in ("aelab.models.dae.DAE", "aelab.models.structured_cvae.StructuredCVAE"):
        part.setdefault("shows", None)


# Version 8: `callbacks=[ema]` is a class of this program, whose decay rises. An older run keeps its constant decay.


# Version 9


@change(9)
def _sparse(part: Part, root: Part) -> None:
    """Columns of a decoder had any norm, the penalty on codes did not ask for it, and dead units stayed dead."""
    if part["_target_"] == "aelab.models.topk.TopK":
        part |= {"threshold": False, "unit_norm": False, "pre_bias": False, "aux_weight": 0.0, "dead_after": 100000}
    if part["_target_"] == "aelab.models.sparse_l1.SparseL1":
        part["decoder_norm"] = False


# Version 10


@change(10, of_root=True)
def _codebook(root: Part, _: Part) -> None:
    """The codebook of a VQ-VAE was two choices within the model."""
    for parts in list(_mappings(root)):
        for part in list(parts.values()):
            if isinstance(part, dict) and part.get("_target_") == "aelab.models.vqvae.VQVAE" and "decay" in part:
                parts["codebook"] = _codebook_of(part)


def _codebook_of(part: Part) -> Part:
    names = {"ema": "aelab.codebooks.ema.EMA", "loss": "aelab.codebooks.loss.Loss"}
    new = {"_target_": names[part.pop("codebook")], "_partial_": True, "size": part.pop("codebook_size")}
    new |= {key: part.pop(key) for key in ("commitment_weight", "decay", "revive_after")}
    if new["_target_"] == names["loss"]:
        del new["decay"]
    return new


@change(10)
def _transformer(part: Part, root: Part) -> None:
    """There was one sampler over indices."""
    if part["_target_"] == "aelab.metrics.generation.Generation" and isinstance(part.get("samplers"), dict):
        transformer = {"_target_": "aelab.samplers.Transformer", "dim": 128, "depth": 2, "heads": 4, "epochs": 5}
        part["samplers"].setdefault("transformer", transformer)


def _mappings(node: Any) -> Iterator[Part]:
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _mappings(value)


def word_today(word: str) -> str:
    """Return a word of the command line, `key=value`, as it is written in this version."""
    mark, key, value = re.fullmatch(r"([+~]*)([^=]*)(=.*)?", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    if value.startswith("=autoencoders."):
        value = "=aelab." + value.removeprefix("=autoencoders.")
    if key == "callbacks":  # one list or several: callbacks=[default],[default,ema]
        value = re.sub(r"\[[^\[\]]*\]", _without_default, value)
    if key + value in _CHOICES:
        return mark + _CHOICES[key + value]
    for pattern, new in _KEYS:
        key = re.sub(pattern, new, key)
    if mark == "+" and key.startswith("trainer.") and key.removeprefix("trainer.") in _TRAINER_KEYS:
        mark = ""
    return mark + key + value


def _without_default(found: re.Match[str]) -> str:
    return f"[{','.join(name for name in found[0][1:-1].split(',') if name.strip() != 'default')}]"


_CHOICES = {
    "schedule=short": "budget=short",
    "hydra/sweeper=grid": "hydra/sweeper=basic",
    "trainer=debug": "debug=fast",
    "trainer=overfit": "debug=overfit",
    "trainer=profile": "debug=profile",
}
_KEYS = (
    (r"^log_dir$", "paths.log_dir"),
    (r"^stage@", "stages@"),
    (r"(^|@)then(?=\.|$)", r"\1stages"),
    (r"^scheduler\.T_max$", "scheduler.total"),
    (r"^pictures$", "figures"),  # of `ae visualize`
    (r"(^|@)model\.codebook_size$", r"\1codebook.size"),
    (r"(^|@)model\.(commitment_weight|decay|revive_after)$", r"\1codebook.\2"),
    (r"^model\.codebook$", "codebook"),
)
_TRAINER_KEYS = {"max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches"} | {
    "check_val_every_n_epoch"
}


# Any version


def freeze(config: DictConfig) -> str:
    """Return a config as YAML. Every interpolation is resolved except `${folder}`, because a run may be moved."""
    config = config.copy()
    config.folder = r"\${folder}"  # resolves to the literal text ${folder}
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    del plain["folder"], plain["trust"]  # whoever loads a run says whom they trust, never the run itself
    return OmegaConf.to_yaml(OmegaConf.create({"version": VERSION, **plain}))


def code_shape(config: Mapping[str, Any] | DictConfig) -> list[int]:
    """Return the shape of a code, (D,) or (D, h, w), of a run whose manifest does not hold it (version 0).

    Only `net=spatial` gave maps then. Each of its channels halves height and width and rounds up.
    """
    shape = [config["model"]["latent_dim"]]
    if config["net"]["_target_"] == "aelab.nets.spatial.Spatial":
        halvings = 2 ** len(config["net"]["channels"])
        shape += [math.ceil(size / halvings) for size in config["net"]["shape"][1:]]
    return shape


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return {"a.b": 1} for {"a": {"b": 1}}."""
    if not isinstance(config, dict) or not config:
        return {prefix.removesuffix("."): config}
    return {key: value for k, v in config.items() for key, value in flatten(v, f"{prefix}{k}.").items()}
