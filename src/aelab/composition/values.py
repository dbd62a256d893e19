"""Values of a config against the types of what they are for. One mechanism for every key of every group.

The types are the annotations of the class or function that a part names by `_target_`. A parameter without an
annotation, or with one that is no plain value, takes anything.
"""

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from aelab.errors import UserError

_NAMES: dict[Any, tuple[str, str]] = {  # of one, and of several
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "truth values"),
    str: ("a word", "words"),
    Path: ("a path", "paths"),
    None: ("null", "nulls"),
}


def check(values: Mapping[str, Any], types_by_key: Mapping[str, Any], prefix: str = "") -> None:
    """Raise UserError for the first value that is not of the type of its key. A key without a type takes anything."""
    for key, value in values.items():
        if key in types_by_key and not fits(value, types_by_key[key]):
            line = f"{prefix}{key}={show(value)} {_misfit(value, types_by_key[key])}"
            if isinstance(value, int | float) and fits(str(value), types_by_key[key]):
                line += f""": type "{prefix}{key}='{show(value)}'\""""
            raise UserError(line)


def parameters(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotated type of each parameter of a class or function."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function)
    except Exception:  # an annotation that names what is imported for type checkers only
        return {
            name: hint for name, hint in getattr(function, "__annotations__", {}).items() if not isinstance(hint, str)
        }


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type. What a nested `_target_` builds checks its own values."""
    if kind is Any or (isinstance(value, Mapping) and "_target_" in value):
        return True
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if kind in (None, type(None)):
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind is Path:
        return isinstance(value, str | Path)
    if _is_sequence(origin or kind):
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if (origin or kind) is tuple and inner and inner[-1] is not ...:
            return len(value) == len(inner) and all(map(fits, value, inner))
        return all(fits(one, inner[0]) for one in value) if inner else True
    if inspect.isclass(origin or kind) and issubclass(origin or kind, Mapping):
        return isinstance(value, Mapping) and (not inner or all(fits(one, inner[1]) for one in value.values()))
    if getattr(kind, "_is_protocol", False):
        return False  # only a `_target_` builds what a protocol describes
    return isinstance(value, kind) if inspect.isclass(kind) else True


def _is_sequence(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Sequence) and not issubclass(kind, str | bytes)


def _misfit(value: Any, kind: Any) -> str:
    """Say what was expected: `is none of ema, loss`, or `is a word, and a whole number belongs there`."""
    words = [one for part in _alternatives(kind) if get_origin(part) is Literal for one in get_args(part)]
    if words and isinstance(value, str):
        return f"is none of {', '.join(map(str, words))}"
    what = "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, list | tuple) else None
    found = what or _NAMES.get(None if value is None else type(value), (f"{value!r}",))[0]
    expected = dict.fromkeys(filter(None, map(_name, _alternatives(kind))))
    return f"is {found}, and {' or '.join(expected)} belongs there"


def _alternatives(kind: Any) -> list[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return [one for part in get_args(kind) for one in _alternatives(part)]
    return [kind]


def _name(kind: Any, several: bool = False) -> str:
    """Return a type in words: `a whole number`, `a list of 3 whole numbers`. Empty for what only a target builds."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is type(None):
        kind = None
    if kind in _NAMES:
        return _NAMES[kind][several]
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if _is_sequence(origin or kind):
        if not inner:
            return "a list"
        if origin is tuple and inner[-1] is not ...:
            return f"a list of {len(inner)} {_name(inner[0], several=True)}"
        return f"a list of {_name(inner[0], several=True)}"
    if inspect.isclass(origin or kind) and issubclass(origin or kind, Mapping):
        return "a mapping"
    return ""


def show(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
