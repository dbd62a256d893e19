"""Every kind of data: vectors, signals, volumes and tokens, with every model that takes them."""

import functools
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import compose, data, names, start, trained
from test_resume import Kill, Killed, weights

from aelab import randomness
from aelab.composition import build, fits
from aelab.composition.instantiate import build as instantiate
from aelab.composition.trained import Trained
from aelab.data.drawing import draw
from aelab.errors import UserError
from aelab.figures.draw import draw as draw_figures
from aelab.metrics.reconstruction import Channels, Reconstruction
from aelab.noise import NoNoise
from aelab.tokens import END, PADDING
from aelab.training.complete import complete
from aelab.training.evaluation import evaluate
from aelab.training.fit import fit
from aelab.training.prediction import known, predict

# One embedded source of each kind, with a net and sizes that are quick.
KINDS = {
    "breast_cancer": ["net=mlp", "net.hidden_dims=[16]"],
    "digits_rows": ["net=conv", "net.channels=[8]"],
    "moving_digits": ["net=conv", "net.channels=[4,8]", "data.sequences=50"],
    "descriptions": ["net=seq2seq", "net.hidden_dim=16", "net.dim=8", "data.max_length=24"],
}
QUICK = ("trainer.max_epochs=2", "logger=[csv]", "~callbacks.pictures")
MAPS = {"digits_rows": "net=spatial", "moving_digits": "net=spatial", "descriptions": "net=tokens"}


def words(kind: str, model: str) -> list[str]:
    """Return the words of a small run, or skip a pair that does not go together."""
    more = list(KINDS[kind])
    if model in ("vqvae", "vqvae2"):  # their codes are maps
        if kind == "breast_cancer":
            pytest.skip("a vector has no map")
        more = [MAPS[kind], *(word for word in more if word.startswith("data."))]
        more += ["net@net.inner=spatial"] if kind == "descriptions" else []
        more += ["net.channels=[4]"] if kind != "descriptions" else ["net.inner.channels=[4]"]
        more += ["model.top.channels=[8]", "model.width=4"] if model == "vqvae2" else []
    if model == "iwae":
        more += ["reconstruction=gaussian"] if kind in ("breast_cancer", "digits_rows") else []
    if model == "topk":
        more += ["model.k=1", "model.k_test=1"]
    if model in ("batch_topk", "matryoshka"):
        more += ["model.k=1"]
    if model == "structured_cvae":
        more += [f"noise={'token_masking' if kind == 'descriptions' else 'masking'}"]
    if model == "dae":
        more += ["noise=token_masking"] if kind == "descriptions" else []
    if model == "denoiser":
        if kind == "breast_cancer":
            pytest.skip("a vector has no places, so there is no U-Net of it")
        more = [word for word in more if word.startswith("data.")]
        more += [] if kind == "descriptions" else ["net.channels=[4,8]"]
    if model == "diffusion_ae":
        if kind == "breast_cancer":
            pytest.skip("a vector has no places, so there is no U-Net of it")
        more += ["model.step.channels=[4,8]", "model.sampling_steps=3", "model.condition_dim=8"]
    if model == "masked":
        if kind == "breast_cancer":
            pytest.skip("a vector has no patches")
        more = [word for word in more if word.startswith("data.")]
        if kind != "descriptions":
            more += ["net.dim=8", "net.depth=1", "model.decoder.dim=8", "model.decoder.depth=1", "noise.p=0.5"]
    more += ["model.latent_dim=3"] if "latent_dim" in compose("train", [f"model={model}"])[0].model else []
    return [f"data={kind}", *more, f"model={model}", *QUICK]


@functools.cache
def domain(kind: str) -> tuple[int, str]:
    config = compose("train", [f"data={kind}"])[0]
    return len(config.data.shape) - 1, config.data.domain


PAIRS = [(kind, model) for kind in KINDS for model in names("model")]


@pytest.mark.parametrize(("kind", "model"), PAIRS)
def test_every_model_learns_on_every_kind_or_is_refused_in_one_line(kind, model):
    if not fits.takes("model", model, *domain(kind)):
        with pytest.raises(UserError, match=f"model={model} takes .* and these are tokens: type model="):
            build.model(compose("train", words(kind, model))[0])
        return
    config, _ = compose("train", words(kind, model))
    built, images = build.model(config), build.data(config)
    built.attach(images)
    batch = next(iter(images.batches("train")))
    assert batch.x.shape[1:] == tuple(config.data.shape)
    randomness.seed(torch.device("cpu"), "test")
    terms = built.loss(batch)
    assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
    terms["loss"].backward()
    # A net of tokens may get no gradient where the noise hides what a part would see.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())
    shown = built.eval().reconstruct(batch)
    assert shown.shape == batch.x.shape
    errors = images.errors(shown, batch.x)
    assert all(value.shape == (len(batch.x),) and value.isfinite().all() for value in errors.values())
    if built.generative:
        y = torch.zeros(3, dtype=torch.long) if built.conditional else None
        assert built.sample(3, y).shape == (3, *config.data.shape)


SLOW = {("digits_rows", "vae"), ("breast_cancer", "ae"), ("descriptions", "vae")}


@pytest.mark.parametrize(
    ("kind", "model"), [pytest.param(*pair, marks=[] if pair in SLOW else [pytest.mark.slow]) for pair in PAIRS]
)
def test_a_run_trains_evaluates_goes_on_and_predicts(kind, model, tmp_path):
    """A run that was killed in its second epoch ends with the weights of one that was not.

    What is predicted of the test split is what the model makes of it.
    """
    if not fits.takes("model", model, *domain(kind)):
        pytest.skip("refused")
    line = [*words(kind, model), "metrics=[reconstruction,code,anomaly]"]
    run = trained(tmp_path / "run", *line)
    stored = run.metrics
    assert all(np.isfinite(value) for value in stored.values())
    assert evaluate(run) == pytest.approx(
        {k: stored[k] for k in stored if k.split("/")[0] in ("val", "test")}, rel=1e-5
    )

    cut = start(tmp_path / "cut", *line)
    with pytest.raises(Killed):
        fit(cut, callbacks=[Kill(len(data(*line).train_dataloader()) + 1)])
    fit(cut)
    for which in ("best", "last"):
        a, b = weights(cut, which), weights(run, which)
        assert all(torch.equal(a[key], b[key]) for key in b)

    source = known(run, run.config.data, "test", [])
    completes = model in ("structured_cvae", "masked")  # they are told what is hidden; all others see clean data
    noise = instantiate(run.config.noise, []) if completes else None
    scores, _ = predict(run, tmp_path / "out", source, noise=noise)
    assert sorted(name for name, *_ in scores) == sorted(source.names)
    assert all(np.isfinite(value) for _, value, _, _ in scores)
    if not completes:
        shown = np.load(tmp_path / "out" / "codes.npz")
        codes = dict(zip(shown["names"].tolist(), shown["codes"], strict=True))
        expected = Trained.of(run).codes("test")[0].numpy()
        np.testing.assert_allclose(np.stack([codes[name] for name in source.names]), expected, rtol=1e-3, atol=1e-4)


def test_a_bag_of_words_gives_each_token_its_training_frequency():
    it = data("data=descriptions", "data.max_length=24")
    built = build.model(compose("train", [*KINDS["descriptions"], "data=descriptions", "model=vae"])[0])
    values = Reconstruction(None)(Trained(built, it, torch.device("cpu")))
    train, test = (
        np.concatenate([batch.x.flatten().numpy() for batch in it.in_order(split, torch.device("cpu"), NoNoise())])
        for split in ("train", "test")
    )
    counts = Counter(train[train != PADDING].tolist())
    tokens = test[test != PADDING].tolist()
    total = sum(counts.values()) + it.vocabulary - 1  # each id but that of padding is counted once more
    nats = -sum(np.log((counts[token] + 1) / total) for token in tokens)
    assert values["nats/bag_of_words"] == pytest.approx(nats / it.size("test"), rel=1e-6)
    assert values["perplexity/bag_of_words"] == pytest.approx(np.exp(nats / len(tokens)), rel=1e-6)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "digits_rows" else [pytest.mark.slow]) for kind in KINDS]
)
def test_every_figure_is_drawn_or_says_why_not(kind, tmp_path):
    run = trained(tmp_path / "run", *words(kind, "vae"))
    drawn = draw_figures(run)
    assert {"reconstructions", "strangest", "latent_2d", "interpolations", "learning_curves"} <= set(drawn)
    if kind != "descriptions":
        assert "priors" in drawn


def test_a_killed_run_on_real_data_goes_on_bit_for_bit(tmp_path):
    """The means and deviations of its training split come from its checkpoint."""
    line = words("digits_rows", "vae")
    whole = trained(tmp_path / "whole", *line)
    run = start(tmp_path / "cut", *line)
    with pytest.raises(Killed):
        fit(run, callbacks=[Kill(50)])
    complete(run)
    for which in ("best", "last"):
        a, b = weights(run, which), weights(whole, which)
        assert all(torch.equal(a[key], b[key]) for key in b)
    assert run.metrics == whole.metrics


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("data=breast_cancer net=conv", "net=conv takes signals, images and volumes, and these are vectors"),
        ("data=breast_cancer reconstruction=bce", "reconstruction=bce takes numbers in [0, 1], and these are real"),
        ("data=digits_rows net=conv noise=quadrants", "noise=quadrants takes numbers in [0, 1], and these are real"),
        ("data=moving_digits noise=quadrants", "noise=quadrants takes images, and these are volumes"),
        ("data=descriptions net=mlp", "net=mlp takes numbers in [0, 1] and real numbers, and these are tokens: type"),
        ("data=digits net=tokens", "net=tokens takes tokens, and these are numbers in [0, 1]: type net="),
        ("data=descriptions noise=gaussian", "and these are tokens: type noise=none (or token_deletion"),
        ("data=breast_cancer reconstruction=mse reconstruction.link=sigmoid", "reconstruction=mse takes numbers in [0"),
        ("data=moving_digits reconstruction=ssim", "reconstruction=ssim takes images, and these are volumes"),
    ],
)
def test_what_does_not_go_together_is_refused(run_ae, line, says):
    code, said = run_ae("train", *line.split())
    assert code == 1
    assert says in said
    assert "\n" not in said.strip()


def test_a_norm_is_one_scale_for_all():
    """Centred, the norm of a datum of 30 numbers is sqrt(30) on average, and no column is stretched."""
    raw = build.data(compose("train", ["data=breast_cancer", "data.standardize=false"])[0])
    it = build.data(compose("train", ["data=breast_cancer", "data.standardize=norm"])[0])
    x, stored = (torch.cat([b.x for b in d.in_order("train", torch.device("cpu"), NoNoise())]) for d in (it, raw))
    torch.testing.assert_close(x.mean(0), torch.zeros(30), atol=1e-4, rtol=0)
    assert float(x.norm(dim=1).mean()) == pytest.approx(30**0.5, rel=1e-5)
    centred = stored - stored.mean(0)
    torch.testing.assert_close(x / x[:1, :1], centred / centred[:1, :1], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(it.restored(x), stored, atol=1e-2, rtol=1e-4)


def test_real_data_are_standardised_by_their_training_split():
    it = data("data=breast_cancer", "noise=none", "data.batch_size=1000")
    x = next(iter(it.batches("train"))).x
    torch.testing.assert_close(x.mean(0), torch.zeros(30), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(30), atol=1e-4, rtol=0)
    stored, _, index = it.splits["train"]
    torch.testing.assert_close(it.restored(x).sort(0).values, stored[index].sort(0).values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_pictures(kind):
    it = data(f"data={kind}", *[word for word in KINDS[kind] if word.startswith("data.")])
    x = next(iter(it.batches("val"))).x[:5]
    pictures = it.pictures(x)
    assert pictures.shape[:2] == (len(x), 3)
    assert 0 <= pictures.min() <= pictures.max() <= 1
    assert len({picture.numpy().tobytes() for picture in pictures}) == len(x), "each datum has its own picture"


def test_a_line_is_drawn_where_its_values_are():
    x = torch.linspace(0, 1, 100).view(1, 1, 100)
    dark = draw(x, "unit")[0, :, 1:-1, 1:-1].mean(0) < 0.8  # (h, w), without the frame
    rows = torch.arange(dark.shape[0])[:, None].float()
    centre = (rows * dark).sum(0) / dark.sum(0)
    assert (centre.diff() <= 0).all(), "a rising signal rises"
    assert centre[0] > 55
    assert centre[-1] < 5


def test_texts_are_what_was_read(tmp_path):
    (tmp_path / "a.txt").write_text("In the beginning\nüber alles\n" + "x" * 40 + "\nword\n" * 10)
    it = data("data=text", f"data.root={tmp_path / 'a.txt'}", "data.max_length=20")
    ids = it.ids(["über", "x" * 40])
    assert ids[0, 0].tolist().index(END) == len("über".encode())
    assert (ids[0, 0, 6:] == PADDING).all()
    assert (ids[1] > END).all(), "a text that is cut has no end"
    assert it.said(ids) == ["über", "x" * 20]
    by_word = data("data=text", f"data.root={tmp_path / 'a.txt'}", "data.level=words", "data.vocabulary=8")
    assert by_word.said(by_word.ids(["Word, unknown"]))[0].startswith("word")


def test_padding_adds_nothing_to_a_loss():
    built = build.model(compose("train", ["data=descriptions", "data.max_length=12", "net=seq2seq"])[0])
    x = torch.full((2, 1, 12), PADDING)
    x[:, 0, :4] = torch.tensor([50, 60, 70, END])
    out = torch.randn(2, 260, 12)
    expected = -out.log_softmax(1).gather(1, x)[:, 0, :4].sum(1)
    torch.testing.assert_close(built.reconstruction.error(out, x), expected)


@pytest.mark.parametrize("term", ["mse", "mae", "huber", "gaussian", "laplace", "student_t"])
def test_what_is_missing_adds_nothing_to_a_loss(term):
    it = build.build(compose("train", ["data=breast_cancer", f"reconstruction={term}"])[0].reconstruction)
    x, out = torch.randn(4, 30), torch.randn(4, 30, requires_grad=True)
    gaps = torch.rand(4, 30) < 0.3
    holed = x.masked_fill(gaps, torch.nan)
    expected = torch.stack([it.error(o[~g][None], a[~g][None])[0] for o, a, g in zip(out, x, gaps, strict=True)])
    torch.testing.assert_close(it.error(out, holed), expected)
    it.error(out, holed).sum().backward()
    assert out.grad.isfinite().all()
    assert (out.grad[gaps] == 0).all()


def test_student_t_and_huber_are_those_of_torch():
    from aelab.reconstruction import Huber, StudentT

    x, out = torch.randn(5, 7), torch.randn(5, 7)
    t = torch.distributions.StudentT(3.0, out, 0.7)
    torch.testing.assert_close(StudentT(3.0, 0.7, False, "identity").error(out, x), -t.log_prob(x).sum(1))
    expected = torch.nn.functional.huber_loss(out, x, reduction="none", delta=0.5).sum(1)
    torch.testing.assert_close(Huber(0.5, "identity").error(out, x), expected)


def test_r2_is_that_of_scikit_learn():
    from sklearn.metrics import r2_score

    x, shown = torch.randn(50, 3, 8), torch.randn(50, 3, 8)
    channels = Channels()
    for a, b in zip(x.split(20), shown.split(20), strict=True):
        channels.add("model", b, a)
    found = channels.r2(["a", "b", "c"])
    for i, name in enumerate("abc"):
        assert found[f"r2_of/{name}/model"] == pytest.approx(r2_score(x[:, i].flatten(), shown[:, i].flatten()))


def test_pca_beside_the_model_is_that_of_scikit_learn(tmp_path):
    """A linear autoencoder cannot beat principal components (Baldi & Hornik, 1989)."""
    from sklearn.decomposition import PCA

    line = ["data=breast_cancer", "net.hidden_dims=[]", "model=ae", "model.latent_dim=3", "trainer.max_epochs=60"]
    run = trained(tmp_path / "run", *line, "metrics=[reconstruction]", "logger=[]", "~callbacks.pictures")
    it = Trained.of(run)
    train, test = (it.images(split)[0].numpy() for split in ("train", "test"))
    pca = PCA(3).fit(train)
    sse = float(np.square(test - pca.inverse_transform(pca.transform(test))).sum(1).mean())
    assert run.metrics["reconstruction/sse/pca"] == pytest.approx(sse, rel=1e-4)
    assert run.metrics["reconstruction/sse/model"] == pytest.approx(sse, rel=0.2)
    assert run.metrics["reconstruction/sse/mean"] > 2 * sse
