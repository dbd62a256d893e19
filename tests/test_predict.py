"""`ae predict`: new files through a trained model, without its training data. `ae export`: the model elsewhere."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import but_slow, data, names, quick, start, trained
from PIL import Image
from test_folder import SMALL, words, write

from aelab.composition.trained import load
from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.training.calibration import Calibration
from aelab.training.export import export
from aelab.training.fit import fit


@pytest.fixture(scope="module")
def moved(tmp_path_factory) -> Path:
    """A run on grey pictures of two classes, moved, whose training data are gone."""
    root = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for i in range(40):
            write(root / "data" / name / f"{i}.png", np.full((8, 8, 3), rng.integers(100, 140), np.uint8))
    trained(root / "run", *words(root / "data", *SMALL, "model=ae"))
    shutil.rmtree(root / "data")
    (root / "run").rename(root / "moved")
    return root / "moved"


@pytest.fixture
def new(tmp_path) -> Path:
    for i in range(30):
        write(tmp_path / "new" / "cat" / f"{i}.jpg", np.full((8, 8, 3), 120, np.uint8))
    write(tmp_path / "new" / "odd.png")
    return tmp_path / "new"


def test_codes_reconstructions_and_scores_are_those_of_the_model(run_ae, moved, new, tmp_path):
    code, said = run_ae("predict", f"run={moved}", f"data.root={new}", "output=out")
    assert code == 0, said
    out, model = tmp_path / "out", load(moved)
    content = np.load(out / "codes.npz")
    assert len(content["names"]) == 31
    assert content["labels"].tolist() == ["cat"] * 30 + [""]
    row = content["names"].tolist().index("odd.png")
    x = torch.from_numpy(np.asarray(Image.open(new / "odd.png"))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        z, shown = model.encode(x), model(x)
    assert content["codes"][row] == pytest.approx(z[0].numpy(), abs=1e-5)
    picture = np.asarray(Image.open(out / "reconstructions" / "odd.png"), dtype=float)
    assert np.abs(picture - shown[0].permute(1, 2, 0).numpy() * 255).max() <= 0.51
    assert (out / "reconstructions/cat/7.png").is_file()
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert rows[0]["name"] == "odd.png"
    assert float(rows[0]["error"]) == pytest.approx(float((x - shown).square().sum()), rel=1e-5)
    assert rows[0]["anomaly"] == "true"
    assert float(rows[0]["threshold"]) == pytest.approx(np.quantile(Calibration.load(Run(moved)).error, 0.95))
    assert "odd.png" in run_ae.said


def test_the_same_from_python(moved, new, tmp_path):
    import aelab

    scores = aelab.predict(moved, new, tmp_path / "out", by="distance")
    assert len(scores) == 31
    assert scores == sorted(scores, key=lambda score: -score[1])
    assert len(np.load(tmp_path / "out/codes.npz")["codes"]) == 31


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_codes_as_tables(run_ae, moved, new, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    line = ["predict", f"run={moved}", f"data.root={new}", "output=out", "what=[codes]", f"codes=c.{suffix}"]
    assert run_ae(*line)[0] == 0
    if suffix == "csv":
        rows = list(csv.DictReader((tmp_path / "out/c.csv").open()))
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(tmp_path / "out/c.parquet").to_pylist()
    assert len(rows) == 31
    assert set(rows[0]) == {"name", "label", "z0", "z1"}


def test_what_was_cut_goes_on_and_new_files_are_added(run_ae, moved, new, tmp_path, monkeypatch):
    import aelab.training.prediction as prediction

    score, calls = prediction.score, []

    def counted(model, batch, domain):
        calls.append(len(batch.x))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(model, batch, domain)

    run = shutil.copytree(moved, tmp_path / "copy")
    config = (run / "config.yaml").read_text(encoding="utf-8").replace("eval_batch_size: 500", "eval_batch_size: 10")
    (run / "config.yaml").write_text(config)
    line = ("predict", f"run={run}", f"data.root={new}", "output=out")
    monkeypatch.setattr(prediction, "score", counted)
    assert run_ae(*line)[0] == 130
    assert run_ae(*line)[0] == 0
    assert sum(calls) == 10 + 10 + 21
    write(new / "late.png")
    assert run_ae(*line)[0] == 0
    assert calls[-1] == 1
    assert len(np.load(tmp_path / "out/codes.npz")["names"]) == 32
    code, said = run_ae(*line, "what=[codes]")
    assert code == 1
    assert "holds another prediction (what)" in said


def test_broken_files_stop_no_other(run_ae, moved, new, tmp_path):
    (new / "torn.png").write_bytes(b"no image")
    line = ("predict", f"run={moved}", f"data.root={new}", "output=out")
    code, said = run_ae(*line)
    assert code == 1
    assert "1 of 32 files could not be read" in said
    assert len(np.load(tmp_path / "out/codes.npz")["names"]) == 31
    assert run_ae(*line, "data.skip_broken=true")[0] == 0


def test_mistakes(run_ae, moved, new):
    for more, says in (
        ((), "data.root is missing"),
        ((f"data.root={new}", f"output={new}/out"), "type another output"),
        ((f"data.root={new}", "codes=c.txt"), "ends in none of"),
        ((f"data.root={new}", "quantile=2.0"), "between 0 and 1"),
        ((f"data.root={new}", "what=[code]"), "codes, reconstructions, scores"),
        (("data=digits",), "the run takes"),
    ):
        code, line = run_ae("predict", f"run={moved}", *(["output=out"] if "output" not in str(more) else []), *more)
        assert code == 1
        assert says in line
        assert "\n" not in line.strip()


def test_a_known_source_and_distances(run_ae, own_run, tmp_path):
    assert run_ae("predict", f"run={own_run.folder}", "data=digits", "output=out", "by=distance")[0] == 0
    content = np.load(tmp_path / "out/codes.npz")
    assert len(content["names"]) == 360
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "out/scores.csv").open())}
    centres = np.load(own_run.folder / "calibration.npz")["centres"]
    expected = np.linalg.norm(content["codes"][:, None].astype(float) - centres, axis=2).min(1)
    found = [float(rows[name]["distance"]) for name in content["names"]]
    assert found == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_known_source_that_is_read_file_by_file(run_ae, moved, new, tmp_path):
    line = ("predict", f"run={moved}", "data=folder", f"data.root={new.parent}", "data.shape=[3,8,8]", "split=train")
    for name, more in (("cache", ()), ("files", ("data.cache=false", "data.loader=stream"))):
        code, said = run_ae(*line, f"output={tmp_path.parent / name}", *more)
        assert code == 0, said
    whole, one_by_one = (np.load(tmp_path.parent / name / "codes.npz") for name in ("cache", "files"))
    assert whole["codes"] == pytest.approx(one_by_one["codes"])
    assert whole["labels"].tolist() == one_by_one["labels"].tolist()


@pytest.mark.parametrize("how", ["static", "dynamic", "threshold"])
def test_a_model_of_black_and_white_is_shown_black_and_white(run_ae, tmp_path, how):
    run = trained(tmp_path / "run", f"data.binarize={how}", "trainer.max_epochs=1", *SMALL[:2], "net.hidden_dims=[8]")
    assert run_ae("predict", f"run={run.folder}", "data=digits", "output=out", "what=[codes]")[0] == 0
    x = data("data.binarize=threshold").splits["test"][0] / 255
    same = np.load(tmp_path / "out/codes.npz")["codes"] == pytest.approx(
        load(run.folder).encode(x).detach().numpy(), abs=1e-5
    )
    assert same == (how == "threshold")  # the others draw


def test_a_model_that_completes_needs_to_know_what_is_hidden(run_ae, tmp_path):
    run = trained(tmp_path / "run", "model=structured_cvae", "trainer.max_epochs=1", *SMALL[:2], "net.hidden_dims=[8]")
    code, line = run_ae("predict", f"run={run.folder}", "data=digits", "output=out")
    assert code == 1
    assert "noise=quadrants" in line
    assert run_ae("predict", f"run={run.folder}", "data=digits", "output=out", "noise=quadrants")[0] == 0


def test_names_of_reconstructions_never_collide(tmp_path):
    from aelab.training.prediction import _targets

    files = ["a.jpg", "a.png", "b.gif", "b.webp", "c.tif"]
    targets = _targets(files)
    assert len(set(targets)) == len(files)
    assert targets[1] == "a.png"
    assert targets[4] == "c.tif"


@pytest.mark.parametrize("format", ["torch_export", "onnx"])
@pytest.mark.parametrize("model", but_slow(names("model"), "vqvae"))
def test_what_is_exported_gives_the_same(model, format, tmp_path):
    """`export` itself compares two sizes of a batch. This compares a third one, and every model."""
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
    line = (f"model={model}", "trainer.max_epochs=1", "trainer.max_steps=3", "~callbacks.pictures", "logger=[]")
    line += (*quick(model),)
    run = start(tmp_path / "run", *line)
    fit(run)
    run.update_manifest(dataset={"classes": [str(i) for i in range(10)]})
    folder, trained_model = export(run, format), load(run.folder)
    about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    batch = (torch.rand(5, 1, 8, 8), *([torch.arange(5)] if "y" in about["encode"] else []))
    with torch.no_grad():
        z = trained_model.encode(*batch)
        expected = {"encode": (batch, z)}
        if trained_model.decodes:
            expected["decode"] = (z, *batch[1:]), trained_model.decode(z, *batch[1:])
        else:
            expected["reconstruct"] = batch, trained_model(*batch)
    for name, (inputs, value) in expected.items():
        if format == "onnx":
            session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
            fed = {entry.name: t.numpy() for entry, t in zip(session.get_inputs(), inputs, strict=True)}
            found = torch.from_numpy(session.run(None, fed)[0])
        else:
            found = torch.export.load(folder / f"{name}.pt2").module()(*inputs)
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_exported_files_load_where_there_is_torch_alone(run_ae, own_run):
    assert run_ae("export", f"run={own_run.folder}")[0] == 0
    folder = own_run.folder / "export" / "torch_export"
    program = (
        "import sys, torch; m = torch.export.load(sys.argv[1]).module();"
        "print(tuple(m(torch.rand(4, 1, 8, 8)).shape), 'aelab' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder / "encode.pt2"], capture_output=True, text=True)
    assert done.stdout.strip() == f"(4, {load(own_run.folder).latent_dim}) False", done.stderr


def test_weights_as_safetensors(own_run):
    torch_of = pytest.importorskip("safetensors.torch")
    state = torch_of.load_file(export(own_run, "safetensors") / "model.safetensors")
    expected = load(own_run.folder).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_what_an_exporter_misses_is_named(own_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript: pip install -e '\.\[export\]'"):
        export(own_run, "onnx")


def test_the_activations_of_a_layer_are_data_for_a_sparse_coder(run_ae, own_run):
    line = ("predict", f"run={own_run.folder}", "data=digits", "split=train", "what=[codes]")
    assert run_ae(*line, "output=out", "codes=activations.npy", "layer=encoder.1")[0] == 0
    built = load(own_run.folder)
    x, y, rows = data("data=digits").splits["train"]
    with torch.no_grad():
        expected = built.encoder[:2](x[rows].float() / 255)
    found = np.load("out/activations.npy")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    coder = data("data=arrays", "data.root=out/activations.npy", "data.standardize=norm")
    assert coder.shape == [found.shape[1]]
    labels = torch.cat([coder.splits["train"][1], coder.splits["test"][1]])
    assert labels.unique().tolist() == list(range(10)), "labels lie beside the array"
    assert sorted(np.load("out/activations_labels.npy").astype(int).tolist()) == sorted(y[rows].tolist())
    code, said = run_ae(*line, "output=out", "codes=activations.npy", "layer=encoder.3")
    assert code == 1
    assert "another prediction (layer)" in said
    code, said = run_ae(*line, "output=other", "layer=encoder.77")
    assert code == 1
    assert len(said.strip().splitlines()) == 1
    assert "no layer 'encoder.77'" in said


def test_the_codes_of_a_classifier(run_ae, tmp_path):
    run = trained(tmp_path / "logs" / "run", "trainer.max_epochs=1", "+stages@stages.top=classifier")
    line = ("predict", f"run={run.folder}/top", "data=digits", "codes=c.npy")
    code, said = run_ae(*line, "output=out")
    assert code == 1
    assert "type what=[codes]" in said
    assert run_ae(*line, "output=out", "what=[codes]")[0] == 0
    assert run_ae(*line, "output=logits", "what=[codes]", "layer=head")[0] == 0
    top = load(run.folder / "top")
    x, _, rows = data("data=digits").splits["test"]
    with torch.no_grad():
        np.testing.assert_allclose(np.load("out/c.npy"), top.features(x[rows].float() / 255), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.load("logits/c.npy"), top(x[rows].float() / 255), rtol=1e-4, atol=1e-5)
