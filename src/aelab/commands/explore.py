"""`ae explore run=DIR`: one page, without network or server, to walk through the codes of a trained model."""

from typing import TYPE_CHECKING

from aelab.composition.explain import task_of_run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: "DictConfig") -> None:
    """Write `explore.html` into the run's folder."""
    with task_of_run("explore", config, {"units": list[int] | None}) as run:
        from aelab.figures.explore_page import explore

        explore(run, config.units, config.checkpoint, config.data.root)
