"""A mistake in one line: what is wrong, what was expected, what to type."""

import errno
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import errors as hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from aelab.composition import values
from aelab.composition.compose import compose, configs
from aelab.errors import TRACEBACKS, UserError, did_you_mean
from aelab.runs.log import Console, start_console
from aelab.runs.run import Run

ROOM = "make room and type the same line again, or choose another paths.log_dir"


def explain(error: Exception, verb: str, words: list[str]) -> str | None:
    """Return the one line for a mistake that the program or a library noticed.

    Return None for a bug, because its traceback is wanted.
    """
    text = " ".join(str(error).split())
    match error:
        case UserError():
            return text
        case hydra.MissingConfigException(missing_cfg_file=str(missing)):
            group, _, name = missing.rpartition("/")
            # Hydra does not say what there is for an entry of a list, such as metrics=[code].
            options = error.options or [path.stem for path in (configs() / group).glob("*.yaml")]
            known = sorted(name for name in options if name != "core" and not name.startswith("base"))
            return f"no {group} '{name}'{did_you_mean(name, known)} (there are {', '.join(known)})"
        case hydra.ConfigCompositionException() if found := re.search(r"override '([^']+)'", text):
            key = found[1].lstrip("+~")
            if (owners := _owners(key)) and not any(word in words for word in owners):
                return f"{key} is of other models: type {' or '.join(owners)}"
            if (configs() / key).is_dir():
                return f"{key} is a group of which entries are added: type +{key}@PLACE=NAME (see `ae {verb} --help`)"
            hint = _near_key(key, _known_keys(verb, [w for w in words if key not in w]))
            return f"no key '{key}'{hint} (+{key}=… adds a new one; `ae {verb} --help` shows what there is)"
        case MissingMandatoryValue():
            key = error.full_key
            return f"{key} is missing: type {key}=…"
        case OmegaConfBaseException() if found := re.search(r"Missing mandatory value: (\S+)", text):
            return f"{found[1]} is missing: type {found[1]}=…"
        case OmegaConfBaseException() if found := re.search(r"UserError raised .* interpolation: (.*) full_key:", text):
            return found[1]
        case hydra.HydraException() | OmegaConfBaseException():
            return text.removesuffix(" See https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details")
        case ValueError() if "Config group override must be a string" in text:
            return "a group cannot be set to null on the command line: type ~GROUP to leave it out"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT, filename=filename):
            return f"the disk is full{f', and {filename} cannot be written' if filename else ''}: {ROOM}"
        case RuntimeError() if "inline_container" in text:  # torch does not say why a checkpoint cannot be written
            return f"a checkpoint cannot be written, the disk may be full: {ROOM}"
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or re.search(
            "can't allocate memory|out of memory", text
        ):
            return "there is not enough memory: choose smaller data.batch_size, net.… or model.latent_dim"
        case OSError(strerror=str(), filename=str() | Path() as filename):
            rights = error.errno in (errno.EACCES, errno.EROFS)
            hint = ": change its rights, or type another folder (paths.log_dir=… for runs)" if rights else ""
            return f"{filename}: {error.strerror}{hint}"
        case OSError():
            return text
    if type(error).__module__.partition(".")[0] == "wandb":
        return f"logger=wandb: {text.rstrip('.')}: type wandb login, or logger.wandb.offline=true"
    if type(error).__name__ == "MisconfigurationException":  # of Lightning, which is not imported for its name
        return text
    return None


def _owners(key: str) -> list[str]:
    """Return `model=NAME` for each model that brings the group of a key along, such as `codebook`."""
    models = sorted((configs() / "model").glob("*.yaml"))
    group = f"- /{re.split('[.@]', key)[0]}@_global_."
    return [f"model={path.stem}" for path in models if group in path.read_text(encoding="utf-8")]


def _near_key(key: str, known: list[str]) -> str:
    """As `did_you_mean`, and finds a key without its group: `lr` is `optimizer.lr`, `epochs` `trainer.max_epochs`."""
    last = {name.rpartition(".")[2]: name for name in sorted(known, key=len, reverse=True)}
    if "." not in key and key in last:
        return f", did you mean '{last[key]}'?"
    if hint := did_you_mean(key, known):
        return hint
    near = re.search("'(.*)'", did_you_mean(key, last))
    return f", did you mean '{last[near[1]]}'?" if near else ""


def _known_keys(verb: str, words: list[str]) -> list[str]:
    """Return every dotted key and every group of the config that the other words compose."""

    def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
        for name in config:
            yield f"{prefix}{name!s}"
            value = config._get_node(name)
            if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
                yield from keys(value, f"{prefix}{name!s}.")

    try:
        config, _ = compose(verb, [word for word in words if "=" in word])
    except Exception:  # another of the words is wrong too, so the defaults have to do
        config, _ = compose(verb)
    return list(keys(config))


@contextmanager
def one_line(verb: str, words: list[str]) -> Iterator[None]:
    """End the program with one line and exit code 1 at a user's mistake. A bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = None if TRACEBACKS else explain(error, verb, words)
        if line is None:
            raise
        sys.exit(f"ae: {line}")


@contextmanager
def task(verb: str, config: DictConfig, keys: Mapping[str, Any]) -> Iterator[None]:
    """Surround the work of a verb. `keys` are the types of the config's own keys, which are checked first.

    A job of a sweep raises what is wrong with it, because Hydra collects that and goes on. For a single run Hydra would
    add a line of its own, so the program ends here.
    """
    if config.trust:
        sys.path.insert(0, str(Path.cwd()))  # a package that the user trusts may lie where `ae` was typed
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        values.check(_own(config), keys)
        yield
        return
    with one_line(verb, sys.argv[1:]):
        values.check(_own(config), keys)
        yield


@contextmanager
def task_of_run(verb: str, config: DictConfig, keys: Mapping[str, Any]) -> Iterator[Run]:
    """As `task`, for a verb that takes a trained run. Its messages go to stderr."""
    with task(verb, config, {**keys, "run": str, "checkpoint": str, "trust": list[str]}):
        run = Run(config.run, config.trust)
        start_console(Console(stderr=True))
        yield run


def _own(config: DictConfig) -> dict[str, Any]:
    """Return the keys of a config that are no part with a `_target_`, without what is missing."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if value != "???"}
