"""Sweepers that complete a sweep if it is typed again.

They skip jobs that are done, and go on with jobs that were cut. `Grid` also retries jobs that failed.
They lie in this package because Hydra looks for plugins nowhere else. `aelab.runs.sweep` says what a sweep is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from aelab.composition.explain import explain
from aelab.errors import UserError
from aelab.runs.log import start_console
from aelab.runs.sweep import Sweep

Outcome = float | list[float] | str  # the score or scores of a job, or the reason why it failed

# `Grid` takes the place of Hydra's own `basic`. A config that overrode the sweeper in the primary defaults list instead
# would win over `sweep=tpe`, which chooses Optuna.
ConfigStore.instance().store(
    "basic", {"_target_": f"{__name__}.Grid", "params": {}}, group="hydra/sweeper", provider="aelab"
)


class Completing(Sweeper):
    """What both sweepers share: a ledger, and the launcher that the user chose."""

    hydra_context: HydraContext
    params: dict[str, Any]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.folder, self.verb = Path(config.hydra.sweep.dir), config.hydra.job.name
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def parse(self, arguments: list[str]) -> list[Override]:
        """Return the overrides of `hydra.sweeper.params`, and after them those of the command line."""
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        return OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(words)

    @contextmanager
    def composed(self, job: Sequence[str]) -> Iterator[DictConfig]:
        """Give the config of a job as its own process composes it."""
        assert self.config is not None
        running = HydraConfig.instance().cfg
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(job))
        HydraConfig.instance().set_config(config)
        try:
            with open_dict(config):
                del config["hydra"]
            config.folder = str(self.folder)
            yield config
        finally:
            HydraConfig.instance().cfg = running

    def check(self, jobs: Sequence[Sequence[str]]) -> None:
        """Raise UserError for what is wrong with the line, before anything is written.

        Every job is composed, so that a misspelt key stops the sweep. A job with a wrong value stops no other, but the
        sweep stops if each has one. One job says whether they will have their score.
        """
        self.validate_batch_is_legal(jobs)
        if self.verb != "train" or not jobs:
            return
        from aelab.composition.instantiate import check

        wrong: list[UserError] = []
        for job in jobs:
            with self.composed(job) as config:
                try:
                    check(config, config.trust)
                except UserError as error:
                    wrong.append(error)
                    continue
                if config.score != "val/loss":  # torch takes seconds
                    from aelab.composition import build
                    from aelab.training import scores

                    start_console(None)
                    data = build.data(config)
                    data.setup()
                    scores.check(config, data)
                return
        raise wrong[0]

    def launch(self, jobs: Sequence[Sequence[str]], first: int = 0) -> list[Outcome]:
        """Run the jobs. Return for each one its score or scores, or a line that says why it failed."""
        if not jobs:
            return []
        returns = self.launcher.launch(jobs, initial_job_idx=first)
        return [self.outcome(result, job) for result, job in zip(returns, jobs, strict=True)]

    def outcome(self, result: JobReturn, job: Sequence[str]) -> Outcome:
        try:
            with redirect_stderr(
                StringIO()
            ):  # Hydra would print the words of a job that failed. The caller prints the reason
                score: float | list[float] = result.return_value
            return score
        except Exception as error:
            return explain(error, self.verb, list(job)) or f"{type(error).__name__}: {' '.join(str(error).split())}"


class Grid(Completing):
    """Runs every combination of the values of each key, such as `seed=0,1,2`.

    `params` are keys with their values, beside those of the command line.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params

    def sweep(self, arguments: list[str]) -> Any:
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        (jobs,) = BasicSweeper.split_arguments(self.parse(arguments), None)
        before = Sweep(self.folder) if (self.folder / "sweep.json").is_file() else None
        left = [job for job in jobs if before is None or not before.is_done(job)]
        if before and before.began:  # it was checked then, perhaps by an earlier version
            self.validate_batch_is_legal(left)
        else:
            self.check(jobs)
        sweep = Sweep.plan(self.folder, jobs)
        print(f"sweep   {self.folder}: {len(jobs)} jobs, {len(jobs) - len(left)} done", flush=True)
        failed = {
            sweep.name_of(job): outcome
            for job, outcome in zip(left, self.launch(left), strict=True)
            if isinstance(outcome, str)
        }
        for name, reason in failed.items():
            print(f"failed  {name}: {reason}", flush=True)
        if failed:
            raise UserError(f"{len(failed)} of {len(jobs)} jobs failed: type the same line again to retry them")
        print(f"sweep   {self.folder}: {len(jobs)} jobs done", flush=True)
