"""The words of a command line, from what a shell hands over to what Hydra takes."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from aelab.composition.compose import configs
from aelab.errors import UserError, did_you_mean
from aelab.runs.frozen import word_today
from aelab.runs.run import Run
from aelab.runs.sweep import digest

# Keys of paths and names. What a file system allows may be no word of Hydra, as `a=b,c`, or be a number there, as `3`.
_PATHS = re.compile(r"(run|resume|output|name|(.*\.)?(root|cache_dir)|paths\..*|data\.file|hydra\.(run|sweep)\.dir)$")


def for_hydra(verb: str, words: Sequence[str]) -> list[str]:
    """Return the words as Hydra takes them, flags first. Raises UserError for what is no word."""
    multirun = bool({"-m", "--multirun"} & set(words))
    sweeps = multirun or any(word.startswith("sweep=") for word in words)
    if sweeps and not any(word.startswith("name=") for word in words):
        # The same line has the same folder, so that it can be typed again.
        words = [*words, f"name=sweep_{digest(' '.join(sorted(words)))}"]
    for word in words:
        if word_today(word) != word:
            print(f"ae: {word} is written {word_today(word)} now", file=sys.stderr)
    words = ["json=true" if word == "--json" else word_today(word) for word in words]
    # argparse does not take `a=1 -m b=2`, so flags go first.
    parser = get_args_parser()
    arguments, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"no flag '{unknown[0]}'{did_you_mean(unknown[0], flags)}")
    flags = [word for word in words if word not in arguments.overrides]
    overrides = [_readable(verb, word, multirun) for word in arguments.overrides]
    for word in arguments.overrides:
        key, _, folder = word.partition("=")
        if key == "resume":
            _check_resume(folder.strip("'\""), [other for other in arguments.overrides if other != word])
            overrides.append(f"hydra.run.dir={quoted(folder)}")  # no new folder
    return [*flags, *overrides]


def _readable(verb: str, word: str, multirun: bool) -> str:
    """Return a word in Hydra's grammar. A value that is not in the grammar is quoted, and so is a path or name.

    In a sweep a comma divides values, so that a path is quoted there only if Hydra cannot read it. The choice
    `debug=nan` is quoted, because Hydra takes a plain `nan` for a number.
    """
    key, equals, value = word.partition("=")
    if not equals:
        if key.startswith("~"):
            return word
        raise UserError(f"'{word}' is no key=value{_meant(verb, word)}")
    path = _PATHS.match(key.lstrip("+")) and value not in ("", "null") and "${" not in value
    if word == "debug=nan" or (path and not multirun):
        return f"{key}={quoted(value)}"
    if _parses(word):
        return word
    if value and _parses(f"{key}={quoted(value)}"):
        return f"{key}={quoted(value)}"
    raise UserError(f"'{word}' cannot be read: '{key}' is no key, type key=value (see `ae {verb} --help`)")


def _parses(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except (HydraException, OmegaConfBaseException):
        return False
    return True


def _meant(verb: str, word: str) -> str:
    """Return what somebody who typed a bare word meant: the folder of a run, or the choice of a group."""
    if verb != "train" and Path(word).exists():
        return f": type run={word}"
    choices = configs().glob(f"*/{word}.yaml") if verb == "train" and word.isidentifier() else ()
    groups = sorted(path.parent.name for path in choices)
    return f": type {groups[0]}={word}" if groups else f" (see `ae {verb} --help`)"


def quoted(value: str) -> str:
    """Return a value in quotes, as Hydra reads it. One that has quotes stays."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), value) + "'"


def _check_resume(folder: str, others: list[str]) -> None:
    """Raise UserError if `resume=…` names no run, or stands beside words that are for a new one."""
    Run(folder)
    others = [word for word in others if not word.startswith("trust=")]
    if others:
        raise UserError(f"resume=… goes on with a run as it is: {others[0]} is for a new one")
