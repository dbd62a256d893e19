"""Sweepers that complete a sweep if it is typed again.

They skip jobs that are done, and go on with jobs that were cut. `Grid` also retries jobs that failed.
They lie in this package because Hydra looks for plugins nowhere else. `aelab.runs.sweep` says what a sweep is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from aelab.composition import values
from aelab.composition.explain import explain
from aelab.errors import UserError, require
from aelab.ranges import Count, Whole
from aelab.runs.frozen import word_today
from aelab.runs.log import start_console
from aelab.runs.sweep import Sweep, job_name, settings

KEYS: dict[str, Any] = {
    "n_trials": Count,
    "n_jobs": Count,
    "directions": list[Literal["minimize", "maximize"]],
    "sampler": Literal["tpe", "random", "grid", "nsga2"],
    "seed": Whole,
}
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
        if before is None:
            self.check(jobs)
        else:  # it was checked when it began, perhaps by an earlier version
            self.validate_batch_is_legal(left)
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
        self.failure = ""  # why the last trial that failed did so

    def sweep(self, arguments: list[str]) -> Any:
        require("optuna", "hydra/sweeper=optuna")
        from optuna.trial import TrialState

        fixed, space = self.space(arguments)
        self.check_line(fixed, space)
        study = self.study(fixed, {name: str(of) for name, of in space.items()})
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
        if not finished and all(trial.state == TrialState.FAIL for trial in done):
            raise UserError(f"none of {len(done)} trials completed: {self.failure}")
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
                self.failure = outcome
                study.tell(number, state=TrialState.FAIL)
            elif attributes.get("pruned"):
                study.tell(number, state=TrialState.PRUNED)
            else:
                study.tell(number, outcome)
        except RuntimeError:  # the grid sampler is through. Optuna noted the outcome before
            self.n_trials = number + 1

    def check_line(self, fixed: list[str], space: dict[str, Any]) -> None:
        """Raise UserError for what is wrong with the line, before anything is written."""
        values.check(vars(self), KEYS, "hydra.sweeper.")
        job = [*fixed, *(f"{key}={_first(of)}" for key, of in space.items())]
        with self.composed(job) as config:
            scores = [config.score] if isinstance(config.score, str) else list(config.score)
            if len(scores) != len(self.directions):
                raise UserError(
                    f"score={values.show(scores)} and hydra.sweeper.directions={values.show(self.directions)}: "
                    "type one direction, minimize or maximize, for each score"
                )
            if len(scores) > 1 and config.callbacks.get("prune"):
                raise UserError("callbacks=[prune] judges trials by one score: leave it out, or type one score")
        self.check([job])

    def study(self, fixed: list[str], space: dict[str, str]) -> Any:
        """Return the study in the sweep's folder, new or as it was left. One of which no trial completed begins anew.

        Raises UserError if it has another space, other directions, or other words beside the space.
        """
        from optuna import create_study, delete_study, logging
        from optuna.samplers import BruteForceSampler, NSGAIISampler, RandomSampler, TPESampler
        from optuna.trial import TrialState

        from aelab.callbacks.prune import storage

        samplers: dict[str, Any] = {
            "tpe": TPESampler,
            "random": RandomSampler,
            "grid": BruteForceSampler,
            "nsga2": NSGAIISampler,
        }
        logging.set_verbosity(logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        place: dict[str, Any] = {"study_name": "study", "storage": storage(self.folder)}
        study = create_study(**place, directions=self.directions, load_if_exists=True)
        trials = study.get_trials()
        if trials and all(trial.state == TrialState.FAIL for trial in trials):
            delete_study(**place)
            study, trials = create_study(**place, directions=self.directions), []
        words = {key: value for key, _, value in (word.partition("=") for word in settings(fixed))}
        now = {"directions": self.directions, "space": space, "choice": words}
        then = now | study.user_attrs  # a study of an earlier version does not say
        if not trials:
            for name, value in now.items():
                study.set_user_attr(name, value)
        elif different := [name for name in now if then[name] != now[name]]:
            what = different[0]
            raise UserError(
                f"{self.folder} holds a search with another {what} ({_difference(then[what], now[what])}): "
                "type another name=…"
            )
        # A study that goes on draws new values.
        study.sampler = samplers[self.sampler](seed=self.seed + len(trials))
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


def _first(of: Any) -> Any:
    """Return one value of a distribution."""
    return of.choices[0] if hasattr(of, "choices") else of.low


def _difference(then: Any, now: Any) -> str:
    if not isinstance(then, dict):
        return f"{values.show(then)}, now {values.show(now)}"
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return ", ".join(f"{key}: {then.get(key, 'absent')}, now {now.get(key, 'absent')}" for key in keys)
