"""`ae visualize run=DIR`: every figure of a trained run, as PNG and PDF in its `figures/`, and in TensorBoard."""

from typing import TYPE_CHECKING

from aelab.composition.explain import task_of_run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: "DictConfig") -> None:
    """Draw the figures named in `config.figures`, or all that the run supports."""
    with task_of_run("visualize", config, {"figures": list[str] | None, "images": list[int] | None}) as run:
        from aelab.figures.draw import draw

        draw(run, config.figures, config.checkpoint, config.data.root, config.images)
