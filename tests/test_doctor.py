"""`ae doctor`: what it says of data, against data that are made so, and the length that it recommends."""

import json

import numpy as np
import pytest
import torch
from conftest import compose
from sklearn.decomposition import PCA

from aelab.training.doctor import Patient, recommendation

LINE = ("data=arrays", "net.hidden_dims=[]", "data.standardize=false", "data.batch_size=50", "optimizer.lr=1e-2")


def low_rank(n: int = 600, rank: int = 3, size: int = 12) -> np.ndarray:
    """Data of `rank` dimensions and a little noise, of which the last number never changes."""
    g = np.random.default_rng(0)
    x = g.normal(size=(n, rank)) @ g.normal(size=(rank, size)) + 0.05 * g.normal(size=(n, size))
    x[:, -1] = 2.0
    return x.astype(np.float32)


def patient(path, *words: str) -> Patient:
    return Patient.of(compose("train", ["model=ae", *LINE, f"data.root={path}", *words])[0])


def test_it_sees_what_is_wrong_with_data(tmp_path):
    x = low_rank()
    x[5, 0] = 9.5
    test = np.concatenate([x[:4], low_rank()[:6] + 1])  # four of them are training or validation data too
    y = np.array([0] * 560 + [1] * 40)
    np.savez(tmp_path / "x.npz", x=x, y=y, x_test=test, y_test=[0] * 10)
    found = patient(tmp_path / "x.npz", "data.val_size=0.001")
    lines = list(found.findings())
    text = "\n".join(lines)
    assert "fixed   1 of 12 numbers never change" in text
    assert "4 of 10 test data stand in training too" in text
    assert "warning test data that were trained on" in text
    assert "classes 2, of 40 (1) to 559 (0)" in text or "classes 2, of 39 (1) to 560 (0)" in text
    assert "warning the classes are unequal" in text
    assert f"range   {x.min():.4g} to " in text
    assert any(line.startswith("epoch   12 steps") for line in lines)


def test_the_spectrum_is_that_of_scikit_learn(tmp_path):
    np.save(tmp_path / "x.npy", low_rank())
    found = patient(tmp_path / "x.npy")
    pca = PCA(3).fit(found.train)
    shown = torch.from_numpy(pca.inverse_transform(pca.transform(found.val)))
    around = (found.val - found.train.mean(0)).square().sum()
    expected = 1 - float((found.val - shown).square().sum() / around)
    assert found.spectrum(20)[2] == pytest.approx(expected, abs=1e-4)
    assert found.spectrum(20)[2] > 0.99
    assert len(found.spectrum(20)) == 20
    assert found.explained(shown.float(), found.val) == pytest.approx(expected, abs=1e-4)


def test_the_recommendation_gives_its_reason():
    rows = [{"length": n, "explained": e, "active": min(n, 5)} for n, e in ((2, 0.5), (4, 0.79), (8, 0.82), (16, 0.82))]
    said = recommendation(rows, [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99] + [1.0] * 8)
    assert said.startswith("take    model.latent_dim=4: it explains 0.790 of the variance, 96% of the most, 0.820")
    assert "PCA needs 5 numbers" in said
    rows = [{"length": 2, "explained": 0.5, "active": 2}, {"length": 4, "explained": 0.8, "active": 4}]
    said = recommendation(rows, [0.1] * 4)
    assert "a code longer than 4 may explain more" in said
    assert "PCA needs more than 4 numbers" in said
    assert "no code explains anything" in recommendation([{"length": 2, "explained": -1.0, "active": 0}], [0.5, 0.6])


@pytest.mark.slow
def test_it_finds_the_rank_of_data_and_goes_on_where_it_was(run_ae, tmp_path):
    np.save(tmp_path / "x.npy", low_rank())
    line = ("doctor", *LINE, f"data.root={tmp_path / 'x.npy'}", "budget=0.3", "lengths=[1,3,6]")
    code, _ = run_ae(*line)
    assert code == 0
    assert "model.latent_dim=3" in run_ae.said
    (folder,) = (tmp_path / "logs").glob("doctor_*")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/*")}
    assert len({path.parts[-3] for path in before}) == 3
    assert json.loads((folder / "doctor.json").read_text(encoding="utf-8"))["lengths"] == [1, 3, 6]
    code, _ = run_ae(*line)
    assert code == 0
    assert "model.latent_dim=3" in run_ae.said
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/*")}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data=digits lengths=[4,100]", "a datum has 64 numbers, so a code of 100 is none: type 1 to 64"),
        ("data=digits lengths=[0,4]", "so a code of 0 is none"),
        ("data=digits lengths=4", "must be whole numbers, such as lengths=[2,4,8]"),
        ("data=digits budget=short", "must be minutes for all lengths together, such as budget=10"),
        (
            "data=digits trainer.max_epochs=3",
            "trainer.max_epochs=3: ae doctor chooses that itself",
        ),
        ("data=digits budget=0", "must be minutes"),
        ("data=digits model=hvae", "chooses model.latent_dim, which this model has not"),
        ("data=descriptions", "tokens have none"),
        ("data=digits -m", "'-m' is no word of `ae doctor`"),
        ("data=digit", "no data 'digit', did you mean 'digits'"),
    ],
)
def test_a_mistake_is_one_line(run_ae, line, says):
    code, said = run_ae("doctor", *line.split())
    assert code == 1
    assert says.lower() in said.lower()
    assert "\n" not in said.strip()
