"""`ae report DIR…`: one table over runs, grouped by their settings, over seeds."""

import argparse
import sys
from pathlib import Path

from aelab.atomic import write_text
from aelab.errors import UserError
from aelab.runs.table import Report

ENDINGS = {".csv": "csv", ".tex": "latex", ".html": "html"}


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="ae report", description=__doc__)
    parser.add_argument("folders", nargs="+", help="folders of runs or sweeps, however deep")
    parser.add_argument("--columns", nargs="+", default=[], help="numbers to show: test/mse likelihood/elbo …")
    parser.add_argument("--sort", help="the number to sort by, the best first")
    parser.add_argument("--format", choices=["markdown", "csv", "latex", "html"], help="markdown, or as --output ends")
    parser.add_argument("--output", type=Path, help="a file to write to, instead of the screen: .md .csv .tex .html")
    parser.add_argument("--paired", nargs=2, metavar=("A", "B"), help="t-test of two settings: model=ae model=vae")
    parser.add_argument("--ranks", metavar="KEY", help="ranks of the values of a setting over all others: model")
    arguments = parser.parse_args(words)
    form = arguments.format or (ENDINGS.get(arguments.output.suffix) if arguments.output else None) or "markdown"
    if form != "markdown" and (arguments.paired or arguments.ranks):
        raise UserError("--paired and --ranks write text: leave out --format")
    report = Report(arguments.folders, arguments.columns, arguments.sort)
    if arguments.paired:
        text = report.paired(*arguments.paired)
    elif arguments.ranks:
        from aelab.runs.ranks import ranks  # numpy

        text = ranks(report, arguments.ranks)
    elif form == "html":
        from aelab.figures.report_page import page  # matplotlib takes a second to import

        text = page(report)
    else:
        text = getattr(report, form)()
    if report.unfinished:
        print(f"{report.unfinished} runs are not done, and left out", file=sys.stderr)
    if arguments.output:
        write_text(arguments.output, text)
        print(arguments.output)
    else:
        print(text, end="")
