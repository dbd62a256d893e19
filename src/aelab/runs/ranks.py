"""Ranks of the values of one setting over many data sets, and whether they differ by more than chance.

Demšar, Statistical comparisons of classifiers over multiple data sets, 2006.
"""

import math
from typing import Any

import numpy as np

from aelab.errors import UserError, did_you_mean
from aelab.runs.table import HIGHER_IS_BETTER, Report, Setting, markdown


def ranks(report: Report, key: str) -> str:
    """Return a Markdown table for each column of a report: a row per block, and a column per value of `key`.

    A block is what the compared runs share: all settings but `key`, and but those that follow from it, such as the
    noise of model=dae. A cell is the mean over seeds ± their standard deviation. The values are ranked in each block, 1
    for the best, and ties share the mean of their ranks. Below each table stand

    - Friedman's test, whose hypothesis is that all mean ranks are equal;
    - Nemenyi's critical difference of two mean ranks, q sqrt(k (k + 1) / (6 N)) for k values and N blocks, where q is
      the 95 % quantile of the studentized range over sqrt(2).

    Raises UserError if no setting has the name `key`, and for fewer than 3 values or 2 blocks that have all of them.
    """
    named = {name for setting in report.settings for name in setting.values}
    if key not in named:
        raise UserError(
            f"no run has the setting '{key}'{did_you_mean(key, named)} (there are {', '.join(report.keys)})"
        )
    return "\n".join(_table(report, key, column) for column in report.columns)


def _table(report: Report, key: str, column: str) -> str:
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    runs = [setting for setting in report.settings if key in setting.values and setting.of(column)]
    values = sorted({setting.values[key] for setting in runs})
    shared = [k for k in report.keys if k != key and not _follows(k, key, runs)]
    blocks: dict[tuple[str, ...], dict[str, Setting]] = {}
    for setting in runs:
        blocks.setdefault(tuple(setting.values.get(k, "") for k in shared), {})[setting.values[key]] = setting
    whole = {block: by for block, by in sorted(blocks.items()) if len(by) == len(values)}
    if len(values) < 3 or len(whole) < 2:
        raise UserError(
            f"{column}: {len(whole)} blocks have all of {len(values)} values of {key}: ranks need 2 blocks and 3 values"
        )
    if not all(report.compares(column, f"{key}={values[0]}", f"{key}={value}") for value in values):
        raise UserError(f"{column} does not compare values of {key}: type, for example, --columns test/mse")
    means = np.array([[by[value].mean(column) for value in values] for by in whole.values()])
    ranked = rankdata(-means if HIGHER_IS_BETTER.search(column) else means, axis=1)
    mean_ranks = ranked.mean(0)
    order = np.argsort(mean_ranks, kind="stable")
    rows = [[", ".join(shared), *(values[i] for i in order)]]
    for (block, by), its_ranks in zip(whole.items(), ranked, strict=True):
        cells = [_cell(by[values[i]].of(column), its_ranks[i] == its_ranks.min()) for i in order]
        rows.append([", ".join(block), *cells])
    rows.append(["mean rank", *(f"{mean_ranks[i]:.2f}" for i in order)])
    k, n = len(values), len(whole)
    test = friedmanchisquare(*means.T)
    difference = float(studentized_range.ppf(0.95, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    alike = [values[i] for i in order if mean_ranks[i] - mean_ranks[order[0]] < difference]
    left = f" {len(blocks) - n} blocks lack a value, and are left out." if len(blocks) > n else ""
    return (
        f"{column}, {n} blocks.{left}\n\n{markdown(rows)}\n"
        f"Friedman: chi² = {test.statistic:.2f}, p = {test.pvalue:.2g}. Critical difference of two mean ranks "
        f"(Nemenyi, 5 %): {difference:.2f}. Not different from the best: {', '.join(alike)}.\n"
    )


def _follows(other: str, key: str, runs: list[Setting]) -> bool:
    """Whether each value of `key` has a single value of the setting `other`."""
    pairs: dict[str, set[Any]] = {}
    for setting in runs:
        pairs.setdefault(setting.values[key], set()).add(setting.values.get(other))
    return all(len(of) == 1 for of in pairs.values())


def _cell(numbers: list[float], best: bool) -> str:
    text = f"{np.mean(numbers):.3f}" + (f" ± {np.std(numbers, ddof=1):.3f}" if len(numbers) > 1 else "")
    return f"**{text}**" if best else text
