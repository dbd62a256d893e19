"""`ae finetune run=DIR`: a classifier on the encoder of a trained run, trained as a run of its own."""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from aelab.commands.train import KEYS
from aelab.composition.compose import group_choices
from aelab.composition.explain import task
from aelab.runs.run import Run

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from aelab.training.complete import Score


def main(config: "DictConfig") -> "Score":
    """Train a classifier on the encoder of `config.run` and of the runs below it. Return its score."""
    with task("finetune", config, KEYS | {"run": str}):
        from aelab.composition.instantiate import check
        from aelab.composition.stages import choices, on_encoder
        from aelab.training.complete import complete

        before = Run(config.run, config.trust)
        hydra = HydraConfig.get()
        folder = Path(hydra.runtime.output_dir)
        config.folder = str(folder)
        config = on_encoder(config, before)
        check(config, config.trust)
        chosen = choices(config, before) | group_choices()
        return complete(Run.start(folder, config, chosen, list(hydra.overrides.task)))
