"""Splits, shapes, loaders, binarisation and mistakes, on scikit-learn's digits and on small files made here."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from conftest import compose, data, names, of_source, write_idx
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import cifar

from aelab.composition import build
from aelab.data.images import fit
from aelab.data.loader import Batch, Order
from aelab.errors import UserError


def everything(loader) -> Batch:
    batches = list(loader)
    return Batch(*(torch.cat([batch[i] for batch in batches]) for i in range(3)))


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a[:3], b[:3], strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose splits train and test hold ten images of each of two classes."""
    root = tmp_path_factory.mktemp("pictures")
    g = torch.Generator().manual_seed(0)
    for split, name, i in itertools.product(("train", "test"), ("cats", "dogs"), range(10)):
        path = root / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(0, 256, (10, 12, 3), generator=g, dtype=torch.uint8).numpy()).save(path)
    return root


def of_folder(root, *overrides):
    return data("data=folder", f"data.root={root}", "data.shape=[3,10,12]", "data.val_size=4", *overrides)


def test_digits_are_scikit_learns_and_no_image_is_in_two_splits():
    it = data("data=digits")
    rows = [everything(it.batches(split)).x.flatten(1) for split in ("train", "val", "test")]
    assert [len(r) for r in rows] == [1257, 180, 360]
    images = torch.cat(rows).mul(255 / (255 / 16)).round().long().tolist()
    assert sorted(images) == sorted(load_digits().data.astype(int).tolist())
    train, val, _ = (it.splits[split][2] for split in ("train", "val", "test"))
    assert not set(train.tolist()) & set(val.tolist())


def test_the_split_depends_on_its_own_seed_only():
    def val(*overrides: str) -> list[int]:
        return data(*overrides).splits["val"][2].tolist()

    assert val("seed=0") == val("seed=7")
    assert val() != val("data.split_seed=1")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("binarize", ["none", "dynamic", "static", "threshold"])
def test_the_two_loaders_give_the_same_batches(binarize, workers):
    overrides = ("noise=gaussian", "data.batch_size=100", f"data.binarize={binarize}")
    resident = data(*overrides)
    stream = data(*overrides, "data.loader=stream", f"data.num_workers={workers}")
    for split, epoch in (("train", 0), ("train", 3), ("val", 0), ("test", 0)):
        loaders = [it.batches(split) for it in (resident, stream)]
        for loader in loaders:
            loader.batch_sampler.set_epoch(epoch)
        assert len(loaders[0]) == len(loaders[1]) == len(list(loaders[0]))
        for a, b in zip(*loaders, strict=True):
            assert same(a, b)
            assert a.weight == b.weight == 1


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch():
    def epoch(number: int, *overrides: str) -> Batch:
        loader = data("noise=gaussian", *overrides).batches("train")
        loader.batch_sampler.set_epoch(number)
        return everything(loader)

    assert same(epoch(1), epoch(1))
    for other in (epoch(2), epoch(1, "seed=1")):
        assert not torch.equal(epoch(1).x, other.x)
        assert sorted(epoch(1).x.flatten(1).tolist()) == sorted(other.x.flatten(1).tolist())


def test_noise_is_fixed_in_evaluation_and_fresh_in_training():
    a, b = (data("noise=gaussian", f"seed={seed}", f"data.batch_size={size}") for seed, size in ((0, 16), (1, 128)))
    for split in ("val", "test"):
        assert same(everything(a.batches(split)), everything(b.batches(split)))
    loader = a.batches("train")
    first = everything(loader)
    loader.batch_sampler.set_epoch(1)
    second = everything(loader)
    added = {tuple(x.tolist()): s - x for s, x in zip(first.seen.flatten(1), first.x.flatten(1), strict=True)}
    again = [
        added[tuple(x.tolist())] - (s - x) for s, x in zip(second.seen.flatten(1), second.x.flatten(1), strict=True)
    ]
    assert min(float(d.abs().max()) for d in again) > 0.01


def test_binarisation():
    grey = everything(data().batches("test")).x
    cut = everything(data("data.binarize=threshold").batches("test")).x
    assert torch.equal(cut, (grey * 255 >= 128).float())
    for kind in ("static", "dynamic"):
        it = data(f"data.binarize={kind}")
        loader = it.batches("train")
        epochs = []
        for epoch in range(2):
            loader.batch_sampler.set_epoch(epoch)
            epochs.append(everything(loader).x)
            assert set(epochs[-1].unique().tolist()) == {0.0, 1.0}
        rows = [sorted(e.flatten(1).tolist()) for e in epochs]
        assert (rows[0] == rows[1]) == (kind == "static")
        assert same(everything(it.batches("test")), everything(it.batches("test")))
        white = everything(it.batches("test")).x
        assert float(white.mean()) == pytest.approx(float(grey.mean()), abs=0.01)
        assert not white[grey == 0].any()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch(world):
    """Together the processes see what one process sees, in as many steps.

    The mean of their weighted means is the mean over the whole batch.
    """
    indices = torch.arange(13)

    def order(rank: int, world: int, split: str = "train") -> list:
        return list(Order(indices, 4, split, 0, rank, world, shuffled=split == "train", epoch=2))

    for split in ("train", "val"):
        shares = [order(rank, world, split) for rank in range(world)]
        for step, (whole, _) in enumerate(order(0, 1, split)):
            parts = [share[step] for share in shares]
            seen = torch.cat([index for index, weight in parts if weight])
            assert sorted(seen.tolist()) == sorted(whole.tolist())
            means = torch.stack([index.double().mean() * weight for index, weight in parts])
            torch.testing.assert_close(means.mean(), whole.double().mean())


def test_the_last_batch_is_left_out_if_it_is_smaller():
    def sizes(n: int, start: int = 0) -> list[int]:
        order = Order(torch.arange(n), 4, "train", 0, 0, 1, shuffled=True, drop_last=True, start=start)
        assert len(order) == n // 4
        return [len(index) for index, _ in order]

    assert sizes(13) == [4, 4, 4]
    assert sizes(12) == [4, 4, 4]
    assert sizes(13, start=2) == [4]
    it = data("data=breast_cancer", "data.batch_size=100", "data.drop_last=true")
    assert [len(batch.x) for batch in it.train_dataloader()] == [100] * 4
    assert sum(len(batch.x) for batch in it.val_dataloader()) == it.size("val")
    it = data("data=breast_cancer", "data.batch_size=1000", "data.drop_last=true")
    with pytest.raises(UserError, match="drop_last"):
        it.train_dataloader()


def test_fit_pads_turns_grey_and_refuses():
    g = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (5, 1, 28, 28), generator=g, dtype=torch.uint8)
    padded = fit(grey, (1, 32, 33))
    assert torch.equal(padded[:, :, 2:-2, 2:-3], grey)
    assert int(padded.long().sum()) == int(grey.long().sum())
    colour = torch.randint(0, 256, (5, 3, 8, 8), generator=g, dtype=torch.uint8)
    r, green, b = colour.double().unbind(1)
    expected = 0.2989 * r + 0.587 * green + 0.114 * b  # ITU-R 601
    assert (fit(colour, (1, 8, 8))[:, 0].double() - expected).abs().max() <= 1
    for images, shape in ((grey, (1, 20, 28)), (grey, (3, 28, 28)), (colour, (2, 8, 8))):
        with pytest.raises(UserError, match="does not fit images"):
            fit(images, shape)


@pytest.mark.parametrize("name", sorted(set(names("data")) - {"codes"}))  # codes need a run
def test_every_source_declares_a_shape_and_its_classes(name):
    config, _ = compose("train", of_source(name))
    assert 1 <= len(config.data.shape) <= 4
    assert config.data.domain in ("unit", "real", "tokens")
    assert config.net.shape == config.data.shape


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_is_read_from_its_files(tmp_path, name, folder):
    root = write_idx(tmp_path, folder)
    it = data(f"data={name}", f"data.root={root}", "data.val_size=10", "data.shape=[1,32,32]")
    assert [it.size(split) for split in ("train", "val", "test")] == [30, 10, 20]
    test = everything(it.batches("test"))
    raw = (root / folder / "raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    pixels = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(20, 1, 28, 28)
    assert torch.equal(test.x[:, :, 2:-2, 2:-2], pixels / 255)
    assert test.y.tolist() == [i % 10 for i in range(20)]


def test_cifar10_is_read_from_its_files(tmp_path, monkeypatch):
    """Each pickled file holds ten images made here. torchvision's comparison of checksums is switched off."""
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (6, 10, 3072), dtype=np.uint8)
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(pickle.dumps({"data": rows[i], "labels": list(range(10))}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    it = data("data=cifar10", f"data.root={tmp_path}", "data.val_size=10")
    assert [it.size(split) for split in ("train", "val", "test")] == [40, 10, 10]
    test = everything(it.batches("test"))
    assert torch.equal(test.x, torch.from_numpy(rows[5]).view(10, 3, 32, 32) / 255)  # red, then green, then blue
    grey = data("data=cifar10", f"data.root={tmp_path}", "data.val_size=10", "data.shape=[1,32,32]")
    assert next(iter(grey.batches("train"))).x.shape[1:] == (1, 32, 32)


def test_mnist_absent_and_offline(tmp_path, monkeypatch):
    import urllib.request

    def offline(*_, **__):
        raise urllib.request.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(UserError, match=r"MNIST is not in .* type data.root=") as error:
        data("data=mnist", f"data.root={tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_a_truncated_file(tmp_path, size):
    write_idx(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"training file of MNIST in .* is broken"):
        data("data=mnist", f"data.root={tmp_path}")


def test_a_wrong_number_of_classes(folder):
    with pytest.raises(UserError, match="type data.num_classes=2"):
        of_folder(folder, "data.num_classes=3")


def test_a_folder_with_classes_and_a_test_split(folder):
    it = of_folder(folder)
    assert [it.size(split) for split in ("train", "val", "test")] == [16, 4, 20]
    assert it.num_classes == 2
    test = everything(it.batches("test"))
    paths = sorted((folder / "test").rglob("*.png"))
    for path, x, y in zip(paths, test.x, test.y, strict=True):
        with Image.open(path) as file:
            pixels = torch.tensor(list(file.getdata())).view(10, 12, 3).permute(2, 0, 1)
        assert torch.equal(x, pixels / 255)
        assert ["cats", "dogs"][y] == path.parent.name
    stream = of_folder(folder, "data.loader=stream", "data.batch_size=5")
    resident = of_folder(folder, "data.batch_size=5")
    assert all(same(a, b) for a, b in zip(stream.batches("train"), resident.batches("train"), strict=True))


def test_a_folder_without_a_test_split(folder):
    it = of_folder(folder / "train")
    test = it.size("test")  # a share by name is a tenth on average
    assert 1 <= test <= 5
    assert [it.size(split) for split in ("train", "val")] == [20 - 4 - test, 4]


def test_a_folder_is_resized_when_asked(folder):
    it = of_folder(folder, "data.resize=true", "data.shape=[1,8,8]")
    assert everything(it.batches("test")).x.shape == (20, 1, 8, 8)


def test_mistakes_in_a_folder(folder, tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        of_folder(tmp_path / "none")
    with pytest.raises(UserError, match="holds 0 images"):
        of_folder(tmp_path)
    with pytest.raises(UserError, match=r"is 10×12, but data.shape=\[3, 8, 8\]: .* data.shape=\[3,10,12\]$"):
        of_folder(folder, "data.shape=[3,8,8]")
    for i in range(5):
        Image.new("RGB", (12, 10)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    for loader in ("resident", "stream"):
        with pytest.raises(UserError, match="3.png cannot be read as an image") as error:
            it = of_folder(tmp_path, f"data.loader={loader}", "data.val_size=1")
            [everything(it.batches(split)) for split in ("train", "val", "test")]
        assert "\n" not in str(error.value)


@pytest.mark.real_data
def test_the_real_mnist(mnist_root):
    it = data("data=mnist", f"data.root={mnist_root}")
    assert [it.size(split) for split in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    both = torch.cat([everything(it.batches(split)).x for split in ("train", "val")])
    assert float(both.mean()) == pytest.approx(0.1307, abs=1e-4)  # the usual constants of normalisation
    assert float(both.std()) == pytest.approx(0.3081, abs=1e-4)


def test_floats_that_are_no_shares_of_brightness(monkeypatch):
    """A source of one's own that gives floats says in which range they are."""
    floats = torch.rand(400, 1, 8, 8) * 255, torch.arange(400) % 10
    config = compose("train")[0]
    monkeypatch.setattr("aelab.data.digits.Digits.read", lambda *_: floats)
    monkeypatch.setattr("aelab.data.digits.Digits.identify", lambda *_: "mine")
    with pytest.raises(UserError, match=r"data.domain=unit, and the data reach from 0.* to 25.*: scale them"):
        build.data(config).setup()
