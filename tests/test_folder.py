"""A stranger's folder of images: depth, orientation, transparency, layouts, links, broken files, identity."""

import json
import logging
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import compose, start, trained
from PIL import Image

from aelab.composition import build
from aelab.data.cache import Cache
from aelab.data.image_files import Files
from aelab.data.layout import find, read_layout
from aelab.errors import UserError
from aelab.runs.run import Run
from aelab.training.complete import complete
from aelab.training.evaluation import evaluate

RNG = np.random.default_rng(0)
SMALL = ("net.hidden_dims=[8]", "model.latent_dim=2", "trainer.max_epochs=1", "logger=[csv]", "~callbacks.pictures")


def write(path: Path, pixels=None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8) if pixels is None else pixels).save(path, **options)
    return path


def fill(root: Path, *folders: str, n: int = 20) -> Path:
    for folder in folders:
        for i in range(n):
            write(root / folder / f"{i}.png")
    return root


def words(root: Path, *more: str) -> list[str]:
    return ["data=folder", f"data.root={root}", "data.shape=[3,8,8]", *more]


def folder(root: Path, *more: str):
    it = build.data(compose("train", words(root, *more))[0])
    it.setup()
    return it


def one(path: Path, shape=(3, 8, 8), resize=False, background="black"):
    return Files(path.parent, [path.name], shape, resize, background).decode(0)


def test_sixteen_bits_are_scaled_by_their_range(tmp_path):
    grey = RNG.integers(0, 65536, (8, 8), dtype=np.uint16)
    for suffix in ("png", "tif", "pgm"):
        path = write(tmp_path / f"a.{suffix}", grey)
        pixels, done = one(path, (1, 8, 8))
        assert np.abs(pixels[0].numpy() - grey / 257).max() <= 0.5
        assert "16 bits" in done[0]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_range_are_refused_with_the_files_name(tmp_path, dtype):
    path = write(tmp_path / "a.tif", np.ones((8, 8), dtype))
    with pytest.raises(UserError, match=r"a\.tif cannot be read .* no known range"):
        one(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_is_read_as_pillow_shows_it(tmp_path, mode):
    image = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert("RGBA" if mode == "PA" else mode)
    kind = {"CMYK": "tif", "YCbCr": "tif", "PA": "png"}.get(mode, "png")
    image.save(tmp_path / f"a.{kind}")
    assert np.array_equal(one(tmp_path / f"a.{kind}")[0].permute(1, 2, 0), image.convert("RGB"))


def test_an_image_is_turned_before_its_size_is_compared(tmp_path):
    pixels = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for orientation, expected in ((3, np.rot90(pixels, 2)), (6, np.rot90(pixels, -1)), (8, np.rot90(pixels))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = write(tmp_path / f"{orientation}.png", pixels, exif=exif)
        assert np.array_equal(one(path, (3, *expected.shape[:2]))[0].permute(1, 2, 0), expected)


def test_transparency_is_composited_on_the_background(tmp_path):
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[..., 3] = 0
    pixels[0, 0, 3] = 255
    path = write(tmp_path / "a.png", pixels)
    for background, value in (("black", 0), ("white", 255), ("#010101", 1)):
        image, done = one(path, background=background)
        assert image[:, 1, 1].tolist() == [value] * 3
        assert image[:, 0, 0].tolist() == [200] * 3
        assert done == [f"transparent, composited on {background}"]
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert not one(tmp_path / "p.png")[0].any()
    with pytest.raises(UserError, match="no colour"):
        folder(tmp_path, "data.background=blakc")


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        (("train", "val"), {"val": 40}),
        (("Train", "VALIDATION", "Test"), {"val": 40, "test": 40}),
        (("training", "testing"), {"test": 40}),
    ],
)
def test_split_folders_are_known_by_their_usual_names(tmp_path, splits, sizes):
    fill(tmp_path, *(f"{split}/{name}" for split in splits for name in ("cat", "dog")))
    it = folder(tmp_path)
    assert it.facts()["classes"] == ["cat", "dog"]
    assert sum(it.size(split) for split in ("train", "val", "test")) == 40 * len(splits)
    for split, size in sizes.items():
        assert it.size(split) == size


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("train/a", "Training/a"), "has both"),
        (("test/a", "b"), "no train"),
        (("train/a", "val/a", "c"), "beside"),
        (("bottle/train/good", "bottle/test/bad", "cable/train/good"), "type data.root=.*/bottle"),
        (("cat", ""), "beside the class folders"),
    ],
)
def test_what_cannot_be_understood_is_refused(tmp_path, folders, says):
    fill(tmp_path, *folders, n=3)
    with pytest.raises(UserError, match=says) as error:
        read_layout(tmp_path)
    assert "\n" not in str(error.value)


def test_links_are_followed_and_hidden_and_system_parts_are_skipped(tmp_path):
    fill(tmp_path / "real", "cat", n=5)
    root = fill(tmp_path / "root", "dog", ".ipynb_checkpoints", "__MACOSX", "dog/.thumbs", n=5)
    write(root / "dog" / "._0.png")
    (root / "cat").symlink_to("../real/cat")
    (root / "cat2").symlink_to(tmp_path / "real/cat")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "a.txt").touch()
    (root / "bird").mkdir()
    layout = read_layout(root)
    assert sorted(set(layout.classes.values())) == ["cat", "cat2", "dog"]
    assert len(layout.splits["train"]) == 15
    assert layout.empty == ["bird"]
    assert layout.skipped == {".txt": 1}


def test_broken_files_are_named_or_left_out_and_counted(tmp_path, caplog):
    root = fill(tmp_path, "cat", "dog")
    whole = (root / "cat/0.png").read_bytes()
    (root / "cat/half.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog/none.jpg").touch()
    Image.new("1", (20000, 20000)).save(root / "dog/huge.png")
    (root / "dog/gone.png").symlink_to("nowhere.png")
    for cache in ("true", "false"):
        with pytest.raises(UserError, match=r"half\.png cannot be read .*data\.skip_broken=true") as error:
            folder(root, f"data.cache={cache}")
        assert "\n" not in str(error.value)
        with caplog.at_level(logging.INFO):
            it = folder(root, "data.skip_broken=true", f"data.cache={cache}")
        assert "left out: 4 of 44 files" in caplog.text
        assert it.facts()["broken"] == ["cat/half.png", "dog/gone.png", "dog/huge.png", "dog/none.jpg"]
        assert sum(it.size(split) for split in ("train", "val", "test")) == 40
    streamed = folder(root, "data.skip_broken=true", "data.cache=false", "data.loader=stream")
    assert sum(len(batch.x) for batch in streamed.batches("train")) == it.size("train")


def test_another_size_is_no_broken_file(tmp_path):
    write(fill(tmp_path, "cat") / "cat/a.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.png is 9×9"):
        folder(tmp_path, "data.skip_broken=true")


def test_a_name_that_is_no_text(tmp_path):
    """A file system holds bytes, and not all of them are UTF-8."""
    fill(tmp_path, "cat")
    for path in list((tmp_path / "cat").iterdir()):
        path.rename(path.with_name(os.fsdecode(b"\xff") + path.name))
    assert folder(tmp_path).size("train") > 0


def members(it) -> dict[str, str]:
    return {it._read.names[i + (it._read.train if split == "test" else 0)]: split
            for split, (_, _, indices) in it.splits.items() for i in indices.tolist()}  # fmt: skip


@pytest.mark.parametrize("size", ["0.1", "0.3"])
def test_files_added_later_move_nobody(tmp_path, size):
    before = members(folder(fill(tmp_path, "cat", "dog", n=50), f"data.val_size={size}"))
    for name in ("aaa", "cat/a", "cow/0", "zzz/9"):
        if "/" in name:
            fill(tmp_path, str(Path(name).parent), n=70)
    after = members(folder(tmp_path, f"data.val_size={size}"))
    assert before.items() <= after.items()
    assert 0 < list(before.values()).count("test") < 25


def test_loaders_and_the_cache_give_the_same_batches(tmp_path):
    fill(tmp_path, "cat", "dog")
    ways = [
        ("data.cache=true",),
        ("data.cache=false",),
        ("data.loader=stream",),
        ("data.cache=false", "data.loader=stream"),
    ]
    batches = [
        next(iter(folder(tmp_path, "noise=gaussian", "data.num_workers=0", *way).batches("train"))) for way in ways
    ]
    for batch in batches[1:]:
        assert torch.equal(batch.seen, batches[0].seen)
        assert torch.equal(batch.y, batches[0].y)
    prints = [folder(tmp_path, *way).fingerprint for way in ways[:3]]
    assert len(set(prints)) == 1


def test_a_changed_file_is_read_again(tmp_path):
    fill(tmp_path, "cat", "dog")
    first = folder(tmp_path).fingerprint
    assert folder(tmp_path).fingerprint == first
    write(tmp_path / "cat/3.png")
    assert folder(tmp_path).fingerprint != first


def _build(root: str, queue) -> None:
    import aelab.data.cache as module

    decode_all = module.decode_all

    def counted(*arguments):
        queue.put(1)
        return decode_all(*arguments)

    module.decode_all = counted
    names = find(Path(root)).images
    Cache(Files(Path(root), names, (3, 8, 8), False, "black"), None).read()


def test_two_processes_build_the_cache_once(tmp_path):
    fill(tmp_path, "cat", n=60)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    both = [context.Process(target=_build, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert queue.get(timeout=5) == 1
    assert queue.empty()


def test_images_without_classes_are_of_one_class(tmp_path):
    assert folder(fill(tmp_path, "")).facts()["classes"] == ["0"]


def test_classes_are_named(tmp_path):
    fill(tmp_path, "cat", "dog", "7")
    it = folder(tmp_path, "data.classes=[cat,7]")
    assert it.labels_of(["cat", 7]) == [1, 0]
    assert set(it.facts()["images"]["train"]) == {"7", "cat"}
    with pytest.raises(UserError, match="did you mean 'cat'"):
        folder(tmp_path, "data.classes=[cta]")


@pytest.fixture
def run_of(tmp_path):
    root = fill(tmp_path / "data", "cat", "dog", n=40)
    return root, trained(tmp_path / "run", *words(root, *SMALL))


def test_numbers_of_other_data_or_another_checkpoint_go_beside(run_of, tmp_path, caplog):
    root, run = run_of
    assert run.manifest["dataset"]["classes"] == ["cat", "dog"]
    before = dict(run.metrics)
    assert evaluate(run)["test/loss"] == pytest.approx(before["test/loss"])
    fill(root, "dog", "cow", n=50)
    evaluate(run)
    assert "new classes cow" in caplog.text
    assert run.metrics == before
    (other,) = (run.folder / "evaluations").iterdir()
    content = json.loads(other.read_text(encoding="utf-8"))
    assert content["checkpoint"] == "best"
    assert content["metrics"]["test/images"] > before["test/images"]
    evaluate(run, root=str(fill(tmp_path / "other", "cat", n=30)))
    evaluate(run, checkpoint="last")
    assert run.metrics == before
    assert len(list((run.folder / "evaluations").iterdir())) == 3


def test_numbers_of_a_group_with_other_settings_go_beside(own_run):
    def anomalies(classes: str) -> dict[str, float]:
        words = [f"run={own_run.folder}", "metrics=[anomaly]", f"metrics.anomaly.normal_classes={classes}"]
        return evaluate(own_run, groups=build.metrics(compose("evaluate", words)[0]))

    anomalies("[0]")
    before = own_run.metrics
    other = anomalies("[1,2]")
    assert own_run.metrics == before
    (path,) = (own_run.folder / "evaluations").iterdir()
    content = json.loads(path.read_text(encoding="utf-8"))
    assert "[1, 2]" in content["settings"]
    assert content["metrics"]["anomaly/auroc/error"] == other["anomaly/auroc/error"]
    anomalies("[0]")
    assert own_run.metrics == before


def test_numbers_of_a_run_that_is_not_done_are_not_its_final_ones(run_of):
    _, run = run_of
    before = run.metrics
    run.update_manifest(status="interrupted")
    evaluate(run, splits=("val",))
    assert run.metrics == before
    assert len(list((run.folder / "evaluations").iterdir())) == 1


def test_a_run_does_not_go_on_with_other_data(run_of):
    root, run = run_of
    run.update_manifest(status="interrupted")
    fill(root, "dog", n=60)
    with pytest.raises(UserError, match=r"is not what .* began with \(train \d+ images, now \d+"):
        complete(Run(run.folder))


def test_a_done_run_on_changed_data_says_so_and_keeps_its_score(run_of, caplog):
    root, run = run_of
    score = complete(Run(run.folder))
    assert "its data" not in caplog.text
    fill(root, "dog", n=60)
    assert complete(Run(run.folder)) == score
    assert "its data changed (train" in caplog.text
    shutil.rmtree(root)
    assert complete(Run(run.folder)) == score
    assert "its data were not compared" in caplog.text


def test_mvtec_trains_on_normal_images_and_judges_by_folder_names(tmp_path):
    root = fill(tmp_path / "bottle", "train/good", "test/good", "test/broken", "ground_truth/broken", n=12)
    run = start(tmp_path / "run", *words(root, *SMALL, "model=ae"))
    complete(run)
    groups = build.metrics(compose("evaluate", [f"run={run.folder}"])[0])
    metrics = evaluate(run, groups=groups)
    assert 0 <= metrics["anomaly/auroc/error"] <= 1
    assert set(run.manifest["dataset"]["images"]["train"]) == {"good"}
