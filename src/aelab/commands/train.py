"""`ae train`: a run, from a composed config to a folder with its numbers.

From the command line to the loss it is six hops:

1. `aelab.cli.main` lets Hydra compose the config and call `main` below;
2. `main` starts or opens the run folder and calls `aelab.training.complete.complete`;
3. `complete` builds the data and calls `aelab.training.fit.fit`;
4. `fit` starts Lightning's trainer, which at each step calls `aelab.training.fast_loop.step` (or its own equivalent);
5. `step` calls `training_step` of `aelab.models.base.Objective`;
6. `training_step` calls the `loss` of the model, for example the one in `aelab/models/vae.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from aelab.composition.compose import chosen_by_others, group_choices
from aelab.composition.explain import task
from aelab.ranges import Whole
from aelab.runs.run import Run

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from aelab.training.complete import Score

KEYS: dict[str, Any] = {
    "name": str,
    "seed": Whole,
    "score": str | list[str],
    "stages": dict[str, dict[str, Any]] | None,
    "compile": bool,
    "trust": list[str],
    "paths": dict[str, str | None],
    "resume": str | None,
}


def main(config: "DictConfig") -> "Score":
    """Train a new run, or go on with one. Return `config.score`, one number or several, for a sweep.

    The same line, typed again with the same folder, completes the run: a run that is done returns its score, and any
    other goes on from what it saved last.
    """
    with task("train", config, KEYS):
        from aelab.composition.instantiate import check

        folder = Path(HydraConfig.get().runtime.output_dir)
        if config.resume is None:
            config.folder = str(folder)
            check(config, config.trust)
        from aelab.training.complete import complete  # torch takes seconds, and most mistakes were found by now
        from aelab.training.processes import join, node

        if config.resume is not None:
            run = Run(config.resume, config.trust)
            run.check_paths()
            return complete(run)
        if config.trainer.num_nodes != 1 and node() > 0:
            return join(folder, config)
        words = list(HydraConfig.get().overrides.task)
        return complete(Run.start(folder, config, group_choices(), words), chosen_by_others())
