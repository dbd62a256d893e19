"""A search by Optuna that goes on toward its total of trials if it is typed again."""

from collections.abc import Sequence
from typing import Any, Literal

from aelab.composition import values
from aelab.errors import UserError, require
from aelab.ranges import Count, Whole
from aelab.runs.frozen import word_today
from aelab.runs.sweep import Sweep, job_name, settings
from hydra_plugins.aelab_sweepers import Completing, Outcome

KEYS: dict[str, Any] = {
    "n_trials": Count,
    "n_jobs": Count,
    "directions": list[Literal["minimize", "maximize"]],
    "sampler": Literal["tpe", "random", "grid", "nsga2"],
    "seed": Whole,
}


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
