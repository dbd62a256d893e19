"""A user's mistake gets one line: what is wrong, what was expected, what to type."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend: its text is all that `ae` prints."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'vae'?` for `vea`; nothing where no known word is near."""
    by_letters = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_letters, n=1, cutoff=0.6)
    return f", did you mean '{by_letters[near[0]]}'?" if near else ""


def explain(error: Exception, verb: str, words: list[str]) -> str | None:
    """The one line for a mistake that the program or a library noticed; None for a bug, whose traceback is wanted."""
    from hydra import errors as hydra
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    from autoencoders.compose import configs

    text = " ".join(str(error).split())
    match error:
        case UserError():
            return text
        case hydra.MissingConfigException(missing_cfg_file=str(missing)):
            group, _, name = missing.rpartition("/")
            # Hydra does not say what there is for one of a list, such as metrics=[code].
            options = error.options or [path.stem for path in (configs() / group).glob("*.yaml")]
            known = sorted(set(options) - {"base"})
            return f"no {group} '{name}'{did_you_mean(name, known)} (there are {', '.join(known)})"
        case hydra.ConfigCompositionException() if found := re.search(r"override '([^']+)'", text):
            key = found[1].lstrip("+~")
            hint = did_you_mean(key, _known_keys(verb, [w for w in words if key not in w]))
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
        case OSError(strerror=str(), filename=str() | Path() as filename):
            return f"{filename}: {error.strerror}"
        case OSError():
            return text
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, not imported for its name
        return text
    return None


def _known_keys(verb: str, words: list[str]) -> list[str]:
    """Every dotted key and every group of the config that the other words compose."""
    from omegaconf import DictConfig

    from autoencoders.compose import compose

    def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
        for name in config:
            yield f"{prefix}{name!s}"
            value = config._get_node(name)
            if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
                yield from keys(value, f"{prefix}{name!s}.")

    try:
        config, _ = compose(verb, [word for word in words if "=" in word])
    except Exception:  # another of the words is wrong too: the defaults are a good enough guess
        config, _ = compose(verb)
    return list(keys(config))
