"""`ae train`: a run, from a composed config to a folder with its numbers.

From the command line to the loss it is six hops:

1. `aelab.cli.main` lets Hydra compose the config and call `main` below;
2. `main` starts or opens the run folder and calls `aelab.training.complete.complete`;
3. `complete` builds the data and calls `aelab.training.fit.fit`;
4. `fit` starts Lightning's trainer, which at each step calls `aelab.training.fast_loop.Steps.one` (or its own way);
5. `one` calls `training_step` of `aelab.models.base.Objective`;
6. `training_step` calls the `loss` of the model, for example the one in `aelab/models/vae.py`.
"""

import os
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from aelab.composition.compose import chosen_by_others, group_choices
from aelab.composition.explain import task
from aelab.ranges import Whole
from aelab.runs.run import Run
from aelab.runs.sweep import Sweep

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
        from aelab.training.processes import join, node

        if config.resume is not None:
            run = Run(config.resume, config.trust)
            run.check_paths()
            return _told(run, None)
        if config.trainer.num_nodes != 1 and node() > 0:
            return join(folder, config)
        words = list(HydraConfig.get().overrides.task)
        return _told(Run.start(folder, config, group_choices(), words), chosen_by_others())


def _told(run: Run, chosen: dict[str, str] | None) -> "Score":
    """Complete a run. Say which job of a sweep it is, or what to type next."""
    from aelab.training.complete import complete  # torch takes seconds, and most mistakes were found by now

    hydra, place = HydraConfig.get(), quote(os.path.relpath(run.folder))
    if hydra.mode == RunMode.MULTIRUN:
        if (run.folder.parent / "sweep.json").is_file():  # a sweeper of the user's own keeps no ledger
            jobs = list(Sweep(run.folder.parent).jobs)
            total = hydra.sweeper.get("n_trials", len(jobs))
            print(f"job     {jobs.index(run.folder.name) + 1} of {total}: {run.folder.name}", flush=True)
        return complete(run, chosen)
    try:
        score = complete(run, chosen)
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped ae train resume={place} goes on with it", file=sys.stderr)
        raise
    print(f"next    ae visualize run={place} draws it; ae evaluate, ae explore and ae predict take it too")
    return score
