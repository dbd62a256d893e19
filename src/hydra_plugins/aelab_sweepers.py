"""Sweepers that complete a sweep if it is typed again.

They skip jobs that are done, and go on with jobs that were cut. `Grid` also retries jobs that failed.
They lie in this package because Hydra looks for plugins nowhere else. `aelab.runs.sweep` says what a sweep is.
"""

from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from aelab.composition.explain import explain
from aelab.errors import UserError
from aelab.runs.frozen import word_today
from aelab.runs.sweep import Sweep, job_name

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

    def launch(self, jobs: Sequence[Sequence[str]], first: int = 0) -> list[Outcome]:
        """Run the jobs. Return for each one its score or scores, or a line that says why it failed."""
        if not jobs:
            return []
        self.validate_batch_is_legal(jobs)  # a misspelt key stops a sweep before it begins
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
        sweep = Sweep.plan(self.folder, jobs)
        left = [job for job in jobs if sweep.manifest(sweep.name_of(job))["status"] != "done"]
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


class Search(Completing):
    """A search by Optuna. The values of a key come from `choice(a,b)`, `range(1,9)`, `interval(0.1,10)` or
    `tag(log,interval(…))`.

    The study lies in the sweep's folder. If the line is typed again, the study goes on toward the same total of trials,
    and begins with the trials that were cut. Trials that failed are not retried. With several scores, such as
    score=[val/mse,val/kl] and directions=[minimize,minimize], it looks for the Pareto front.
    """

    def __init__(
        self, n_trials: int, n_jobs: int, directions: Sequence[str], sampler: str, seed: int, params: dict[str, str]
    ) -> None:
        self.n_trials, self.n_jobs, self.params = n_trials, n_jobs, params
        self.directions: list[Any] = list(directions)
        self.sampler, self.seed = sampler, seed

    def sweep(self, arguments: list[str]) -> Any:
        from optuna.trial import TrialState

        fixed, space = self.space(arguments)
        study = self.study()
        ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if "job" not in trial.user_attrs:  # the sweep was killed while it drew the values
                study.tell(trial.number, state=TrialState.FAIL)
        while len(done := [t for t in study.get_trials(states=ended) if "job" in t.user_attrs]) < self.n_trials:
            trials: list[Any] = study.get_trials(states=(TrialState.RUNNING,))[: self.n_jobs]  # were cut
            for _ in range(min(self.n_jobs, self.n_trials - len(done)) - len(trials)):
                trial = study.ask(space)
                job = [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]
                trial.set_user_attr("folder", job_name(job))
                trial.set_user_attr("job", job)
                trials.append(trial)
            jobs = [[*map(word_today, trial.user_attrs["job"])] for trial in trials]
            Sweep.plan(self.folder, jobs)
            for trial, outcome in zip(trials, self.launch(jobs, first=len(done)), strict=True):
                self.tell(study, trial.number, outcome)
        finished = study.get_trials(states=(TrialState.COMPLETE,))
        print(f"study   {self.folder}: {len(done)} trials, {len(finished)} completed", flush=True)
        for trial in study.best_trials if finished else []:
            values = ", ".join(f"{value:.6g}" for value in trial.values)
            print(f"best    {values}: {job_name(trial.user_attrs['job'])}", flush=True)

    def tell(self, study: Any, number: int, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        attributes = study.trials[number].user_attrs
        if isinstance(outcome, str):
            print(f"failed  {job_name(attributes['job'])}: {outcome}", flush=True)
        try:
            if isinstance(outcome, str):
                study.tell(number, state=TrialState.FAIL)
            elif attributes.get("pruned"):
                study.tell(number, state=TrialState.PRUNED)
            else:
                study.tell(number, outcome)
        except RuntimeError:  # the grid sampler is through. Optuna noted the outcome before
            self.n_trials = number + 1

    def study(self) -> Any:
        """Return the study in the sweep's folder, new or as it was left."""
        from optuna import create_study, logging
        from optuna.samplers import BruteForceSampler, NSGAIISampler, RandomSampler, TPESampler

        from aelab.callbacks.prune import storage

        samplers: dict[str, Any] = {
            "tpe": TPESampler,
            "random": RandomSampler,
            "grid": BruteForceSampler,
            "nsga2": NSGAIISampler,
        }
        if self.sampler not in samplers:
            raise UserError(f"hydra.sweeper.sampler={self.sampler} is none of {', '.join(samplers)}")
        logging.set_verbosity(logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        study = create_study(
            study_name="study", storage=storage(self.folder), directions=self.directions, load_if_exists=True
        )
        study.sampler = samplers[self.sampler](
            seed=self.seed + len(study.trials)
        )  # a study that goes on draws new values
        return study

    def space(self, arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
        """Return the overrides that are fixed, and the distribution of each key that is searched."""
        from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
        from optuna import distributions as of

        fixed: list[str] = []
        space: dict[str, Any] = {}
        for override in self.parse(arguments):
            key, value = override.get_key_element(), override.value()
            match value:
                case ChoiceSweep():
                    space[key] = of.CategoricalDistribution(list(override.sweep_string_iterator()))
                case IntervalSweep(start=int(low), end=int(high), tags=tags):
                    space[key] = of.IntDistribution(low, high, log="log" in tags)
                case IntervalSweep(start=float() | int() as low, end=float() | int() as high, tags=tags):
                    space[key] = of.FloatDistribution(low, high, log="log" in tags)
                case RangeSweep(start=int(start), stop=int(stop), step=int(step)):
                    space[key] = of.IntDistribution(start, stop - step, step=step)
                case _:
                    fixed.append(f"{key}={override.get_value_element_as_str()}")
        if not space:
            raise UserError(
                "there is nothing to search: type, for example, optimizer.lr='tag(log,interval(1e-4,1e-2))'"
            )
        return fixed, space
