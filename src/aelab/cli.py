"""The command `ae`: a verb, then words. Nothing heavy is imported before it is needed."""

import importlib
import locale
import os
import re
import signal
import sys
from importlib.metadata import version

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

    ae --version             the version that is installed
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
    if locale.getencoding().lower() not in ("utf-8", "utf8") and not sys.flags.utf8_mode:
        # Words, names of files, logs and what libraries write are UTF-8 in any locale, and in child processes too.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "aelab", *sys.argv[1:]])
    verb, *words = sys.argv[1:] or ["help"]
    if verb in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    if verb == "--version":
        print(f"ae {version('aelab')}")
        return
    # SIGTERM would skip every `finally`, and a run could not write how it ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from aelab.composition.explain import one_line

    with one_line(verb, words):
        if verb not in VERBS:
            raise UserError(f"no verb '{verb}'{did_you_mean(verb, VERBS)} (there are {', '.join(VERBS)})")
        command = importlib.import_module(f"aelab.commands.{verb}").main
        if VERBS[verb] and verb != "train" and {"-h", "--help"} & set(words):
            print(_help(verb), end="")
        elif VERBS[verb]:
            import hydra

            from aelab.composition.compose import configs, register_resolvers
            from aelab.composition.words import for_hydra

            register_resolvers()
            sys.argv = [f"ae {verb}", *for_hydra(verb, words)]
            hydra.main(version_base="1.3", config_path=str(configs()), config_name=verb)(command)()
        else:
            command(words)


def _help(verb: str) -> str:
    """Return what a verb is for, and its keys as its config explains them."""
    from aelab.composition.compose import configs

    text = (configs() / f"{verb}.yaml").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", text)  # a block is a key with what is indented below it
    keys = [block for block in blocks if not block.startswith(("#", "defaults:", "hydra:"))]
    about = importlib.import_module(f"aelab.commands.{verb}").__doc__ or ""
    return f"{about.strip()}\n\n" + "".join(f"    {line}\n" for key in keys for line in key.splitlines() if line)
