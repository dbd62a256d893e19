"""`ae export run=DIR format=FORMAT`: encoder and decoder for a program that has no aelab."""

from typing import TYPE_CHECKING, Literal

from aelab.composition.explain import task_of_run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: "DictConfig") -> None:
    """Write the model, check it against what was written, and print the folder."""
    keys = {"format": Literal["torch_export", "onnx", "safetensors"], "output": str | None}
    with task_of_run("export", config, keys) as run:
        from aelab.training.export import export

        print(export(run, config.format, config.output, config.checkpoint))
