"""`ae doctor data=…`: looks at data before a long run, and says how long a code of them should be.

    ae doctor data=mnist                                    model=ae, codes of 2 to 256 numbers, ten minutes
    ae doctor data=table data.root=t.csv model=vae budget=30 lengths=[2,4,8]

The words are those of `ae train`, and two more: `budget`, in minutes for all lengths together, and `lengths`. The
ladder is a sweep. If it was cut, the same line goes on with it.
"""

import json
import re
import subprocess
import sys
from math import prod
from pathlib import Path

from aelab.atomic import write_text
from aelab.errors import UserError
from aelab.runs.sweep import Sweep, digest

LONGEST = 256  # numbers of the longest code that is tried unasked
MOST_EPOCHS = 200
CHOSEN = ("name", "model.latent_dim", "trainer.max_epochs")


def main(words: list[str]) -> None:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return
    given = dict(word.split("=", 1) for word in words if re.match(r"(budget|lengths)=", word))
    words = [word for word in words if word.partition("=")[0] not in given]
    if flags := [word for word in words if word.startswith("-") or "=" not in word]:
        raise UserError(f"'{flags[0]}' is no word of `ae doctor`: type key=value, as for `ae train`")
    if chosen := [word for word in words if word.partition("=")[0] in CHOSEN]:
        raise UserError(f"{chosen[0]}: ae doctor chooses that itself; type budget=MINUTES or lengths=[2,4,8]")
    minutes = _minutes(given.get("budget", "10"))
    words = words if any(word.startswith("model=") for word in words) else ["model=ae", *words]

    from aelab.composition.compose import compose
    from aelab.composition.words import for_hydra

    words = for_hydra("train", words)
    config, _ = compose("train", words)
    if "latent_dim" not in config.model:
        raise UserError("ae doctor chooses model.latent_dim, which this model has not: type model=ae, or vae")
    numbers = prod(config.data.shape)
    lengths = _lengths(given.get("lengths"), numbers)

    from aelab.training.doctor import Patient  # torch takes seconds

    asked = [*words, *(f"{key}={value}" for key, value in given.items())]
    name = f"doctor_{digest(' '.join(sorted(asked)))}"
    folder = Path(config.paths.log_dir) / name
    patient = Patient.of(config)
    for line in patient.findings():
        print(line, flush=True)
    plan = folder / "doctor.json"
    if not plan.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        epochs = min(max(int(60 * minutes / (len(lengths) * patient.seconds)), 1), MOST_EPOCHS)
        write_text(plan, json.dumps({"lengths": lengths, "epochs": epochs}) + "\n")
    planned = json.loads(plan.read_text(encoding="utf-8"))
    print(f"ladder  codes of {', '.join(map(str, planned['lengths']))}, {planned['epochs']} epochs each", flush=True)
    ladder = [
        *words,
        f"model.latent_dim={','.join(map(str, planned['lengths']))}",
        f"trainer.max_epochs={planned['epochs']}",
        f"name={name}",
        "~callbacks.pictures",
        "logger=[csv]",
    ]
    ended = subprocess.run([sys.executable, "-m", "aelab", "train", "-m", *ladder], stdout=subprocess.DEVNULL)
    if ended.returncode:
        raise UserError(f"the ladder in {folder} did not end, for the reason above: type the same line again")
    patient.show(Sweep(folder))


def _minutes(word: str) -> float:
    try:
        if (minutes := float(word)) > 0:
            return minutes
    except ValueError:
        pass
    raise UserError(f"budget={word} must be minutes for all lengths together, such as budget=10")


def _lengths(word: str | None, numbers: int) -> list[int]:
    if word is None:
        return [length for n in range(1, 9) if (length := 2**n) <= min(LONGEST, numbers)] or [1]
    if not re.fullmatch(r"\[\d+(,\d+)*\]", word.replace(" ", "")):
        raise UserError(f"lengths={word} must be whole numbers, such as lengths=[2,4,8]")
    lengths = sorted({int(found) for found in re.findall(r"\d+", word)})
    if lengths[-1] > numbers or lengths[0] < 1:
        wrong = lengths[-1] if lengths[-1] > numbers else lengths[0]
        raise UserError(
            f"lengths={word}: a datum has {numbers} numbers, so a code of {wrong} is none: type 1 to {numbers}"
        )
    return lengths
