"""The command line imports nothing heavy before it must, and answers a mistake with one line."""

import errno
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import yaml
from conftest import names, write_idx

from aelab import cli
from aelab.composition.compose import configs
from aelab.runs.run import Run


def ae(*words: str, traceback: str = "0", **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "aelab", *words]
    env = os.environ | {"HYDRA_FULL_ERROR": traceback}
    return subprocess.run(command, capture_output=True, text=True, env=env, **options)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['ae', '--help']\n"
        "from aelab.cli import main; main()\n"
        "heavy = {'torch', 'lightning', 'hydra', 'omegaconf', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ae train" in done.stdout
    assert all(f"ae {verb}" in done.stdout for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_imports_no_torch_before_its_words_are_composed(verb):
    """Without torch, a mistake in the line is answered at once."""
    code = (
        f"import sys, importlib; importlib.import_module('aelab.commands.{verb}')\n"
        "import aelab.composition.explain, aelab.composition.compose\n"
        "heavy = {'torch', 'lightning', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("chosen", "expected"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_waiting_threads_do_not_spin_unless_the_user_wants_it(chosen, expected):
    """The variable is set before torch is loaded, and child processes inherit it."""
    code = (
        "import sys, aelab, os, subprocess; assert 'torch' not in sys.modules\n"
        "child = 'import os; print(os.environ.get(\"GOMP_SPINCOUNT\"))'\n"
        "subprocess.run([sys.executable, '-c', child], check=True)\n"
    )
    env = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env | chosen)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.parametrize("verb", [verb for verb, composed in cli.VERBS.items() if composed and verb != "train"])
def test_a_verb_explains_its_own_keys(verb):
    said = ae(verb, "--help").stdout
    config = yaml.safe_load((configs() / f"{verb}.yaml").read_text(encoding="utf-8"))
    for key in set(config) - {"defaults", "hydra"}:
        assert f"\n    {key}:" in said
    assert f"ae {verb}" in said


def test_the_version():
    assert ae("--version").stdout == f"ae {version('aelab')}\n"


def test_what_to_type_next(run_ae, tmp_path):
    small = ("model=ae", "trainer.max_epochs=1", "logger=[]", "~callbacks.pictures")
    assert run_ae("train", *small, "name='a b'")[0] == 0
    (folder,) = (tmp_path / "logs" / "a b").iterdir()
    assert f"next    ae visualize run='logs/a b/{folder.name}' draws it" in run_ae.said
    assert run_ae("train", "-m", *small, "name=s", "seed=0,1")[0] == 0
    assert "job     2 of 2: model=ae,trainer.max_epochs=1,logger=[]," in run_ae.said


def test_the_log_begins_with_what_a_model_chose(run_ae, tmp_path):
    assert run_ae("train", "model=dae", "trainer.max_epochs=1", "logger=[]", "~callbacks.pictures", "name=d")[0] == 0
    assert run_ae.said.startswith("noise   masking, chosen by model=dae\n")
    (folder,) = (tmp_path / "logs" / "d").iterdir()
    assert "noise   masking, chosen by model=dae" in (folder / "train.log").read_text(encoding="utf-8").splitlines()[0]


def test_a_verb_explains_itself():
    done = ae("train", "--help")
    assert done.returncode == 0
    for group in ("model", "net", "data", "noise"):
        listed = next(line for line in done.stdout.splitlines() if line.startswith(f"{group}: "))
        assert set(names(group)) <= set(listed.partition(": ")[2].split(", "))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trian", "no verb 'trian', did you mean 'train'?"),
        ("train model.latnt_dim=3", "no key 'model.latnt_dim', did you mean 'model.latent_dim'?"),
        ("train modle=ae", "no key 'modle', did you mean 'model'?"),
        (
            "train trainer.max_epoch=3 model=ae",
            "no key 'trainer.max_epoch', did you mean 'trainer.max_epochs'?",
        ),
        ("train model=vaee", "no model 'vaee', did you mean 'vae'? (there are aae, ae,"),
        ("train data=mnst", "no data 'mnst', did you mean 'mnist'?"),
        ("train --multrun", "no flag '--multrun', did you mean '--multirun'?"),
        ("train model.latent_dim=0", "model.latent_dim=0 must be at least 1"),
        ("train data.loader=fast", "data.loader=fast is none of resident, stream"),
        ("train data.binarize=yes", "data.binarize=yes is none of none, dynamic, static, threshold"),
        ("train data.shape=[1,7,8]", "data.shape=[1, 7, 8] does not fit images of [1, 8, 8]"),
        ("train data.val_size=1437", "data.val_size=1437 must leave some"),
        (
            "train trainer.max_epochs=abc",
            "trainer.max_epochs=abc is a word, and a whole number or -1 or null belongs there",
        ),
        ("train data.shape=[3,9]", "data.shape=[3,9] is a list, and a list of 3 whole numbers belongs there"),
        ("train net.hidden_dims=512", "net.hidden_dims=512 is a whole number, and a list of whole numbers belongs"),
        ("train optimizer.lr=fast", "optimizer.lr=fast is a word, and a number belongs there"),
        ("train net.hidden_dims=[512,-3]", "net.hidden_dims=[512,-3] holds a number that is not at least 1"),
        ("train noise=gaussian noise.sigma=-1", "noise.sigma=-1 must be at least 0"),
        ("train trainer.max_epochs=0", "trainer.max_epochs=0 must be at least 1 or -1"),
        ("train trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0 must be at least 1"),
        ("train model.latent_dim=1e8", "a whole number belongs there: type model.latent_dim=100000000"),
        ("train seed=1.5", "seed=1.5 is a number, and a whole number belongs there"),
        ("train compile=maybe", "compile=maybe is a word, and true or false belongs there"),
        ("train trainer.num_nodes=two", "trainer.num_nodes=two is a word, and a whole number belongs there"),
        ("train score=3", "score=3 is a whole number, and a word or a list of words belongs there: type \"score='3'\""),
        ("train lr=1e-3", "no key 'lr', did you mean 'optimizer.lr'?"),
        ("train epochs=3", "no key 'epochs', did you mean 'trainer.max_epochs'?"),
        ("train optimizer.lr=[", "optimizer.lr=[ is a word, and a number belongs there"),
        ("train stages=abc", "stages is a group of which entries are added: type +stages@PLACE=NAME"),
        ("evaluate run=x splits=[train]", "splits=[train] holds train, which is none of val, test"),
        ("train scheduler=cosine scheduler.interval=week", "scheduler.interval=week is none of epoch, step"),
        ("train optimizer.lr=-1 trainer.max_epochs=1", "optimizer.lr=-1 must be at least 0"),
        ("train trainer.precision=bf16-mixed trainer.gradient_clip_val=1", "type optimizer.fused=false"),
        ("train net.activation=Relu", "torch.nn has no activation 'Relu', did you mean 'ReLU'?"),
        ("train noise=masking noise.p=2", "noise.p=2 must be from 0 to 1"),
        ("train +model.foo=1", "unexpected keyword argument 'foo'"),
        ("train data=folder data.root=nowhere", "data.root=nowhere is no folder"),
        ("train trainer=gpu", "torch finds no such device here: type trainer=cpu"),
        ("train data.val_size=2.5", "data.val_size=2.5 must be at least 1 or above 0 to below 1"),
        ("train model.latent_dim=100000000", "there is not enough memory: choose smaller"),
        (
            "train score=val/los",
            "score=val/los is no number of this run, did you mean 'val/loss'? (there are train/kl,",
        ),
        ("train score=test/loss", "is a number of the test split, which selects nothing"),
        ("train data.classes=[circle]", "no class 'circle' (there are 0, 1,"),
        ("visualize run=x figures=latent_2d", "type figures=[latent_2d]"),
        ("train vae", "'vae' is no key=value: type model=vae"),
        ("train trainer.devices=many", "trainer.devices=many is neither"),
        ("train model._target_=os.system", "_target_: os.system is not trusted"),
        ("evaluate", "run is missing: type run="),
        ("evaluate run=nowhere", "nowhere is no run folder"),
        ("evaluate run=no,where=x", "no,where=x is no run folder"),
        ("evaluate run=it's", "it's is no run folder"),
        ("evaluate run=x metrics=[reconstructions]", "no metrics 'reconstructions', did you mean 'reconstruction'?"),
        ("visualize run=nowhere", "nowhere is no run folder"),
        ("visualize", "run is missing: type run="),
        ("explore run=nowhere", "nowhere is no run folder"),
    ],
)
def test_a_mistake_gets_one_line(run_ae, words, expected):
    if words == "train trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, line = run_ae(*words.split())
    assert code == 1
    assert line.startswith("ae: ")
    assert expected in line
    assert "\n" not in line.strip()


def test_one_line_in_a_real_process(tmp_path):
    done = ae("train", "model=vea", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    full = ae("train", "model=vea", cwd=tmp_path, traceback="1")
    assert full.returncode == 1
    assert "Traceback" in full.stderr


def test_logs_that_cannot_be_written(run_ae, tmp_path):
    (tmp_path / "logs").write_text("in the way")
    code, line = run_ae("train")
    assert code == 1
    assert "logs/vae_digits" in line
    assert (tmp_path / "logs").read_text(encoding="utf-8") == "in the way"


def test_train_then_everything_else_from_the_command_line(run_ae, tmp_path, capsys):
    assert run_ae("train", "model=ae", "trainer.max_epochs=1", "name='a=b,c'") == (0, "")
    (folder,) = (tmp_path / "logs" / "a=b,c").iterdir()
    capsys.readouterr()
    trained = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    code, said = run_ae("evaluate", f"run={folder}", "metrics=[reconstruction,code]", "splits=[test]")
    assert (code, said.strip()) == (0, "")

    evaluated = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert evaluated.items() >= trained.items()
    assert "code/jacobian" in evaluated
    assert run_ae("visualize", f"run={folder}", "figures=[filters]")[0] == 0
    assert (folder / "figures" / "filters.pdf").exists()
    assert run_ae("explore", f"run={folder}")[0] == 0
    assert (folder / "explore.html").exists()


def test_numbers_as_json_and_nothing_else_on_stdout(run_ae, own_run):
    assert run_ae("evaluate", f"run={own_run.folder}", "--json", "metrics=[code]")[0] == 0
    numbers = json.loads(run_ae.said)
    assert numbers["test/loss"] == own_run.metrics["test/loss"]
    assert numbers["code/jacobian"] > 0


def test_what_a_run_does_not_have(run_ae, own_run, tmp_path):
    """A metric group that the run cannot have is refused if the line asks for it.

    An interrupted run is evaluated from what it saved. A run without checkpoints is refused.
    """
    code, line = run_ae("evaluate", f"run={own_run.folder}", "metrics=[code,anomaly]")
    assert (code, "\n" in line.strip()) == (1, False)
    assert "which classes are normal" in line
    unfinished = shutil.copytree(own_run.folder, tmp_path / "unfinished")
    Run(unfinished).update_manifest(status="interrupted")
    code, said = run_ae("evaluate", f"run={unfinished}", "metrics=[]")
    assert (code, said.splitlines()[0]) == (0, "the run is interrupted: these are the numbers of what it saved so far")
    assert "evaluations/best_step_" in said
    shutil.rmtree(unfinished / "checkpoints")
    code, line = run_ae("evaluate", f"run={unfinished}")
    assert code == 1
    assert "the run saved nothing yet" in line


def test_a_run_whose_data_are_gone(run_ae, tmp_path, capsys):
    root = write_idx(tmp_path / "data")
    words = ["data=mnist", f"data.root={root}", "data.val_size=10", "trainer.max_epochs=1", "name=gone"]
    assert run_ae("train", *words)[0] == 0
    (folder,) = (tmp_path / "logs" / "gone").iterdir()
    root.rename(tmp_path / "moved")
    code, line = run_ae("evaluate", f"run={folder}", "metrics=[code]")
    assert code == 1
    assert "data.root" in line
    assert run_ae("evaluate", f"run={folder}", "metrics=[code]", f"data.root={tmp_path / 'moved'}")[0] == 0


def test_flags_may_stand_anywhere_and_a_sweep_goes_on_after_a_failure(run_ae, tmp_path, capsys):
    code, line = run_ae(
        "train", "trainer.max_epochs=1", "-m", "name=s", "model.latent_dim=2,0,3", "~callbacks.pictures"
    )
    assert code == 1
    assert "1 of 3 jobs failed" in line
    folders = {path.name for path in (tmp_path / "logs" / "s").iterdir() if path.is_dir()}
    done = {name for name in folders if (tmp_path / "logs" / "s" / name / "metrics.json").exists()}
    assert len(folders) == 3
    assert len(done) == 2


def test_a_sweep_names_its_folders_after_the_overrides(run_ae, tmp_path):
    code, _ = run_ae("train", "-m", "model=ae,vae", "trainer.max_epochs=1", "~callbacks.pictures")
    assert code == 0
    (sweep,) = (tmp_path / "logs").iterdir()
    assert sweep.name.startswith("sweep_")
    for name in ("ae", "vae"):
        (folder,) = sweep.glob(f"model={name},*")
        assert (folder / "metrics.json").exists()


@pytest.mark.slow
def test_a_users_own_variant_needs_no_fork(run_ae, tmp_path):
    """It takes one Python file, one yaml, and a line with `--config-dir` and `trust`."""
    (tmp_path / "my_models.py").write_text(
        "from aelab.models.ae import AE\n\n\n"
        "class Scaled(AE):\n"
        "    def __init__(self, net, reconstruction, latent_dim, scale):\n"
        "        super().__init__(net, reconstruction, latent_dim, 'Identity', 0.0)\n"
        "        self.scale = scale\n\n"
        "    def loss(self, batch):\n"
        "        return {k: self.scale * v for k, v in super().loss(batch).items()}\n"
    )
    mine = tmp_path / "mine" / "model"
    mine.mkdir(parents=True)
    (mine / "scaled.yaml").write_text("_target_: my_models.Scaled\nlatent_dim: 4\nscale: 2.0\n")
    words = ("train", "--config-dir", str(tmp_path / "mine"), "model=scaled", "trainer.max_epochs=1")
    code, line = run_ae(*words)
    assert code == 1
    assert "type trust=[my_models]" in line
    assert run_ae(*words, "trust=[my_models]")[0] == 0
    folder = max((tmp_path / "logs" / "scaled_digits").iterdir(), key=lambda path: path.stat().st_mtime)
    code, line = run_ae("evaluate", f"run={folder}")
    assert code == 1, "opening a run must not trust its packages"
    assert "not trusted" in line
    assert run_ae("evaluate", f"run={folder}", "trust=[my_models]")[0] == 0


def test_the_configs_are_where_the_program_looks():
    assert (configs() / "train.yaml").is_file()


@pytest.mark.parametrize("group", ["net", "noise", "reconstruction", "model", "data"])
def test_an_own_part_that_is_none(run_ae, tmp_path, group):
    """A class of one's own inherits from the base of its group, or the line says from which."""
    (tmp_path / "own.py").write_text("class Mine:\n    def __init__(self, **given):\n        pass\n")
    (tmp_path / "cfg" / group).mkdir(parents=True)
    more = "shape: [1,8,8]\ndomain: unit\nnum_classes: 10\nroot: null\nbatch_size: 8\n" if group == "data" else ""
    (tmp_path / "cfg" / group / "mine.yaml").write_text(f"_target_: own.Mine\n{more}")
    code, line = run_ae("train", "--config-dir", str(tmp_path / "cfg"), f"{group}=mine", "trust=[own]")
    assert code == 1
    assert f"{group}: own.Mine is no " in line
    assert "from aelab." in line


def test_a_disk_that_is_full(monkeypatch, run_ae):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("aelab.runs.run.write_text", full)
    code, line = run_ae("train")
    assert code == 1
    assert line.startswith("ae: the disk is full: make room and type the same line again")
