"""One mechanism notices wrong values for every key of every group."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pytest
import torch
import yaml
from conftest import compose, names, of_source
from hydra.utils import get_object

from aelab.composition import signatures, values
from aelab.composition.instantiate import build
from aelab.errors import UserError
from aelab.ranges import Count, NonNegative, Range, ShareBelow1
from aelab.runs import frozen
from aelab.schedules import Linear, Scheduled

FITS = [
    (int, 3), (float, 3), (float, 0.5), (bool, True), (str, "a"), (Path, "a/b"), (int | None, None), (None, None),
    (Literal["a", "b"], "a"), (Literal[1, "b"], 1), (tuple[int, int], [1, 2]), (tuple[int, ...], [1, 2, 3]),
    (Sequence[int], []), (Sequence[float], [1, 0.5]), (list, [1, "a"]), (Mapping[str, int], {"a": 1}), (Any, object()),
    (dict[str, list[int]], {"a": [1]}), (Scheduled, 0.5), (Scheduled, {"_target_": "x"}), (torch.Tensor | float, 1.0),
    (Linear, {"_target_": "x"}), (Count, 1), (NonNegative, 0.0), (Sequence[Count], [1, 2]), (Count | Literal[-1], -1),
    (Annotated[float, Range(0, 1, above=True)], 1),
]  # fmt: skip
MISFITS = [
    (int, "abc", "is a word, and a whole number belongs there"),
    (int, 0.5, "is a number, and a whole number belongs there"),
    (int, True, "is true or false, and a whole number belongs there"),
    (int, [3], "is a list, and a whole number belongs there"),
    (int, None, "is null, and a whole number belongs there"),
    (float, "fast", "is a word, and a number belongs there"),
    (bool, "maybe", "is a word, and true or false belongs there"),
    (bool, 1, "is a whole number, and true or false belongs there"),
    (str, 3, "is a whole number, and a word belongs there"),
    (int | None, "abc", "is a word, and a whole number or null belongs there"),
    (Literal["ema", "loss"], "los", "is none of ema, loss"),
    (Literal["ema", "loss"], 3, "is a whole number, and one of ema, loss belongs there"),
    (tuple[int, int, int], [3, 9], "is a list, and a list of 3 whole numbers belongs there"),
    (tuple[int, int, int], 9, "is a whole number, and a list of 3 whole numbers belongs there"),
    (Sequence[int], 512, "is a whole number, and a list of whole numbers belongs there"),
    (Sequence[int], "512", "is a word, and a list of whole numbers belongs there"),
    (Sequence[int], [512, "a"], "is a list, and a list of whole numbers belongs there"),
    (Mapping[str, int], [1], "is a list, and a mapping belongs there"),
    (Scheduled, "abc", "is a word, and a number belongs there"),
    (Scheduled, -1, "must be at least 0"),
    (Count, 0, "must be at least 1"),
    (Count | Literal[-1] | None, 0, "must be at least 1 or -1"),
    (Count, 2.0, "is a number, and a whole number belongs there: type group.key=2"),
    (ShareBelow1, 1, "must be from 0 to below 1"),
    (ShareBelow1, float("nan"), "must be from 0 to below 1"),
    (Annotated[float, Range(0, 1, above=True)], 0.0, "must be above 0 to 1"),
    (Sequence[Count], [512, -3], "holds a number that is not at least 1"),
    (Sequence[Count], 512, "is a whole number, and a list of whole numbers belongs there: type group.key=[512]"),
    (list[Literal["val", "test"]], ["train"], "holds train, which is none of val, test"),
]


@pytest.mark.parametrize(("kind", "value"), FITS)
def test_what_fits(kind, value):
    assert values.fits(value, kind)


@pytest.mark.parametrize(("kind", "value", "expected"), MISFITS)
def test_what_does_not_fit(kind, value, expected):
    with pytest.raises(UserError) as error:
        values.check({"key": value}, {"key": kind}, "group.")
    assert str(error.value).startswith(f"group.key={values.show(value)} {expected}")


def parts(node: Any, key: str):
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from parts(value, f"{key}.{name}" if key else name)


CHOICES = [
    *(f"{group}={name}" for group in ("model", "net", "noise", "reconstruction", "optimizer", "scheduler", "trainer")
      for name in names(group)),
    *(f"data={name}" for name in names("data") if name != "codes"),
    *(f"{group}=[{name}]" for group in ("callbacks", "logger", "metrics") for name in names(group)),
]  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
def test_a_wrong_value_of_any_key_is_noticed(choice):
    """Each key of each choice is given a value that cannot be meant.

    A plain value is replaced by a list of a mapping, and a list by a word. The configs pass as they are.
    """
    plain = yaml.safe_load(
        frozen.freeze(compose("train", of_source(choice[5:]) if choice.startswith("data=") else [choice])[0])
    )
    group = choice.partition("=")[0]
    checked = 0
    for key, part in parts({group: plain[group]}, ""):
        types = signatures.parameters(part["_target_"])
        values.check(part, types, f"{key}.")
        for name, value in part.items():
            if name.startswith("_") or isinstance(value, dict) or types.get(name, Any) is Any:
                continue
            wrong = "abc" if isinstance(value, list) else [{"a": 1}]
            with pytest.raises(UserError, match="belongs there|is none of"):
                values.check({name: wrong}, types, f"{key}.")
            checked += 1
    own = str(plain[group].get("_target_", "")).startswith("aelab.")
    assert checked or not own or len(plain[group]) == 1, "the annotations of this class give no type to check"


PROBES = [
    None, True, 0, -1, 1, 0.5, 2.5, float("nan"), "word", [], [1], [0], [0.5], ["a"], [1, 1], [1, 1, 1], {}, {"a": 1},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_read_from_the_source_is_what_python_says(choice):
    plain = yaml.safe_load(
        frozen.freeze(compose("train", of_source(choice[5:]) if choice.startswith("data=") else [choice])[0])
    )
    group = choice.partition("=")[0]
    for key, part in parts({group: plain[group]}, ""):
        if not part["_target_"].startswith("aelab."):
            continue  # ranges of libraries are added
        target = get_object(part["_target_"])
        hints = get_type_hints(target.__init__ if isinstance(target, type) else target, include_extras=True)
        read = signatures.parameters(part["_target_"])
        assert set(read) == set(hints) - {"return"}, key
        for name, kind in read.items():
            for probe in PROBES:
                assert values.fits(probe, kind) == values.fits(probe, hints[name]), (key, name, probe)


def test_the_key_that_was_typed_is_named():
    config, _ = compose("train", ["net.hidden_dims=512", "callbacks=[early_stopping]"])
    with pytest.raises(UserError, match=r"^net.hidden_dims=512 is a whole number, and a list of whole numbers"):
        build(config.net)
    config.callbacks.early_stopping.patience = "long"
    with pytest.raises(UserError, match=r"^callbacks.early_stopping.patience=long is a word, and a whole number"):
        build(config.callbacks.early_stopping)
