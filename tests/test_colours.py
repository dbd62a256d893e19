"""Colour spaces, what hides colours, and the models that give them back."""

import numpy as np
import pytest
import torch
from conftest import but_slow, compose, start, trained
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from aelab.colours import AB, colourfulness, of_rgb, to_rgb
from aelab.composition import build
from aelab.composition.trained import Trained
from aelab.metrics.colour import Colour
from aelab.training.prediction import predict_files


def colours(n: int = 100_000) -> torch.Tensor:
    return torch.randint(256, (1, 3, n, 1), generator=torch.Generator().manual_seed(0)) / 255


@pytest.mark.parametrize("space", ["rgb", "lab", "ycbcr"])
def test_there_and_back(space):
    x = of_rgb(colours(), space)
    assert x.min() >= 0
    assert x.max() <= 1
    torch.testing.assert_close(to_rgb(x, space), colours(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("space", ["lab", "ycbcr"])
def test_grey_has_no_colour(space):
    grey = torch.linspace(0, 1, 256).view(1, 1, -1, 1).expand(-1, 3, -1, -1)
    x = of_rgb(grey, space)
    torch.testing.assert_close(x[:, 1:], torch.full_like(x[:, 1:], 0.5), atol=1e-5, rtol=0)
    assert (x[0, 0, :, 0].diff() > 0).all()


def test_lab_is_that_of_scikit_image():
    """Their constants have fewer digits."""
    color = pytest.importorskip("skimage.color")
    x = colours(5000).double()
    lab = of_rgb(x, "lab")[0, :, :, 0].T.numpy()
    found = np.stack([100 * lab[:, 0], AB * (lab[:, 1] - 0.5), AB * (lab[:, 2] - 0.5)], 1)
    np.testing.assert_allclose(found, color.rgb2lab(x[0, :, :, 0].T.numpy()), atol=0.01)


def test_ycbcr_is_that_of_a_jpeg():
    picture = to_pil_image(colours(1000)[0]).convert("YCbCr")
    found = 255 * of_rgb(colours(1000), "ycbcr")[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, np.asarray(picture, dtype=float), atol=1.01)


def test_colourfulness_is_the_formula():
    x = torch.rand(3, 3, 8, 9)
    r, g, b = (255 * x[1]).double().numpy()
    rg, yb = r - g, (r + g) / 2 - b
    expected = np.sqrt(rg.var() + yb.var()) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    assert float(colourfulness(x)[1]) == pytest.approx(expected, rel=1e-4)
    assert float(colourfulness(x.mean(1, keepdim=True).expand(-1, 3, -1, -1)).max()) == pytest.approx(0, abs=1e-3)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Squares whose colour follows from their brightness."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(80):
        level = rng.integers(60, 90) if i % 2 else rng.integers(150, 200)
        rgb = np.full((8, 8, 3), level, np.float32) + rng.normal(0, 5, (8, 8, 1))
        rgb[..., 0] += 40 if level > 130 else -40
        Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(root / f"{i}.png")
    return root


def line(root, model: str) -> list[str]:
    words = ["data=folder", f"data.root={root}", "data.shape=[3,8,8]", "noise=luminance", "reconstruction=mse"]
    more = {
        "dae": ["model.beta=0", "net.hidden_dims=[64]"],
        "denoiser": ["model.explains=hidden", "net.channels=[8,8]"],
        "structured_cvae": ["net.hidden_dims=[64]"],
    }[model]
    return [
        *words,
        "reconstruction.link=identity",
        "reconstruction.sigma=0.05",
        "optimizer.lr=3e-3",
        "data.batch_size=8",
        "~callbacks.pictures",
        f"model={model}",
        *more,
    ]


@pytest.mark.parametrize("space", ["lab", "ycbcr"])
@pytest.mark.parametrize("model", but_slow(["dae", "denoiser", "structured_cvae"], "dae"))
def test_a_model_colours_and_keeps_the_luminance(model, space, photographs, tmp_path):
    run = trained(
        tmp_path / "run", *line(photographs, model), f"data.colours={space}", "trainer.max_epochs=30", "logger=[]"
    )
    it = Trained.of(run)
    values = Colour(None)(it)
    assert values["ab_rmse/model"] < 0.8 * values["ab_rmse/mean"]
    assert values["ab_rmse/luminance"] < values["ab_rmse/mean"]
    shown, x = it.reconstructions("test")[0], it.images("test")[0]
    assert torch.equal(shown[:, 0], x[:, 0])
    torch.testing.assert_close(it.data.pictures(x), to_rgb(x, space))

    grey = tmp_path / "grey"
    grey.mkdir()
    for path in list(photographs.iterdir())[:5]:
        Image.open(path).convert("L").save(grey / path.name)
    predict_files(run.folder, grey, tmp_path / "out")
    for path in grey.iterdir():
        found = np.asarray(Image.open(tmp_path / "out" / "reconstructions" / path.name), dtype=float)
        assert found.shape == (8, 8, 3)
        assert np.abs(found[..., 0] - found[..., 2]).mean() > 10, "it has a colour"


def test_the_error_of_colours_is_that_of_a_hand_written_loop(photographs, tmp_path):
    run = start(tmp_path / "run", *line(photographs, "denoiser"), "data.colours=lab")
    config = run.config
    data = build.data(config)
    it = Trained(build.model(config), data, torch.device("cpu"))
    x, shown = it.images("test")[0], it.reconstructions("test")[0]
    shown = of_rgb(to_rgb(shown, "lab"), "lab")
    expected = AB * (shown[:, 1:] - x[:, 1:]).square().mean().sqrt()
    values = Colour(None)(it)
    assert values["ab_rmse/model"] == pytest.approx(float(expected), rel=1e-4)
    assert values["ab_rmse/grey"] == pytest.approx(float(AB * (x[:, 1:] - 0.5).square().mean().sqrt()), rel=1e-4)
    train = it.images("train")[0][:, 1:].mean((0, 2, 3), keepdim=True)
    assert values["ab_rmse/mean"] == pytest.approx(float(AB * (x[:, 1:] - train).square().mean().sqrt()), rel=1e-4)


def test_dae_shows_its_whole_output_under_other_noise():
    """An old run with beta = 0 keeps its numbers."""
    config, _ = compose("train", ["model=dae", "model.beta=0", "noise=masking"])
    built = build.model(config)
    batch = next(iter(build.data(config).batches("val")))
    assert not built.completes
    assert torch.equal(built.reconstruct(batch), built.decode(built.encode_batch(batch)))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("data=digits data.colours=lab", "data.colours=lab has 3 channels, and data.shape=[1, 8, 8] has 1"),
        ("data=cifar10 data.colours=grey", "type data.shape=[1, 32, 32]"),
        ("data=cifar10 noise=luminance", "type data.colours=lab (or ycbcr)"),
        ("data=cifar10 data.colours=lab data.binarize=dynamic", "data.binarize=dynamic makes bits of pixels"),
        ("data=breast_cancer noise=luminance", "noise=luminance takes"),
    ],
)
def test_what_has_no_colours_is_refused(run_ae, words, says):
    code, said = run_ae("train", *words.split())
    assert code == 1
    assert says in said
    assert "\n" not in said.strip()
