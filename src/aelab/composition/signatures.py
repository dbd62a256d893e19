"""The annotated types of the parameters of what a config names, read from its source.

Nothing is imported, because torch takes seconds and a wrong value is answered before. What cannot be read takes
anything here; `aelab.composition.instantiate.check` asks the imported object later.
"""

import ast
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union

from aelab.ranges import Count, NonNegative, ShareBelow1, Whole

LIGHT = ("builtins", "typing", "collections.abc", "pathlib", "aelab.ranges")
_UNLIMITED = Count | Literal[-1]
_TRAINER = {
    "max_epochs": _UNLIMITED | None,
    "max_steps": _UNLIMITED,
    "num_nodes": Count,
    "check_val_every_n_epoch": Count | None,
    "accumulate_grad_batches": Count,
    "gradient_clip_val": NonNegative | None,
    "limit_train_batches": NonNegative | None,
    "limit_val_batches": NonNegative | None,
    "limit_test_batches": NonNegative | None,
    "overfit_batches": NonNegative,
    "log_every_n_steps": Whole | None,
}
_OPTIMIZERS = {
    "lr": NonNegative,
    "weight_decay": NonNegative,
    "momentum": NonNegative,
    "eps": NonNegative,
    "betas": tuple[ShareBelow1, ShareBelow1],
    "max_iter": Count,
    "history_size": Count,
}


class Part:
    """Stands for any class that is not a plain value. Only a `_target_` builds one."""


def parameters(target: str) -> dict[str, Any]:
    """Return the type of each annotated parameter of a class or function. Empty if its source is not found.

    Libraries do not annotate ranges. What is known of theirs is added.
    """
    module, _, name = target.rpartition(".")
    found = _definition(module, name)
    if found is None:
        return {}
    module, node = found
    types = _of_class(module, node) if isinstance(node, ast.ClassDef) else {}
    if isinstance(node, ast.FunctionDef):
        types = _of_function(module, node)
    narrower = _TRAINER if name == "Trainer" else _OPTIMIZERS if target.startswith("torch.optim.") else {}
    return types | {key: kind for key, kind in narrower.items() if key in types}


def _of_class(module: str, node: ast.ClassDef) -> dict[str, Any]:
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return _of_function(module, part)
    inherited: dict[str, Any] = {}
    for base in reversed(node.bases):
        found = _definition(module, base.id) if isinstance(base, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef):
            inherited |= _of_class(found[0], found[1])
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return inherited
    own: dict[str, Any] = {}
    for part in node.body:
        match part:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=value):
                if not ast.unparse(kind).startswith("ClassVar") and "init=False" not in ast.unparse(value or kind):
                    own[name] = _type(module, kind)
    return inherited | own


def _of_function(module: str, node: ast.FunctionDef) -> dict[str, Any]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return {one.arg: _type(module, one.annotation) for one in arguments if one.annotation is not None}


def _type(module: str, node: ast.expr) -> Any:
    """Return the type that an annotation means. `Any` for one that cannot be read."""
    match node:
        case ast.Constant(value=str(text)):
            return _type(module, ast.parse(text, mode="eval").body)
        case ast.Constant(value=value):
            return value
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(module, left), _type(module, right)]  # noqa: UP007, of values
        case ast.Name(id=name):
            return _named(module, name)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return _named(module, "Literal")[ast.literal_eval(inner)]
        case ast.Subscript(value=of, slice=inner):
            several = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            kind, arguments = _type(module, of), tuple(_type(module, one) for one in several)
            return kind if kind in (Any, Part) else kind[arguments if len(arguments) > 1 else arguments[0]]
        case ast.List(elts=several):  # of `Callable[[...], ...]`
            return [_type(module, one) for one in several]
    return Any


def _named(module: str, name: str) -> Any:
    found = _definition(module, name)
    if found is None:
        builtin = getattr(importlib.import_module("builtins"), name, Any)
        return builtin if isinstance(builtin, type) else Any
    module, node = found
    match node:
        case None:
            return getattr(importlib.import_module(module), name)
        case ast.ClassDef():
            return Part
        case ast.Assign(value=value):
            return _type(module, value)
    return Any


@functools.cache
def _definition(module: str, name: str) -> tuple[str, ast.stmt | None] | None:
    """Return the module and the statement that define a name, through imports. No statement for a light module."""
    if module in LIGHT:
        return (module, None) if hasattr(importlib.import_module(module), name) else None
    for statement in _statements(module):
        match statement:
            case ast.ClassDef(name=defined) | ast.FunctionDef(name=defined) if defined == name:
                return module, statement
            case ast.Assign(targets=[ast.Name(id=defined)]) if defined == name:
                return module, statement
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                for alias in names:
                    if (alias.asname or alias.name) == name:
                        return _definition(origin, alias.name)
    return None


@functools.cache
def _statements(module: str) -> list[ast.stmt]:
    path = _source(module)
    return list(_flat(ast.parse(path.read_text(encoding="utf-8")).body)) if path else []


def _flat(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in statements:
        yield statement
        if isinstance(statement, ast.If):
            yield from _flat(statement.body)


def _source(module: str) -> Path | None:
    """Return the file of a module. Only the outermost package is looked up, because that imports nothing."""
    package, *inner = module.split(".")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for place in (found.submodule_search_locations or []) if found else []:
        path = Path(place).joinpath(*inner)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file
    origin = Path(found.origin) if found and found.origin and not inner else None
    return origin if origin and origin.suffix == ".py" else None
