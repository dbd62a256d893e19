"""The command `ae`: a verb, then Hydra's overrides. Nothing heavy is imported before it is needed."""

import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoencoders.compose import configs, group_choices, register_resolvers
from autoencoders.errors import UserError, did_you_mean, explain

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from autoencoders.run import Run
    from autoencoders.train import Score

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"
os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands every exception on, and the line is ours

HELP = """\
Train autoencoders: any objective, any network, any data, any noise.

    ae train [key=value ...]            train a run; -m sweeps over key=a,b,c
    ae evaluate run=DIR [key=value ...] the numbers of a trained run, from its folder alone; --json prints them so
    ae visualize run=DIR [...]          its pictures, into its folder and TensorBoard
    ae explore run=DIR [...]            one page to walk through its codes in a browser

    ae finetune run=DIR [key=value ...] a classifier on its encoder, trained end to end; -m sweeps
    ae rerun run=DIR                    the same run once more, and what differs

    ae status DIR                       how the jobs of a sweep stand
    ae report DIR...                    a table over runs: mean and 95 % interval over seeds

    ae train                                                    a VAE on digits, in seconds
    ae train resume=DIR                                         goes on with a run that was stopped or killed
    ae train model=vae net=conv data=cifar10 noise=gaussian trainer=gpu
    ae train -m name=s model=ae,vae seed=0,1,2                  a sweep; typed again, it completes

    ae train --help          every group, what there is to choose, and every key
    ae train --config-dir D  adds your own folder of configs
    HYDRA_FULL_ERROR=1       shows the traceback behind an error
"""


def main() -> None:
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    verb, *words = words
    # SIGTERM would skip every `finally`: a run could not write how it ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if verb == "worker":
        importlib.import_module("autoencoders.worker").main(*words)
        return
    with _one_line_errors(verb, words):
        if verb in TABLES:
            importlib.import_module(f"autoencoders.{verb}").main(words)
            return
        if verb not in TASKS:
            verbs = (*TASKS, *TABLES)
            raise UserError(f"no verb '{verb}'{did_you_mean(verb, verbs)} (there are {', '.join(verbs)})")
        _hydra(verb, words)


def _hydra(verb: str, words: list[str]) -> None:
    """Compose the verb's config and run its task under Hydra."""
    import hydra
    from hydra._internal.utils import get_args_parser

    from autoencoders.sweep import digest

    for word in words:
        if word.startswith("resume="):
            folder = word.removeprefix("resume=")
            _check_resume(folder, [other for other in words if other != word])
            words = [*words, f"hydra.run.dir={_quoted(folder)}"]  # no new folder
    sweeps = {"-m", "--multirun"} & set(words) or any(word.startswith("sweep=") for word in words)
    if sweeps and not any(word.startswith("name=") for word in words):
        # The same line has the same folder, so that it can be typed again.
        words = [*words, f"name=sweep_{digest(' '.join(sorted(words)))}"]
    words = [_plain(word) for word in words]
    # argparse does not take `a=1 -m b=2`, so flags go first.
    parser = get_args_parser()
    arguments, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"no flag '{unknown[0]}'{did_you_mean(unknown[0], flags)}")
    flags = [word for word in words if word not in arguments.overrides]
    sys.argv = [f"ae {verb}", *flags, *arguments.overrides]
    register_resolvers()
    hydra.main(version_base="1.3", config_path=str(configs()), config_name=verb)(TASKS[verb])()


def _check_resume(folder: str, others: list[str]) -> None:
    from autoencoders.run import Run

    Run(folder)
    others = [word for word in others if not word.startswith("trust=")]
    if others:
        raise UserError(f"resume=… goes on with a run as it is: {others[0]} is for a new one")


def _plain(word: str) -> str:
    """`--json` as the key that it stands for; the folder of a run, which may hold `=` and `,`, in Hydra's quotes."""
    key, _, value = word.partition("=")
    if key in ("run", "resume") and value:
        return f"{key}={_quoted(value)}"
    return "json=true" if word == "--json" else word


def _quoted(path: str) -> str:
    return path if path[0] in "'\"" else "'" + path.replace("'", r"\'") + "'"


@contextmanager
def _one_line_errors(verb: str, words: list[str]) -> Iterator[None]:
    """A user's mistake ends the program with one line and exit code 1; a bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = None if TRACEBACKS else explain(error, verb, words)
        if line is None:
            raise
        sys.exit(f"ae: {line}")


def _train(config: "DictConfig") -> "Score":
    with _training("train", config):
        from autoencoders.run import Run
        from autoencoders.train import resume

        if config.resume is None:
            return _new_run(config, {})
        run = Run(config.resume, config.trust)
        run.check_paths()
        return resume(run)


def _finetune(config: "DictConfig") -> "Score":
    with _training("finetune", config):
        from autoencoders.run import Run
        from autoencoders.stages import choices, on_encoder

        before = Run(config.run, config.trust)
        config = on_encoder(config, before)
        return _new_run(config, choices(config, before))


@contextmanager
def _training(verb: str, config: "DictConfig") -> Iterator[None]:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    _import_from_here(config)
    # In a sweep Hydra collects what a job raises, and goes on; for a single run it would only add a line of its own.
    with _one_line_errors(verb, sys.argv[1:]) if HydraConfig.get().mode == RunMode.RUN else nullcontext():
        yield


def _new_run(config: "DictConfig", choices: dict[str, Any]) -> "Score":
    """`choices`: those that were made before this command."""
    from hydra.core.hydra_config import HydraConfig

    from autoencoders.train import train

    overrides = list(HydraConfig.get().overrides.task)
    return train(config, Path(HydraConfig.get().runtime.output_dir), choices | group_choices(), overrides)


def _evaluate(config: "DictConfig") -> None:
    with _of_a_run("evaluate", config) as run:
        from autoencoders import build
        from autoencoders.evaluate import evaluate, show

        asked = any(word.startswith("metrics=") for word in sys.argv)
        metrics = evaluate(run, config.splits, build.metrics(config), asked, config.checkpoint, config.data.root)
        if config.json:
            print(json.dumps(metrics, indent=2))
        else:
            show(metrics, f"{metrics['test/images']:.0f} test images" if "test/images" in metrics else str(config.run))


def _visualize(config: "DictConfig") -> None:
    with _of_a_run("visualize", config) as run:
        from autoencoders.visualize import visualize

        visualize(run, config.pictures, config.checkpoint, config.data.root)


def _explore(config: "DictConfig") -> None:
    with _of_a_run("explore", config) as run:
        from autoencoders.explore import explore

        explore(run, config.units, config.checkpoint, config.data.root)


def _rerun(config: "DictConfig") -> None:
    with _of_a_run("rerun", config) as run:
        from autoencoders.rerun import rerun

        rerun(run)


@contextmanager
def _of_a_run(verb: str, config: "DictConfig") -> Iterator["Run"]:
    """What the verbs that take a trained run share; what they have to say goes to stderr."""
    _import_from_here(config)
    with _one_line_errors(verb, sys.argv[1:]):
        from autoencoders.log import Console, start_console
        from autoencoders.run import Run

        start_console(Console(stderr=True))
        yield Run(config.run, config.trust)


def _import_from_here(config: "DictConfig") -> None:
    """A package that the user trusts may lie in the folder where `ae` was typed."""
    if config.trust:
        sys.path.insert(0, str(Path.cwd()))


TASKS = {
    "train": _train,
    "finetune": _finetune,
    "evaluate": _evaluate,
    "visualize": _visualize,
    "explore": _explore,
    "rerun": _rerun,
}
TABLES = ("status", "report")  # over many runs, without Hydra or torch
