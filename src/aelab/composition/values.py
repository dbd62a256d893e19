"""Values of a config against the types of what they are for. One mechanism for every key of every group.

The types are the annotations of the class or function that a part names by `_target_`, and may hold an
`aelab.ranges.Range`. A parameter without an annotation takes anything.
"""

import inspect
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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
            elif not isinstance(value, list | tuple) and fits([value], types_by_key[key]):
                line += f": type {prefix}{key}=[{show(value)}]"
            elif isinstance(value, float) and value.is_integer() and fits(int(value), types_by_key[key]):
                line += f": type {prefix}{key}={int(value)}"
            raise UserError(line)


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type. What a nested `_target_` builds checks its own values."""
    if kind is Any or (isinstance(value, Mapping) and "_target_" in value):
        return True
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, inner[0]) and all(value in one for one in inner[1:])
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
    parts = [part for kind in _alternatives(kind) for part in (kind, *get_args(kind))]
    words = [one for part in parts if get_origin(part) is Literal for one in get_args(part)]
    if isinstance(value, str) and any(isinstance(one, str) for one in words):
        return f"is none of {', '.join(map(str, words))}"
    if words and isinstance(value, list | tuple) and (unknown := [one for one in value if one not in words]):
        return f"holds {show(unknown[0])}, which is none of {', '.join(map(str, words))}"
    if fits(value, _anywhere(kind)):
        ranges = " or ".join(map(str, [*_ranges(kind), *words]))
        return f"must be {ranges}" if isinstance(value, int | float) else f"holds a number that is not {ranges}"
    what = "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, list | tuple) else None
    found = what or _NAMES.get(None if value is None else type(value), (f"{value!r}",))[0]
    expected = dict.fromkeys(filter(None, map(_name, _alternatives(kind))))
    return f"is {found}, and {' or '.join(expected)} belongs there"


def _anywhere(kind: Any) -> Any:
    """Return a type without its ranges."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return inner[0]
    if not inner or origin is Literal:
        return kind
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_anywhere, inner))]  # noqa: UP007, of values
    return origin[tuple(map(_anywhere, inner))] if origin is not None else kind


def _ranges(kind: Any) -> list[Any]:
    """Return the ranges in a type, each once."""
    if get_origin(kind) is Annotated:
        return list(get_args(kind)[1:])
    return list(dict.fromkeys(one for part in get_args(kind) for one in _ranges(part)))


def _alternatives(kind: Any) -> list[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        return [one for part in get_args(kind) for one in _alternatives(part)]
    return [kind]


def _name(kind: Any, several: bool = False) -> str:
    """Return a type in words: `a whole number`, `a list of 3 whole numbers`. Empty for what only a target builds."""
    kind = _anywhere(kind)
    origin, inner = get_origin(kind), get_args(kind)
    if kind is type(None):
        kind = None
    if kind in _NAMES:
        return _NAMES[kind][several]
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else str(inner[0])
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
