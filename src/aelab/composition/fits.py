"""What goes with what: the domain and the rank of the data, against net, reconstruction term, noise and model."""

from collections.abc import Iterator
from typing import Any

import yaml
from hydra.utils import get_class

from aelab.composition.compose import configs
from aelab.errors import UserError
from aelab.models.base import Autoencoder
from aelab.nets.base import Net
from aelab.noise import Noise
from aelab.reconstruction import Reconstruction

BASES: dict[str, type] = {"model": Autoencoder, "net": Net, "noise": Noise, "reconstruction": Reconstruction}
KINDS = ("vectors", "signals", "images", "volumes")
DOMAINS = {"unit": "numbers in [0, 1]", "real": "real numbers", "tokens": "tokens"}


def check(group: str, part: Any, shape: tuple[int, ...], domain: str) -> None:
    """Raise UserError if a part of `group`, or its class, does not take data of this shape and domain.

    The line says which do. A user's own class inherits from the base of its group, or that is said.
    """
    own = part if isinstance(part, type) else type(part)
    if (base := BASES[group]) not in own.__mro__:
        raise UserError(
            f"{group}: {own.__module__}.{own.__qualname__} is no {base.__name__}: write "
            f"class {own.__name__}({base.__name__}), with from {base.__module__} import {base.__name__}"
        )
    rank = len(shape) - 1
    if rank > 3:
        raise UserError(f"data.shape={list(shape)} has {rank} sizes: it must have one channel axis and 0 to 3 sizes")
    kinds, domains = getattr(part, "ranks", range(4)), getattr(part, "domains", tuple(DOMAINS))
    if domain in domains and rank in kinds:
        return
    name = next((name for name, kind in _choices(group) if kind is own), own.__name__)
    if domain not in domains:
        wants, are = " and ".join(DOMAINS[one] for one in domains), DOMAINS[domain]
    else:
        wants, are = _listed([KINDS[one] for one in kinds]), f"{KINDS[rank]} (data.shape={list(shape)})"
    others = [name for name, _ in _choices(group) if takes(group, name, rank, domain)]
    hint = f": type {group}={others[0]}" + (f" (or {', '.join(others[1:])})" if others[1:] else "") if others else ""
    raise UserError(f"{group}={name} takes {wants}, and these are {are}{hint}")


def takes(group: str, name: str, rank: int, domain: str) -> bool:
    """Whether the choice NAME of a group takes data of this rank and domain."""
    kind: Any = dict(_choices(group))[name]
    domains = getattr(kind, "domains", tuple(DOMAINS))
    # The link of a term follows the domain, so before it is built it takes any numbers.
    domains = ("unit", "real") if isinstance(domains, property) else domains
    return domain in domains and rank in getattr(kind, "ranks", range(4))


def _choices(group: str) -> Iterator[tuple[str, type]]:
    for path in sorted((configs() / group).glob("*.yaml")):
        target = yaml.safe_load(path.read_text(encoding="utf-8")).get("_target_")
        if target:
            yield path.stem, get_class(target)


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
