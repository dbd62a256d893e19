"""The command `ae`: a verb, then words. Nothing heavy is imported before it is needed."""

import importlib
import os
import signal
import sys

from aelab.errors import UserError, did_you_mean

os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes every exception on, and `ae` makes one line of it

HELP = """\
Train autoencoders: any objective, any network, any data, any noise.

    ae train [key=value ...]            train a run; -m sweeps over key=a,b,c
    ae evaluate run=DIR [key=value ...] the numbers of a trained run, from its folder alone; --json prints them so
    ae visualize run=DIR [...]          its figures, into its folder and TensorBoard
    ae explore run=DIR [...]            one page to walk through its codes in a browser

    ae predict run=DIR data.root=FILES output=DIR   codes, reconstructions and anomaly scores of new files
    ae export run=DIR format=onnx       its encoder and decoder for other programs; or torch_export, safetensors

    ae finetune run=DIR [key=value ...] a classifier on its encoder, trained end to end; -m sweeps
    ae rerun run=DIR                    the same run once more, and what differs

    ae status DIR                       how the jobs of a sweep stand
    ae report DIR...                    a table over runs: mean and 95 % interval over seeds

    ae doctor data=… [key=value ...]    checks data, and trains a ladder of code lengths; says which one to take

    ae train                                                    a VAE on digits, in seconds
    ae train resume=DIR                                         goes on with a run that was stopped or killed
    ae train model=vae net=conv data=cifar10 noise=gaussian trainer=gpu
    ae train -m name=s model=ae,vae seed=0,1,2                  a sweep; typed again, it completes

    ae train --help          every group, what there is to choose, and every key
    ae train --config-dir D  adds your own folder of configs
    HYDRA_FULL_ERROR=1       shows the traceback behind an error
"""
VERBS = {  # each is a module of `aelab.commands`; True if Hydra composes its config
    "train": True,
    "finetune": True,
    "evaluate": True,
    "visualize": True,
    "explore": True,
    "predict": True,
    "export": True,
    "rerun": True,
    "doctor": False,
    "status": False,
    "report": False,
}


def main() -> None:
    """Run the verb on the command line."""
    verb, *words = sys.argv[1:] or ["help"]
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    # SIGTERM would skip every `finally`, and a run could not write how it ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from aelab.composition.explain import one_line

    with one_line(verb, words):
        if verb not in VERBS:
            raise UserError(f"no verb '{verb}'{did_you_mean(verb, VERBS)} (there are {', '.join(VERBS)})")
        command = importlib.import_module(f"aelab.commands.{verb}").main
        if VERBS[verb]:
            import hydra

            from aelab.composition.compose import configs

            sys.argv = [f"ae {verb}", *_for_hydra(verb, words)]
            hydra.main(version_base="1.3", config_path=str(configs()), config_name=verb)(command)()
        else:
            command(words)


def _for_hydra(verb: str, words: list[str]) -> list[str]:
    """Return the words as Hydra takes them, flags first."""
    from hydra._internal.utils import get_args_parser

    from aelab.composition.compose import register_resolvers
    from aelab.runs.frozen import word_today
    from aelab.runs.sweep import digest

    register_resolvers()
    sweeps = {"-m", "--multirun"} & set(words) or any(word.startswith("sweep=") for word in words)
    if sweeps and not any(word.startswith("name=") for word in words):
        # The same line has the same folder, so that it can be typed again.
        words = [*words, f"name=sweep_{digest(' '.join(sorted(words)))}"]
    for word in words:
        if word_today(word) != word:
            print(f"ae: {word} is written {word_today(word)} now", file=sys.stderr)
    words = [_plain(word_today(word)) for word in words]
    for word in words:
        if word.startswith("resume="):
            _check_resume(word.removeprefix("resume="), [other for other in words if other != word])
            words = [*words, f"hydra.run.dir={word.removeprefix('resume=')}"]  # no new folder
    # argparse does not take `a=1 -m b=2`, so flags go first.
    parser = get_args_parser()
    arguments, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"no flag '{unknown[0]}'{did_you_mean(unknown[0], flags)}")
    return [*(word for word in words if word not in arguments.overrides), *arguments.overrides]


def _check_resume(folder: str, others: list[str]) -> None:
    """Raise UserError if `resume=…` names no run, or stands beside words that are for a new one."""
    from aelab.runs.run import Run

    Run(folder[1:-1].replace(r"\'", "'"))
    others = [word for word in others if not word.startswith("trust=")]
    if others:
        raise UserError(f"resume=… goes on with a run as it is: {others[0]} is for a new one")


def _plain(word: str) -> str:
    """Return a word as Hydra takes it.

    `--json` becomes its key. The folder of a run is quoted, because it may hold `=` and `,`. So is the choice
    `debug=nan`, because Hydra takes a plain `nan` for a number.
    """
    key, _, value = word.partition("=")
    if word == "debug=nan":
        return "debug='nan'"
    if key in ("run", "resume") and value:
        return f"{key}={_quoted(value)}"
    return "json=true" if word == "--json" else word


def _quoted(path: str) -> str:
    return path if path[0] in "'\"" else "'" + path.replace("'", r"\'") + "'"
