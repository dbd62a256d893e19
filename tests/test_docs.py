"""No command of README and docs rots: each composes as it is written, and those that need no download run."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from PIL import Image
from scipy.io import savemat

from aelab import cli
from aelab.composition.compose import compose
from aelab.composition.instantiate import check
from aelab.composition.words import for_hydra

HERE = Path(__file__).parents[1]
# tests/test_experiments.py composes the lines of docs/reproduction.md, which a script writes.
PAGES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md"))]
ELSEWHERE = ("mnist", "cifar10", "trainer=gpu", "slurm", "srun", "experiment=", "big/1")  # data or machines
SMALL = ["trainer.max_epochs=1", "~callbacks.pictures", "logger=[csv]", "net.hidden_dims=[8]"]


def commands(page: Path) -> list[list[str]]:
    """Return the words after `ae` of each command in the bash blocks of a page."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        words = shlex.split(re.sub(r"\$\(.*?\)", "here", line), comments=True)
        ae = [index for index, word in enumerate(words) if word in ("ae", ".venv/bin/ae")]
        if ae:
            found.append(words[ae[0] + 1 :])
    return found


LINES = [
    pytest.param(
        words,
        id=f"{page.stem}: {shlex.join(words)[:60]}",
        marks=[] if page.stem == "README" else [pytest.mark.slow],
    )
    for page in PAGES
    if page.stem != "reproduction"
    for words in commands(page)
]
COMPOSED = [line for line in LINES if line.values[0][0] in ("train", "finetune")]


@pytest.fixture
def files(tmp_path, monkeypatch, vae_run):
    """A folder with every file and run that the pages name."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, size, channels in (("pictures", 64, 3), ("scans", 8, 1), ("grey_pictures", 32, 1)):
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = rng.integers(0, 256, (size, size, 3) if channels == 3 else (size, size)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    rows = "\n".join(",".join([*(f"{v:.3f}" for v in rng.normal(size=4)), "ab"[i % 2]]) for i in range(40))
    (tmp_path / "patients.csv").write_text(f"a,b,c,d,outcome\n{rows}\n")
    (tmp_path / "plant.csv").write_text(
        "s1,s2\n" + "\n".join(f"{v:.3f},{w:.3f}" for v, w in rng.normal(size=(2000, 2)))
    )
    np.save(tmp_path / "x.npy", rng.normal(size=(60, 5)).astype(np.float32))
    np.save(tmp_path / "activations.npy", rng.normal(size=(60, 40)).astype(np.float32))
    halves = rng.random((60, 1, 28, 14)).astype(np.float32)
    np.savez(tmp_path / "pair.npz", x=halves, y=halves)
    np.savez(tmp_path / "factors.npz", images=halves, factors=np.indices((6, 10)).reshape(2, -1).T)
    np.save(tmp_path / "brain.npy", rng.random((40, 40, 40)).astype(np.float32))
    (tmp_path / "verses.txt").write_text("\n".join(f"in the beginning was the word {i}" for i in range(60)))
    (tmp_path / "kjv.txt").write_text((tmp_path / "verses.txt").read_text())
    for folder in ("odds", "ODDS"):
        (tmp_path / folder).mkdir()
        for name in ("cardio", "glass", "wbc", "arrhythmia"):
            savemat(tmp_path / folder / f"{name}.mat", {"X": rng.normal(size=(60, 5)), "y": np.arange(60) % 5 == 0})
    (tmp_path / "JapaneseVowels").mkdir()
    series = "".join(
        ":".join(",".join(f"{v:.2f}" for v in rng.normal(size=12)) for _ in range(3)) + f":{i % 3}\n" for i in range(30)
    )
    head = "@problemName JV\n@univariate false\n@classLabel true 0 1 2\n@data\n"
    for part in ("TRAIN", "TEST"):
        (tmp_path / "JapaneseVowels" / f"JapaneseVowels_{part}.ts").write_text(head + series)
    for name in ("first", "below"):
        shutil.copytree(vae_run.folder, tmp_path / "logs" / name / "run")
    return tmp_path


def test_the_readme_is_short():
    assert len((HERE / "README.md").read_bytes()) <= 8 * 1024


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.stem)
def test_a_page_says_who_needs_it(page):
    _, first, *_ = page.read_text(encoding="utf-8").split("\n\n")
    assert first.startswith("For who"), first


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("words", COMPOSED)
def test_a_line_composes_as_it_is_written(words, files):
    """Its words exist, and its values are of their types. Of a sweep that is the first job."""
    words = [word.replace("brain.nii.gz", "brain.npy") for word in words]  # nibabel is an extra
    verb, *rest = words
    job = []
    for word in for_hydra(verb, rest):
        if word.startswith("-"):
            continue
        override = OverridesParser.create().parse_override(word)
        if override.is_sweep_override():
            value = override.value()
            one = (
                next(override.sweep_string_iterator()) if isinstance(value, ChoiceSweep) else getattr(value, "start", 1)
            )
            word = f"{override.get_key_element()}={one}"
        job.append(word)
    config, _ = compose(verb, job)
    config.folder = "run"
    if verb == "train" and "resume" not in " ".join(rest):
        check(config)


@pytest.mark.slow
def test_the_commands_run(files, run_ae, monkeypatch):
    """Those of README, and of the pages about one's own data, sweeps, stages and a trained model, in their order.

    Training is cut to an epoch of a small net. Data sets that are downloaded, and machines, are left out.
    """
    monkeypatch.chdir(files)
    shutil.rmtree("logs")  # README's first command trains the run that the others take
    pages = ("README", "data", "use", "sweeps", "stages", "choices")
    ran = 0
    for words in (words for page in PAGES if page.stem in pages for words in commands(page)):
        line = shlex.join(words)
        if any(word in line for word in ELSEWHERE) or "logs/colour" in line or "logs/pairs" in line:
            continue
        if any(word in line for word in ("logs/zoo", "optuna", "sweep=tpe", "joblib", "debug=", "warmup=500")):
            continue  # tests/test_sweep.py and tests/test_report.py
        words = [word.replace("brain.nii.gz", "brain.npy") for word in words]
        small = SMALL if words[0] == "train" and not any(word.startswith("resume=") for word in words) else []
        keys = {word.lstrip("+~").partition("=")[0] for word in words}
        nets = ("net=", "data=text", "data=volumes")
        small = [s for s in small if s.lstrip("~").partition("=")[0] not in keys]
        if any(word.startswith(nets) for word in words):
            small = [s for s in small if not s.startswith("net.")]
        code, said = run_ae(*words, *small)
        assert code == 0, f"ae {line}: {said}"
        ran += 1
    assert ran > 20


def test_every_verb_is_in_the_readme():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert all(f"ae {verb}" in text for verb in cli.VERBS)
