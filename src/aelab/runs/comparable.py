"""Which numbers of runs compare. A loss is no measure of another objective, and no number one of other data."""

import re
from collections.abc import Mapping

_OBJECTIVE = ("model", "codebook", "reconstruction", "noise")
_SIZES = re.compile(r"(model\..*(dims?|widths)|codebook\.(size|levels|depth))$")  # another size is the same objective
_LOADING = ("data.batch_size", "data.eval_batch_size", "data.num_workers", "data.loader", "data.drop_last")


def family(values: Mapping[str, str], column: str) -> tuple[tuple[str, str], ...]:
    """Return what two settings must share, so that this number compares them.

    That is the data; for a loss also model, noise, reconstruction term and their weights; for the reconstruction term
    of a loss what that term is.
    """
    name = column.rpartition("/")[2]
    groups = {"loss": ("data", *_OBJECTIVE), "reconstruction": ("data", "reconstruction", "noise")}.get(name, ("data",))
    return tuple(
        (key, value)
        for key, value in sorted(values.items())
        if re.split(r"[.@]", key)[0] in groups and key not in _LOADING and not _SIZES.match(key)
    )
