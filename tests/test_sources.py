"""A stranger's tables, series, volumes, arrays and texts: what is read, how it is split, and what is refused."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_DATA, compose, trained

from aelab.composition import build
from aelab.composition.trained import load
from aelab.errors import UserError

RNG = np.random.default_rng(0)
SMALL = ("net.hidden_dims=[8]", "model.latent_dim=2", "trainer.max_epochs=2", "logger=[csv]", "~callbacks.pictures")


def setup(*words: str):
    it = build.data(compose("train", words)[0])
    it.setup()
    return it


def write_csv(path, rows, header=("age", "sensor_1", "sensor_2", "kind")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def table(tmp_path):
    rows = [[*np.round(RNG.normal(size=3), 3).tolist(), "ab"[i % 2]] for i in range(60)]
    return write_csv(tmp_path / "t.csv", rows), np.array([row[:3] for row in rows])


# tables


def test_a_csv_with_a_label(table):
    path, numbers = table
    it = setup("data=table", f"data.root={path}", "data.label=kind")
    assert it.channels == ["age", "sensor_1", "sensor_2"]
    assert it.class_names == ["a", "b"]
    items = it.splits["train"][0]
    assert items.numpy() == pytest.approx(numbers, abs=1e-6)
    rows = torch.cat([it.splits[split][2] for split in ("train", "val", "test")])
    assert sorted(rows.tolist()) == list(range(60))
    assert setup("data=table", f"data.root={path}", "data.label=kind", "data.columns=[sensor_*]").shape == [2]


def test_a_parquet_and_a_mat_are_read_as_the_csv(table, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from scipy.io import savemat

    _, numbers = table
    pq.write_table(pa.table({"a": numbers[:, 0], "b": numbers[:, 1], "y": np.arange(60) % 2}), tmp_path / "t.parquet")
    it = setup("data=table", f"data.root={tmp_path}/t.parquet", "data.label=y")
    assert it.splits["test"][0].numpy() == pytest.approx(numbers[:, :2], abs=1e-6)
    savemat(tmp_path / "t.mat", {"X": numbers, "y": np.arange(60)[:, None] % 3})
    it = setup("data=table", f"data.root={tmp_path}/t.mat")
    assert it.num_classes == 3
    assert it.splits["test"][0].numpy() == pytest.approx(numbers, abs=1e-6)


def test_what_is_missing_is_imputed_or_skipped(tmp_path):
    rows = [[1.0, float(i), 2.0, "a"] for i in range(40)]
    rows[3][1] = ""
    path = write_csv(tmp_path / "t.csv", rows)
    line = ("data=table", f"data.root={path}", "data.label=kind", "data.batch_size=100")
    with pytest.raises(UserError, match=r"row 4, column 'sensor_1' is missing: type data.missing_values=median"):
        setup(*line)
    it = setup(*line, "data.missing_values=median", "data.standardize=false")
    train = it.splits["train"][2]
    expected = np.nanmedian(np.where(np.arange(40) == 3, np.nan, np.arange(40.0))[train.numpy()])
    filled = it.target(it.splits["train"][0], torch.Generator())
    assert float(filled[3, 1]) == pytest.approx(float(expected), abs=0.5)
    it = setup(*line, "data.missing_values=skip")
    batch = next(iter(it.in_order("train", torch.device("cpu"), it.noise)))
    assert batch.x.isnan().any() or 3 not in train.tolist()
    assert batch.seen.isfinite().all()


# arrays


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint16"])
def test_arrays_of_every_type(tmp_path, dtype):
    x = RNG.integers(0, 200, (50, 3, 16)).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "x_labels.npy", np.arange(50) % 4)
    it = setup("data=arrays", f"data.root={tmp_path}/x.npy", "net=conv", "data.batch_size=50")
    assert it.shape == [3, 16]
    assert it.num_classes == 4
    assert it.restored(it.target(it.splits["test"][0], torch.Generator())).numpy() == pytest.approx(
        x.astype(float), abs=0.02
    )


def test_bfloat16_is_two_bytes_that_numpy_cannot_name(tmp_path):
    x = torch.randn(20, 5).bfloat16()
    np.save(tmp_path / "x.npy", x.view(torch.int16).numpy().view("V2"))
    it = setup("data=arrays", f"data.root={tmp_path}/x.npy")
    assert torch.equal(it.splits["test"][0], x)


def test_own_test_splits_and_the_same_batches_from_a_file_on_disk(tmp_path):
    for name, n in (("train", 40), ("test", 9)):
        np.save(tmp_path / f"{name}.npy", RNG.normal(size=(n, 12)).astype(np.float32))
        np.save(tmp_path / f"{name}_labels.npy", np.arange(n) % 2)
    line = ("data=arrays", f"data.root={tmp_path}", "data.kind=signals", "net=lstm")
    it, stream = setup(*line), setup(*line, "data.loader=stream", "data.num_workers=0")
    assert it.shape == [1, 12]
    assert [it.size(split) for split in ("train", "val", "test")] == [36, 4, 9]
    for a, b in zip(it.batches("train"), stream.batches("train"), strict=True):
        assert torch.equal(a.x, b.x)
    np.savez(tmp_path / "all.npz", x=np.load(tmp_path / "train.npy"), x_test=np.load(tmp_path / "test.npy"))
    assert setup("data=arrays", f"data.root={tmp_path}/all.npz").size("test") == 9


def test_labels_of_the_test_data_only(tmp_path):
    """All training data have one class, so nothing can be probed, and anomalies are told from the normal class."""
    for name, n in (("train_data", 40), ("test_data", 20)):
        np.save(tmp_path / f"{name}.npy", RNG.normal(size=(n, 6)))
    np.save(tmp_path / "test_labels.npy", np.arange(20) % 2)
    line = ("data=arrays", f"data.root={tmp_path}", "model=ae", *SMALL)
    with pytest.raises(UserError, match="type data.train_label="):
        setup(*line)
    run = trained(tmp_path / "run", *line, "data.train_label=0", "metrics=[representation,anomaly]")
    assert not [name for name in run.metrics if name.startswith("representation")]
    assert 0 <= run.metrics["anomaly/auroc/error"] <= 1


def test_attributes_come_with_the_data(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(30, 4)))
    np.save(tmp_path / "x_y.npy", RNG.normal(size=(30, 2)))
    it = setup("data=arrays", f"data.root={tmp_path}/x.npy")
    assert next(iter(it.batches("test"))).y.shape == (3, 2)
    assert it.facts()["classes"] == []


# series


def write_ts(path, series, labels):
    lines = ["# made by a test", "@problemName toy", "@classLabel true a b", "@data"]
    lines += [
        ":".join([*(",".join(map(str, channel)) for channel in one), label])
        for one, label in zip(series, labels, strict=True)
    ]
    path.write_text("\n".join(lines))
    return path


def test_series_of_unequal_length_are_padded_and_no_loss_counts_the_padding(tmp_path):
    series = [np.round(RNG.normal(size=(2, 5 + i % 4)), 3) for i in range(24)]
    for name in ("TRAIN", "TEST"):
        write_ts(tmp_path / f"Toy_{name}.ts", series, ["a", "b"] * 12)
    it = setup("data=series", f"data.root={tmp_path}", "net=lstm", "data.batch_size=100")
    assert it.shape == [2, 8]
    assert it.size("test") == 24
    items = it.splits["test"][0]
    for row, one in enumerate(series):
        assert items[row, :, : one.shape[1]].numpy() == pytest.approx(one, abs=1e-6)
        assert items[row, :, one.shape[1] :].isnan().all()
    config = compose("train", ["data=series", f"data.root={tmp_path}", "net=lstm", "model=ae"])[0]
    model = build.model(config)
    batch = next(iter(it.batches("train")))
    other = batch._replace(x=batch.x.clone())
    term = model.reconstruction
    out = torch.randn_like(batch.x)
    changed = torch.where(batch.x.isnan(), torch.randn_like(out), out)
    torch.testing.assert_close(term.error(out, batch.x), term.error(changed, other.x))


def test_windows_of_a_recording_do_not_leak_from_one_split_into_another(tmp_path):
    steps = np.arange(400.0)
    with (tmp_path / "r.csv").open("w") as file:
        csv.writer(file).writerows([("a", "b"), *zip(steps, -steps, strict=True)])
    it = setup("data=series", f"data.root={tmp_path}/r.csv", "data.window=20", "data.stride=5", "net=lstm")
    assert it.shape == [2, 20]
    seen = {}
    for split in ("train", "val", "test"):
        items, _, index = it.splits[split]
        seen[split] = set(items[index][:, 0].flatten().tolist())
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]
    assert max(seen["train"]) < min(seen["val"]) < min(seen["test"])


# volumes


def test_volumes_are_split_by_subject(tmp_path):
    for subject in range(8):
        for scan in range(3):
            np.save(tmp_path / f"s{subject}_{scan}.npy", np.full((8, 8, 8), subject, np.float32))
    it = setup("data=volumes", f"data.root={tmp_path}", "data.patch=null", "net=conv", "data.val_size=0.2")
    assert it.shape == [1, 8, 8, 8]
    owners = [set(it.splits[s][0][it.splits[s][2]].flatten(1)[:, 0].tolist()) for s in ("train", "val", "test")]
    assert all(owners)
    assert not owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2]


def test_patches_of_a_nifti_file(tmp_path):
    import nibabel

    x = RNG.integers(0, 255, (64, 20, 20), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(x, np.eye(4)), tmp_path / "x.nii.gz")
    it = setup(
        "data=volumes",
        f"data.root={tmp_path}/x.nii.gz",
        "data.patch=8",
        "data.stride=4",
        "net=conv",
        "data.domain=unit",
    )
    items = it.splits["train"][0]
    assert items.shape == (15 * 4 * 4, 1, 8, 8, 8)
    assert torch.equal(items[17, 0], torch.from_numpy(x[4:12, 0:8, 4:12]))
    assert (
        setup("data=volumes", f"data.root={tmp_path}/x.nii.gz", "data.patch=8", "data.above=0.5", "net=conv")
        .splits["train"][0]
        .shape[0]
        < 8 * 4
    )


# what is refused


def bad(tmp_path, what: str) -> list[str]:
    rows = [[1.0, float(i), 2.0, "a"] for i in range(40)]
    match what:
        case "text":
            rows[6][1] = "abc"
        case "inf":
            rows[6][1] = "inf"
        case "nan":
            rows[6][1] = "nan"
        case "objects":
            np.save(tmp_path / "x.npy", np.array([{}, []], dtype=object), allow_pickle=True)
            return ["data=arrays", f"data.root={tmp_path}/x.npy"]
        case "torn":
            import nibabel

            nibabel.save(nibabel.Nifti1Image(RNG.random((20, 20, 20)), np.eye(4)), tmp_path / "x.nii")
            whole = (tmp_path / "x.nii").read_bytes()
            (tmp_path / "y.nii.gz").write_bytes(gzip.compress(whole)[:4000])
            return ["data=volumes", f"data.root={tmp_path}/y.nii.gz", "net=conv"]
        case "empty text" | "bytes":
            (tmp_path / "t.txt").write_bytes(b"\n \n" if what == "empty text" else b"good\nbad \xff\xfe\n")
            return ["data=text", f"data.root={tmp_path}/t.txt"]
        case "channels":
            write_ts(tmp_path / "x.ts", [RNG.normal(size=(2 + i // 7, 5)) for i in range(10)], "ab" * 5)
            return ["data=series", f"data.root={tmp_path}/x.ts", "net=lstm"]
        case "labels":
            np.save(tmp_path / "x.npy", RNG.normal(size=(30, 4)))
            np.save(tmp_path / "x_labels.npy", np.zeros(29))
            return ["data=arrays", f"data.root={tmp_path}/x.npy"]
        case "label":
            return ["data=table", f"data.root={write_csv(tmp_path / 't.csv', rows)}", "data.label=kinds"]
        case "absent":
            return ["data=table", f"data.root={tmp_path}/nothing.csv"]
        case "unit":
            return [
                "data=table",
                f"data.root={write_csv(tmp_path / 't.csv', rows)}",
                "data.label=kind",
                "data.domain=unit",
            ]
    return ["data=table", f"data.root={write_csv(tmp_path / 't.csv', rows)}", "data.label=kind"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("text", "row 7, column 'sensor_1' holds 'abc', which is no number"),
        ("inf", "row 7, column 'sensor_1' is infinite"),
        ("nan", "row 7, column 'sensor_1' is missing"),
        ("objects", "never unpickled"),
        ("torn", "y.nii.gz is torn"),
        ("empty text", "holds no text"),
        ("bytes", "line 2 is no UTF-8"),
        ("channels", "series have 2 and 3 channels (series 8 is the first to differ)"),
        ("labels", "has 30 data and 29 labels"),
        ("label", "has no column 'kinds', did you mean 'kind'?"),
        ("absent", "does not exist"),
        ("unit", "holds numbers outside [0, 1]: type data.domain=real"),
    ],
)
def test_bad_input_gets_one_line(run_ae, tmp_path, what, says):
    code, said = run_ae("train", *bad(tmp_path, what))
    assert code == 1
    assert says in said
    assert "\n" not in said.strip()


# what comes out


def test_a_table_is_predicted_from_a_moved_run_without_its_data(table, run_ae, tmp_path):
    path, numbers = table
    run = trained(tmp_path / "run", "data=table", f"data.root={path}", "data.label=kind", "model=ae", *SMALL)
    path.unlink()
    run.folder.rename(tmp_path / "moved")
    # The new table has its columns in another order, no label, and one strange row.
    new = write_csv(
        tmp_path / "new.csv", [*numbers[:10, [2, 0, 1]].tolist(), [900, 900, -900]], ("sensor_2", "age", "sensor_1")
    )
    code, said = run_ae("predict", f"run={tmp_path}/moved", f"data.root={new}", "output=out")
    assert code == 0, said
    rows = list(csv.DictReader((tmp_path / "out/scores.csv").open()))
    assert rows[0]["name"] == "11"
    assert rows[0]["anomaly"] == "true"
    shown = list(csv.DictReader((tmp_path / "out/reconstructions.csv").open()))
    model = load(tmp_path / "moved")
    config = compose("train", ["data=table", f"data.root={new}"])[0]
    it = build.restore(build.data(config), type(run)(tmp_path / "moved"))
    x = torch.from_numpy(numbers[:10]).float()
    with torch.no_grad():
        expected = it.restored(model(it.target(x, torch.Generator())))
    found = np.array([[float(row[c]) for c in ("age", "sensor_1", "sensor_2")] for row in shown[:10]])
    assert found == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)


def test_texts_are_predicted(run_ae, tmp_path):
    line = ("data=descriptions", "data.max_length=24", "net=seq2seq", "net.hidden_dim=8", "net.dim=8", "model=ae")
    run = trained(tmp_path / "run", *line, *SMALL[1:])
    (tmp_path / "new.txt").write_text("one line\nanother line\n")
    code, said = run_ae("predict", f"run={run.folder}", f"data.root={tmp_path}/new.txt", "output=out")
    assert code == 0, said
    assert len((tmp_path / "out/reconstructions.txt").read_text(encoding="utf-8").splitlines()) == 2
    assert np.load(tmp_path / "out/codes.npz")["codes"].shape == (2, 2)


def test_other_data_are_standardised_as_the_training_data_were(table, tmp_path):
    """`ae evaluate data.root=OTHER` takes means and deviations from the checkpoint, not from the other data."""
    from aelab.composition.trained import Trained

    path, numbers = table
    run = trained(tmp_path / "run", "data=table", f"data.root={path}", "data.label=kind", "model=ae", *SMALL)
    shifted = [[*(row + 5).tolist(), "a"] for row in numbers]
    other = write_csv(tmp_path / "other.csv", shifted)
    x = Trained.of(run, root=str(other)).images("test")[0]
    assert (x.mean(0) > 3).all()


# published numbers


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "published"),
    [("cardio", 0.9504), ("satellite", 0.5988), ("satimage-2", 0.9822), ("wbc", 0.9159), ("mnist", 0.8527)],
)
def test_the_splits_of_odds_are_those_of_pyod(name, published):
    """PyOD's PCA on our splits gives the AUROC that PyOD prints, to four decimals.

    Its score is the sum over components of the distance from row to component, over the explained share.
    """
    from scipy.spatial.distance import cdist
    from sklearn.decomposition import PCA
    from sklearn.metrics import roc_auc_score
    from sklearn.preprocessing import StandardScaler

    if REAL_DATA is None or not (folder := Path(REAL_DATA) / "odds").is_dir():
        pytest.skip("the tables of ODDS are absent: set AE_DATA")
    values = []
    for seed in range(10):
        it = setup("experiment=odds_pyod", f"data.root={folder}", f"data.file={name}.mat", f"seed={seed}")
        items, y, test = it.splits["test"]
        train = torch.cat([it.splits[split][2] for split in ("train", "val")]).sort().values
        scaler = StandardScaler().fit(items[train].double().numpy())
        fitted = PCA(svd_solver="full").fit(scaler.transform(items[train].double().numpy()))
        rows = scaler.transform(items[test].double().numpy())
        scores = (cdist(rows, fitted.components_) / fitted.explained_variance_ratio_).sum(1)
        values.append(roc_auc_score(y[test].numpy(), scores))
    assert np.mean(values) == pytest.approx(published, abs=1e-4)
