"""Each experiment of a paper composes, trains on a few images, and says what it reproduces."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import compose, names, trained, write_idx
from PIL import Image
from scipy.io import savemat

from aelab.composition.compose import configs
from aelab.runs.run import Run
from aelab.runs.sweep import Sweep

SMALL = ("data.val_size=10", "data.batch_size=20", "trainer.max_epochs=1")


PAPERS = names("experiment")


def paper(experiment: str) -> dict:
    return yaml.safe_load(
        (Path(__file__).parents[1] / "docs" / "papers" / f"{experiment}.yaml").read_text(encoding="utf-8")
    )


ROWS = [(name, row) for name in PAPERS for row in paper(name)["rows"]]


@pytest.fixture
def reproduce(monkeypatch, tmp_path):
    """`scripts/reproduce.py` as a module. It writes its tables into a temporary folder."""
    path = Path(__file__).parents[1] / "scripts" / "reproduce.py"
    spec = importlib.util.spec_from_file_location("reproduce", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- reproduction -->\nold\n<!-- /reproduction -->\nafter\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RECORD", tmp_path / "docs" / "reproduction.json")
    monkeypatch.chdir(tmp_path)
    return module


@pytest.mark.parametrize("name", names("experiment"))
def test_a_config_is_short(name):
    assert len((configs() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", PAPERS)
def test_an_experiment_states_what_it_reproduces(name):
    about = paper(name)
    assert {"title", "protocol", "deviation", "seeds", "rows"} <= set(about)
    for row in about["rows"].values():
        assert all({"name", "unit"} <= set(number) for number in row.get("numbers", {}).values())
        assert "numbers" in row or "columns" in about


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), ROWS)
def test_every_row_composes(name, row):
    compose("train", [f"experiment={name}", *paper(name)["rows"][row].get("overrides", [])])


def written_for(name: str, root: Path) -> list[str]:
    """Write small files of noise for an experiment that reads files, and return the words that name them."""
    rng = np.random.default_rng(0)
    if name == "odds_pyod":
        savemat(root / "cardio.mat", {"X": rng.normal(size=(60, 5)), "y": np.arange(60)[:, None] % 3 == 0})
    elif name == "ecg5000":
        parts = {"train_data": rng.normal(size=(60, 20)), "test_data": rng.normal(size=(30, 20))}
        for part, array in {**parts, "test_labels": np.arange(30) % 2}.items():
            np.save(root / f"{part}.npy", array)
    elif name == "mnist1d":
        x, y = rng.normal(size=(80, 40)), np.arange(80) % 10
        np.savez(root / "x.npz", x=x[:60], y=y[:60], x_test=x[60:], y_test=y[60:])
        return [f"data.root={root}/x.npz"]
    elif name == "kjv_text_vae":
        (root / "kjv.txt").write_text("and god said , let there be light :\nand there was light .\n" * 20)
        return [f"data.root={root}/kjv.txt"]
    elif name == "cifar10_colour":
        for i in range(60):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / f"{i}.png")
    elif name == "sprites":  # which are generated
        return ["data.positions=3", "data.rotations=2", "data.scales=2"]
    elif name == "brain_patches":
        for file in ("a.npy", "b.npy"):
            np.save(root / file, rng.integers(0, 255, (80, 24, 24), dtype=np.uint8))
        return [f"data.root={root}/a.npy", f"data.test={root}/b.npy"]
    elif name == "japanese_vowels":
        head = "@problemName A\n@timeStamps false\n@univariate false\n@classLabel true 0 1 2\n@data\n"
        for split in ("TRAIN", "TEST"):
            series = [[",".join(map(str, rng.normal(size=9))) for _ in range(12)] for _ in range(30)]
            lines = [":".join([*channels, str(i % 3)]) for i, channels in enumerate(series)]
            (root / f"A_{split}.ts").write_text(head + "\n".join(lines) + "\n")
    return [f"data.root={root}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_an_experiment_gives_the_numbers_that_it_reports(name, tmp_path):
    """Each number is there under the name that the table reads.

    The training data are forty images of noise, so the numbers mean nothing.
    """
    rows = paper(name)["rows"]
    # No row of the benchmark fills every column. The VAE has a likelihood, and the VQ-VAE has the GRU sampler.
    chosen = [rows[row] for row in ("vae", "vqvae") if row in rows and "columns" in paper(name)]
    chosen = chosen or [next(iter(rows.values()))]
    wanted = set(chosen[0].get("numbers") or paper(name)["columns"])
    files = written_for(name, write_idx(tmp_path))
    for i, row in enumerate(chosen):
        overrides = [f"experiment={name}", *row.get("overrides", []), *SMALL, *files]
        stages = compose("train", overrides)[0].stages.items()
        overrides += [f"stages.{stage}.trainer.max_epochs=1" for stage, config in stages if "trainer" in config]
        if compose("train", overrides)[0].scheduler.get("warmup"):
            overrides += ["scheduler.warmup=0"]
        if name == "cifar10_colour":
            overrides += ["data=folder", "data.shape=[3,8,8]"]
        elif name.startswith("cifar10"):
            overrides += ["data=mnist", "data.shape=[1,28,28]", "data.batch_size=20"]
        wanted -= set(trained(tmp_path / f"run_{i}", *overrides).metrics)
    assert not wanted


@pytest.mark.slow
def test_a_row_is_run_once_and_the_tables_are_made_from_it(reproduce, monkeypatch, capfd):
    """One row has no data and fails. The other row is in the tables all the same.

    The other row has two seeds and trains on digits.
    """
    number = {"name": "bound", "unit": "nats", "published": 20.5, "scale": -1, "digits": 1, "readme": "the bound"}
    small = ["data=digits", "data.val_size=180", "trainer.max_epochs=1", "metrics=[]"]
    rows = {"good": {"overrides": [*small], "numbers": {"test/loss": number}}}
    about = {"title": "T", "protocol": "P", "deviation": "D", "seeds": [0, 1], "rows": rows}
    bad = {**about, "rows": {"bad": {"overrides": ["data=folder", "data.root=nowhere"], "numbers": {}}}}
    monkeypatch.setattr(reproduce, "papers", lambda: iter([("mnist_vae_static", bad), ("mnist_vae_static", about)]))
    monkeypatch.setattr(reproduce.sys, "argv", ["reproduce.py"])
    with pytest.raises(SystemExit) as ended:
        reproduce.main()
    assert "mnist_vae_static/bad" in str(ended.value)
    assert "data.root" in capfd.readouterr().out
    sweep = Sweep("logs/reproduction/mnist_vae_static/good")
    values = [-Run(sweep.folder / job).metrics["test/loss"] for job in sweep.jobs]
    record = json.loads(reproduce.RECORD.read_text(encoding="utf-8"))["mnist_vae_static"]["good"]
    assert [-value for value in record["numbers"]["test/loss"]] == values
    text = (reproduce.ROOT / "docs/reproduction.md").read_text(encoding="utf-8")
    assert f"| bound, nats | 20.5 | {sum(values) / 2:.1f} ± " in text
    assert "# good: seeds 0, 1; " in text
    text = (reproduce.ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| the bound | 20.5 | {sum(values) / 2:.1f} ± " in text
    assert (reproduce.ROOT / "README.md").read_text(encoding="utf-8").startswith("before\n")
    assert (reproduce.ROOT / "README.md").read_text(encoding="utf-8").endswith("after\n")


def test_the_tables_of_this_repository_are_those_that_the_script_makes(reproduce):
    """The test fails if somebody changed a number, a row or a deviation by hand, or forgot `--table`."""
    here = Path(__file__).parents[1]
    for file in ("README.md", "docs/reproduction.json"):
        shutil.copy(here / file, reproduce.ROOT / file)
    reproduce.write_tables()
    for file in ("README.md", "docs/reproduction.md"):
        assert (reproduce.ROOT / file).read_text(encoding="utf-8") == (here / file).read_text(encoding="utf-8")


def test_no_experiment_was_changed_since_its_rows_were_run(reproduce):
    record = json.loads((Path(__file__).parents[1] / "docs" / "reproduction.json").read_text(encoding="utf-8"))
    stale = []
    for row, entry in (pair for rows in record.values() for pair in rows.items()):
        experiment = entry["experiment"]
        if entry["settings"] != reproduce.settings(experiment, paper(experiment)["rows"][row].get("overrides", [])):
            stale.append(f"{experiment}/{row}")
    assert not stale, "these rows are stale: run `python scripts/reproduce.py` with them"


@pytest.mark.slow
def test_a_guard_trips_outside_its_band(reproduce, monkeypatch, capfd):
    small = ["data=digits", "data.val_size=180", "trainer.max_epochs=1", "metrics=[]"]
    bands = [{"overrides": small, "number": "test/loss", "between": between} for between in ([0, 100], [0, 1])]
    monkeypatch.setattr(reproduce, "papers", lambda: iter([("mnist_vae_static", {"rows": {}, "guard": bands[0]})]))
    monkeypatch.setattr(reproduce.sys, "argv", ["reproduce.py", "--guard"])
    reproduce.main()
    assert "recorded 0 … 100" in capfd.readouterr().out
    monkeypatch.setattr(reproduce, "papers", lambda: iter([("mnist_vae_static", {"rows": {}, "guard": bands[1]})]))
    with pytest.raises(SystemExit, match="mnist_vae_static"):
        reproduce.main()
    assert not reproduce.RECORD.exists()
