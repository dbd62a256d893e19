"""The table over runs, tested with made-up numbers."""

import csv
import io
import re
import shutil
import statistics

import pytest
from conftest import compose, trained
from scipy import stats

from aelab.commands import report as command
from aelab.commands.rerun import rerun
from aelab.errors import UserError
from aelab.runs.comparable import family
from aelab.runs.log import Console, start_console
from aelab.runs.ranks import ranks
from aelab.runs.run import Run
from aelab.runs.table import HIGHER_IS_BETTER, Report, number

LOSS = {("ae", 4): [3.0, 4.0, 5.5], ("ae", 8): [2.0, 2.1, 2.3], ("vae", 4): [9.0, 9.5, 9.1], ("vae", 8): [7.0]}


@pytest.fixture
def runs(tmp_path):
    """The folder of finished runs with the losses in LOSS, one seed per loss, and of one run that is not done."""
    for (model, dim), losses in LOSS.items():
        for seed, loss in enumerate(losses):
            words = [f"model={model}", f"model.latent_dim={dim}", f"seed={seed}"]
            run = Run.start(tmp_path / f"logs/s/{'_'.join(words)}", *compose("train", words), words)
            run.finish("done", score=loss)
            run.add_metrics({"test/loss": loss, "test/psnr": 10 * loss})
            lines = ["epoch,step,val/loss", *(f"{epoch},{epoch},{loss / (epoch + 1)}" for epoch in range(3))]
            (run.folder / "metrics.csv").write_text("\n".join(lines))
    Run.start(tmp_path / "logs/s/unfinished", *compose("train", []))
    return tmp_path / "logs"


def test_means_and_intervals_are_those_of_scipy(runs):
    table = list(csv.DictReader(io.StringIO(Report([runs], ["test/loss"], None).csv())))
    assert len(table) == len(LOSS)
    for row in table:
        losses = LOSS[row["model"], int(row["model.latent_dim"])]
        assert int(row["runs"]) == len(losses)
        assert float(row["test/loss"]) == pytest.approx(statistics.fmean(losses))
        if len(losses) > 1:
            low, high = stats.t.interval(0.95, len(losses) - 1, statistics.fmean(losses), stats.sem(losses))
            assert float(row["test/loss ±"]) == pytest.approx((high - low) / 2)
        else:
            assert row["test/loss ±"] == ""
    assert [float(row["test/loss"]) for row in table] == sorted(float(row["test/loss"]) for row in table)


def test_the_best_is_bold_and_knows_which_way_is_up(runs):
    rows = Report([runs], ["test/loss", "test/psnr"], "test/psnr").rows("<{}>")
    assert rows[0] == ["model", "model.latent_dim", "runs", "test/loss", "test/psnr"]
    assert rows[1][:2] == ["vae", "4"], "the greatest psnr comes first"
    bold = [(row[0], row[1], i) for row in rows[1:] for i in (3, 4) if row[i].startswith("<")]
    assert sorted(bold) == [("ae", "8", 3), ("vae", "4", 4), ("vae", "8", 3)], "objectives are not compared"


@pytest.mark.parametrize(
    ("column", "higher"),
    [
        ("anomaly/f1/error", True),
        ("anomaly/vus_pr/error", True),
        ("anomaly/false_alarms/knn", False),
        ("anomaly/of_normal/isolation_forest", False),
        ("representation/knn/codes", True),
        ("reconstruction/r2_of/x/model", True),
        ("reconstruction/exact/model", True),
        ("reconstruction/mse/model", False),
        ("test/loss", False),
    ],
)
def test_which_way_is_up(column, higher):
    assert bool(HIGHER_IS_BETTER.search(column)) == higher


def test_latex_has_one_cell_a_column_and_nothing_unescaped(runs):
    lines = Report([runs], ["test/loss"], None).latex().splitlines()
    begin, top, head, mid, *rows, bottom, end = lines
    assert (top, mid, bottom, end) == (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")
    columns = len(re.fullmatch(r"\\begin{tabular}{([lr]+)}", begin)[1])
    for line in (head, *rows):
        assert line.endswith(r"\\")
        assert len(re.split(r"(?<!\\)&", line)) == columns
        assert not re.search(r"(?<!\\)[_%#]", line)
        assert line.count("{") == line.count("}")
        assert line.count("$") % 2 == 0
    assert r"latent\_dim" in head
    assert sum(r"\textbf{" in row for row in rows) == 2  # one of each objective


def test_markdown(runs):
    lines = Report([runs], ["test/loss"], None).markdown().splitlines()
    assert lines[2] == "| ae | 8 | 3 | **2.13 ± 0.38** |"


def test_a_number_that_compares_all_rows_comes_first(runs):
    report = Report([runs], [], None)
    assert report.columns == ["test/psnr", "test/loss"]
    assert report.measure == "test/psnr"
    one = Report([path for path in (runs / "s").iterdir() if "model=ae" in path.name], [], None)
    assert one.columns == ["test/loss"]
    assert one.measure == "test/loss"


@pytest.mark.parametrize(
    ("first", "second", "column", "same"),
    [
        ({"model": "ae"}, {"model": "vae"}, "test/loss", False),
        ({"model": "ae"}, {"model": "vae"}, "test/mse", True),
        ({"model": "vae", "model.beta": "1"}, {"model": "vae", "model.beta": "4"}, "val/loss", False),
        ({"model.latent_dim": "2"}, {"model.latent_dim": "4"}, "test/loss", True),
        ({"net": "mlp"}, {"net": "conv"}, "test/loss", True),
        ({"reconstruction": "mse"}, {"reconstruction": "bce"}, "test/reconstruction", False),
        ({"data": "mnist"}, {"data": "digits"}, "anomaly/auroc/error", False),
        ({"data.file": "a.csv"}, {"data.file": "b.csv"}, "test/mse", False),
        ({"data.batch_size": "8"}, {"data.batch_size": "16"}, "test/loss", True),
    ],
)
def test_what_compares(first, second, column, same):
    assert (family(first, column) == family(second, column)) == same


def test_a_file_says_its_format_by_its_name(runs, tmp_path):
    files = {"t.html": "<!doctype", "t.csv": "model,", "t.tex": r"\begin{tabular}", "t.md": "| model"}
    for name, begins in files.items():
        command.main([str(runs), "--output", str(tmp_path / name)])
        assert (tmp_path / name).read_text(encoding="utf-8").lower().startswith(begins)


def test_a_paired_test_is_that_of_scipy(runs):
    text = Report([runs], ["test/loss", "test/psnr"], None).paired("model=ae", "model=vae")
    assert "test/loss" not in text, "their objectives differ"
    with pytest.raises(UserError, match="do not compare: type, for example, --columns test/mse"):
        Report([runs], ["test/loss"], None).paired("model=ae", "model=vae")
    a, b = [3.0, 4.0, 5.5, 2.0], [9.0, 9.5, 9.1, 7.0]  # one pair per seed and latent_dim that both have
    assert f"p = {stats.ttest_rel(a, b).pvalue:.3g}" in text
    assert "4 pairs" in text
    with pytest.raises(UserError, match="share 0 pairs"):
        Report([runs], [], None).paired("model=ae", "model=iwae")


def test_ranks_are_those_of_demsar_2006(tmp_path):
    """Table 6 of the paper: AUROC of four classifiers on 14 data sets. Section 3.2.2 has the ranks and both tests."""
    published = {
        "ae": [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1, 0.940, 0.619, 0.972, 0.957],
        "vae": [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1, 0.962, 0.666, 0.981, 0.978],
        "iwae": [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1, 0.965, 0.614, 0.9751, 0.946],
        "dae": [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1, 0.962, 0.669, 0.975, 0.970],
    }
    for model, numbers in published.items():  # model=dae brings a noise of its own, which is no data set
        composed = compose("train", [f"model={model}"])
        for block, number_ in enumerate(numbers):
            words = [f"model={model}", f"data.batch_size={block + 1}", "seed=0"]
            run = Run.start(tmp_path / f"{model}{block}", *composed, words)
            run.finish("done", score=0.0)
            run.add_metrics({"anomaly/auroc/error": number_})
    text = ranks(Report([tmp_path], ["anomaly/auroc/error"], None), "model")
    head, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert dict(zip(head[1:], rows[-1][1:], strict=True)) == {
        "ae": "3.14",
        "vae": "2.00",
        "iwae": "2.89",
        "dae": "1.96",
    }
    assert len(rows) == 14 + 1
    # The paper has 9.28, because it does not correct for ties.
    assert f"chi² = {stats.friedmanchisquare(*published.values()).statistic:.2f}" in text
    assert "Critical difference of two mean ranks (Nemenyi, 5 %): 1.25." in text
    assert "Not different from the best: dae, vae, iwae, ae." in text


def test_ranks_need_blocks_and_values(runs):
    with pytest.raises(UserError, match="have all of 2 values of model: ranks need 2 blocks and 3 values"):
        ranks(Report([runs], ["test/loss"], None), "model")
    with pytest.raises(UserError, match="no run has the setting 'modell', did you mean 'model'"):
        ranks(Report([runs], ["test/loss"], None), "modell")
    with pytest.raises(UserError, match="leave out --format"):
        command.main([str(runs), "--ranks", "model", "--format", "latex"])


@pytest.mark.parametrize(
    ("mean", "interval", "expected"),
    [
        (25.4944, 2.59, "25.5 ± 2.6"),
        (0.0717918, 0.00128, "0.0718 ± 0.0013"),
        (1234.5, 67.0, "1234 ± 67"),
        (3.25, None, "3.25"),
    ],
)
def test_as_many_digits_as_are_known(mean, interval, expected):
    assert number(mean, interval) == expected


def test_the_page_stands_alone(runs, capsys):
    command.main([str(runs), "--format", "html", "--output", str(runs / "r.html")])
    assert "1 runs are not done, and left out" in capsys.readouterr().err
    text = (runs / "r.html").read_text(encoding="utf-8")
    assert "{{" not in text
    assert not re.search(r'(src|href)="http', text)
    assert text.count("<svg") == 2
    assert text.count("<tr>") == 1 + len(LOSS)


def test_what_cannot_be_reported(runs, tmp_path):
    with pytest.raises(UserError, match="no run has the number 'test/lss', did you mean 'test/loss'"):
        Report([runs], ["test/lss"], None)
    with pytest.raises(UserError, match="no finished run in"):
        Report([tmp_path / "nowhere"], [], None)


def test_a_rerun_gives_the_same_numbers_and_says_what_differs(tmp_path, capsys):
    run = trained(tmp_path / "name/run", "trainer.max_epochs=1")
    new = rerun(run)
    assert new.folder.parent == tmp_path / "name_rerun"
    assert new.metrics == run.metrics
    assert (new.folder / "config.yaml").read_text(encoding="utf-8") == (run.folder / "config.yaml").read_text(
        encoding="utf-8"
    )

    other = Run(shutil.copytree(run.folder, tmp_path / "other/run"))
    other.update_manifest(versions={**other.manifest["versions"], "torch": "1.0"}, commit="0" * 40, data="another")
    other.add_metrics({"test/loss": 0.0})
    start_console(Console())
    capsys.readouterr()
    rerun(other)
    said = capsys.readouterr().out
    for expected in (
        "differs torch: 1.0, now",
        "differs code: commit 000",
        "differs data:",
        "differs test/loss: 0.0, now",
    ):
        assert expected in said
