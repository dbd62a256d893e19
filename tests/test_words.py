"""A shell's words arrive as they were typed, whatever a file system allows in a name."""

import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from aelab.composition.words import for_hydra
from aelab.errors import UserError


def value(word: str):
    return OverridesParser.create().parse_override(word).value()


def unusual(n: int) -> list[str]:
    """Return names of every kind of character but `/` and the two of an interpolation."""
    draw = random.Random(0)
    characters = [chr(c) for c in range(33, 127) if chr(c) not in "/$"] + list(" äß日本é😀‘")
    return ["".join(draw.choices(characters, k=draw.randint(1, 12))) for _ in range(n)]


NAMES = [
    "größe", "a=b,c", "a, b", "3", "1e5", "true", "it's", 'say "x"', "back\\", "a\\'b", "(1)", "[x", "{y}", "a:b", 
    "x#y", " a ", "a\tb", "~x", "-5", "nan", "a%b", "*", "日本", *unusual(200),
]  # fmt: skip


@pytest.mark.parametrize("key", ["data.root", "run", "name", "paths.log_dir", "output", "data.of.root", "+data.root"])
def test_a_path_is_what_was_typed(key):
    for name in NAMES:
        if name[0] == name[-1] and name[0] in "'\"" and len(name) > 1:
            continue  # somebody who quotes for Hydra
        (word,) = for_hydra("predict", [f"{key}={name}"])
        assert value(word) == name, name


def test_any_other_value_is_read_as_hydra_reads_it_or_quoted():
    read = for_hydra(
        "train", ["model.latent_dim=3", "net.hidden_dims=[1,2]", "data.label=größe", "name=null", "~noise"]
    )
    assert [value(word) for word in read[:4]] == [3, [1, 2], "größe", None]
    assert read[4] == "~noise"
    assert for_hydra("train", ["-m", "data.root=a,b", "name=x"])[1] == "data.root=a,b"  # two values
    assert value(for_hydra("train", ["-m", "data.root=größe,x", "name=x"])[1]) == "größe,x"
    assert for_hydra("train", ["data.root=${oc.env:HOME}/x"]) == ["data.root=${oc.env:HOME}/x"]


@pytest.mark.parametrize(
    ("verb", "word", "line"),
    [
        ("train", "vae", "'vae' is no key=value: type model=vae"),
        ("train", "mnist", "'mnist' is no key=value: type data=mnist"),
        ("evaluate", ".", "'.' is no key=value: type run=."),
        ("train", "nothing", "'nothing' is no key=value (see `ae train --help`)"),
        ("train", "größe=3", "'größe=3' cannot be read: 'größe' is no key, type key=value (see `ae train --help`)"),
    ],
)
def test_what_is_no_word(verb, word, line):
    with pytest.raises(UserError) as error:
        for_hydra(verb, [word])
    assert str(error.value) == line
