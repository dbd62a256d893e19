"""Metrics are compared with implementations that are not ours."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import compose, data, model, names, quick, trained, under_noise
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from skimage.filters import median
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
from torchmetrics.functional.image import structural_similarity_index_measure as ssim_of_torchmetrics

from aelab.composition import build
from aelab.composition.trained import Trained
from aelab.data.errors import errors
from aelab.data.loader import Batch
from aelab.errors import Unsupported, UserError
from aelab.metrics import generation
from aelab.metrics.anomaly import FOR_A_THRESHOLD
from aelab.metrics.classifier import cache, classifier, features
from aelab.metrics.code import mutual_information
from aelab.metrics.pca import PCA
from aelab.metrics.reconstruction import _errors
from aelab.models.base import Autoencoder, Variational
from aelab.noise import Gaussian

CPU = torch.device("cpu")


def group(name, *overrides):
    config, _ = compose("evaluate", ["run=.", f"metrics=[{name}]", *overrides])
    return build.metrics(config)[name]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def subject(vae_run):
    return Trained.of(vae_run)


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "dae", "model=dae", "noise=gaussian", "trainer.max_epochs=2")


@pytest.mark.slow
@pytest.mark.parametrize("name", names("model"))
def test_every_group_of_every_model(name, tmp_path):
    """Every group gives finite numbers, the same ones twice. Only variational models have a likelihood."""
    run = trained(
        tmp_path / "run",
        f"model={name}",
        *quick(name),
        "trainer.max_epochs=1",
        under_noise(name, "masking"),
        "data.classes=[0,1,2,3]",
    )
    small = {
        "generation": ["metrics.generation.samples=60", "metrics.generation.samplers.autoregressive.epochs=1"],
        "representation": ["metrics.representation.images=200", "metrics.representation.few_labels=[5]"],
        "code": ["metrics.code.jacobian_images=20"],
        "robustness": ["metrics.robustness.images=10"],
    }
    refused = set()
    for kind in names("metrics"):
        metric = group(kind, *small.get(kind, []))
        try:
            first = metric(Trained.of(run))
        except Unsupported:
            refused.add(kind)
            continue
        assert first
        assert all(math.isfinite(value) for value in first.values())
        assert metric(Trained.of(run)) == first, kind
    model = build.trained(run)
    bounded = type(model).log_weights is not Autoencoder.log_weights
    without = {"colour", "diffusion", "disentanglement", "joint"} | (set() if bounded else {"likelihood"})
    without |= {"dictionary"} if model.active is None else set()
    without -= {{"diffusion_ae": "diffusion", "mvae": "joint", "jmvae": "joint"}.get(name)}
    if name == "masked":
        without |= {"robustness"}  # it sees whole patches only
    assert refused == without


# reconstruction


def test_reconstruction_errors_are_those_of_scikit_image(denoiser):
    subject = Trained.of(denoiser)
    values = group("reconstruction")(subject)
    (batch,) = subject.batches("test")
    with torch.no_grad():
        shown = {"model": subject.model(batch.seen, batch.y), "seen": batch.seen}
    for what, images in shown.items():
        pairs = [(a[0].double().numpy(), b[0].double().numpy()) for a, b in zip(images, batch.x, strict=True)]
        mse = np.mean([mean_squared_error(x, image) for image, x in pairs])
        psnr = np.mean([peak_signal_noise_ratio(x, image, data_range=1) for image, x in pairs])
        assert values[f"mse/{what}"] == pytest.approx(mse, rel=1e-5)
        assert values[f"sse/{what}"] == pytest.approx(64 * mse, rel=1e-5)
        assert values[f"psnr/{what}"] == pytest.approx(psnr, rel=1e-5)
    image, x = shown["model"].flatten().double().clamp(1e-7, 1 - 1e-7), batch.x.flatten().double()
    weight = torch.stack([x, 1 - x], 1).flatten()  # a grey x is white with weight x and black with weight 1 - x
    nats = log_loss(np.tile([1, 0], len(x)), image.repeat_interleave(2), sample_weight=weight)
    assert values["bce/model"] == pytest.approx(64 * nats, rel=1e-4)


def test_ssim_is_that_of_scikit_image_and_ms_ssim_needs_a_large_image():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 176, 180, generator=g)
    image = (x + 0.1 * torch.randn(x.shape, generator=g)).clamp(0, 1)
    errors = _errors(image, x, "unit")
    as_in_the_paper = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    as_in_the_paper |= {"channel_axis": 0, "data_range": 1}
    for i in range(2):
        expected = structural_similarity(image[i].double().numpy(), x[i].double().numpy(), **as_in_the_paper)
        assert float(errors["ssim"][i]) == pytest.approx(expected, abs=1e-3)
        alone = ms_ssim(image[i : i + 1], x[i : i + 1], data_range=1.0)
        assert float(errors["ms_ssim"][i]) == pytest.approx(float(alone), abs=1e-6)
    assert "ms_ssim" not in _errors(image[..., :175], x[..., :175], "unit")


@pytest.mark.real_data
def test_the_anchor_is_pca_30_of_mnist(mnist_root):
    """Hinton & Salakhutdinov, 2006, report 13.87.

    PCA is fitted to all 60,000 training images and scored on the 10,000 test images.
    """
    subject = Trained(
        build.model(compose("train", ["data=mnist"])[0]), data("data=mnist", f"data.root={mnist_root}"), CPU
    )
    both = torch.cat([subject.images(split)[0] for split in ("train", "val")])
    assert len(both) == 60_000
    x = subject.images("test")[0]
    assert float(errors(PCA(both, 30)(x), x, "unit")["sse"].mean()) == pytest.approx(13.866, abs=0.005)


# likelihood


class LinearGaussian(Variational):
    """A linear Gaussian model, whose log p(x) is known exactly.

        p(z) = N(0, I), p(x | z) = N(W z, s² I), hence p(x) = N(0, W Wᵀ + s² I)

    Its `posterior` is a poor guess on purpose, so that the bounds lie below log p(x).
    """

    likelihood = density = True
    code_shape = (2,)

    def __init__(self, pixels, s=0.5):
        nn.Module.__init__(self)
        self.s = s
        self.weight = nn.Parameter(torch.randn(pixels, 2, generator=torch.Generator().manual_seed(0)) / 5)

    def posterior(self, x, y=None):
        mu = x.flatten(1) @ self.weight / (self.s**2 + 1)
        return mu, torch.full_like(mu, -0.3)

    def error(self, z, batch):
        normal = torch.distributions.Normal(z @ self.weight.T, self.s)
        return -normal.log_prob(batch.x.flatten(1)).sum(1)

    def exact(self, x):
        w = self.weight.detach().double().numpy()
        return multivariate_normal(np.zeros(len(w)), w @ w.T + self.s**2 * np.eye(len(w))).logpdf(x.flatten(1))


def test_bounds_rise_to_the_exact_likelihood():
    subject = Trained(LinearGaussian(64), data("data=digits"), CPU)
    values = group("likelihood", "metrics.likelihood.k=[5,50,5000]", "metrics.likelihood.images=100")(subject)
    x = torch.cat([batch.x for batch in subject.batches("test", limit=100)])
    exact = subject.model.exact(x).mean()
    assert values["elbo"] < values["log_p_5"] < values["log_p_50"] < values["log_p_5000"] < exact + 0.05
    assert values["log_p_5000"] == pytest.approx(exact, abs=0.1)
    assert values["elbo"] < exact - 0.5, "a poor posterior must leave a gap"
    assert values["bits_per_dim"] == pytest.approx(-values["log_p_5000"] / 64 / math.log(2) + 8)


@pytest.mark.parametrize("name", ["vae", "cvae", "sigma_vae"])
def test_log_weights_are_those_of_torch_distributions(name):
    built = model(f"model={name}")
    x, y = torch.rand(3, 1, 8, 8).round(), torch.tensor([1, 2, 3])
    with torch.no_grad():
        mu, logvar = built.posterior(x, y)
        torch.manual_seed(0)
        found = built.log_weights(Batch(x, x, y), k=2)
        torch.manual_seed(0)
        z = mu.repeat(2, 1) + (logvar / 2).exp().repeat(2, 1) * torch.randn(6, 16)
        image = built.decode(z, y.repeat(2))
    if name == "sigma_vae":
        p = torch.distributions.Normal(image, built.log_sigma.exp())
    else:
        p = torch.distributions.Bernoulli(image)
    q = torch.distributions.Normal(mu.repeat(2, 1), (logvar / 2).exp().repeat(2, 1))
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = p.log_prob(x.repeat(2, 1, 1, 1)).flatten(1).sum(1) + (prior.log_prob(z) - q.log_prob(z)).sum(1)
    assert torch.allclose(found.flatten(), expected.detach(), atol=1e-3)


def test_no_bound_without_a_likelihood(tmp_path):
    run = trained(tmp_path / "run", "reconstruction=mse", "trainer.max_epochs=1")
    with pytest.raises(Unsupported, match="no likelihood: train with reconstruction=bce"):
        group("likelihood")(Trained.of(run))


# generation


def test_frechet_distance_is_that_of_scipy(subject):
    net = classifier(subject)
    a, b = subject.images("test")[0][:150], subject.images("test")[0][150:]
    f, g = (features(net, t, CPU).double().numpy() for t in (a, b))
    s, t = np.cov(f.T), np.cov(g.T)
    expected = np.square(f.mean(0) - g.mean(0)).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert generation.frechet(net, a, b, CPU) == pytest.approx(expected, rel=1e-3)
    assert generation.frechet(net, a, a, CPU) == pytest.approx(0, abs=1e-2 * expected)


def test_coverage_and_nearest_are_those_of_a_loop():
    g = np.random.default_rng(0)
    manifold, points = g.normal(size=(30, 5)), g.normal(size=(20, 5)) * 1.5
    radius = [sorted(np.linalg.norm(m - manifold, axis=1))[3] for m in manifold]
    inside = [any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, radius, strict=True)) for p in points]
    assert 0 < np.mean(inside) < 1
    found = generation.coverage(torch.from_numpy(manifold), torch.from_numpy(points), k=3)
    assert found == pytest.approx(np.mean(inside))
    expected = cdist(points, manifold).min(1).mean()
    images, train = (torch.from_numpy(a).view(-1, 1, 1, 5) for a in (points, manifold))
    assert generation.nearest(images, train) == pytest.approx(expected)


def test_training_images_as_samples_are_found_out(subject):
    samplers = {
        "memory": lambda subject, n: subject.images("train")[0][:n],
        "noise": lambda subject, n: torch.rand(n, 1, 8, 8),
        "off": None,
    }
    metric = replace(group("generation", "metrics.generation.samples=300"), samplers=samplers)
    values = metric(subject)
    assert values["nearest/memory"] == pytest.approx(0, abs=1e-2)
    assert values["nearest/test"] > 0.5
    assert values["precision/memory"] > 0.7 > values["precision/noise"]
    assert values["frechet/memory"] < values["frechet/noise"] / 5
    assert not any("off" in name for name in values)


def test_the_classifier_is_trained_once_for_the_same_data(subject, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = classifier(subject)
    (path,) = cache().iterdir()
    written = path.stat().st_mtime_ns
    again = classifier(subject)
    assert path.stat().st_mtime_ns == written
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    x, y = subject.images("test")
    assert (first.logits(first(x)).argmax(1) == y).float().mean() > 0.85
    classifier(Trained(subject.model, data("data.classes=[0,1]"), CPU))
    assert len(list(cache().iterdir())) == 2, "other data need another classifier"
    classifier(Trained(subject.model, data("data.classes=[0,1]"), CPU, str(tmp_path / "kept")))
    assert len(list((tmp_path / "kept").iterdir())) == 1, "paths.cache_dir says where it is kept"
    path.write_bytes(b"torn")
    with pytest.raises(UserError, match="delete it"):
        classifier(subject)


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("generation", "inception", "Inception's weights cannot be loaded|needs torch_fidelity"),
        ("reconstruction", "lpips", "AlexNet's weights"),
    ],
)
def test_weights_that_cannot_be_had(name, key, expected, subject, tmp_path, monkeypatch):
    """Without the weights, the metric is left out. If it is asked for, the error says how to do without it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("<urlopen error no network>")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    small = ["metrics.generation.samples=100"] if name == "generation" else []
    assert not any("fid" in n or "lpips" in n for n in group(name, *small)(subject))
    with pytest.raises(UserError, match=expected) as error:
        group(name, f"metrics.{name}.{key}=true", *small)(subject)
    assert not isinstance(error.value, Unsupported)
    assert f"metrics.{name}.{key}=false" in str(error.value)


# representation


def test_probes_are_those_of_scikit_learn(subject):
    values = group("representation")(subject)
    (z, y), (z_test, y_test) = subject.codes("train"), subject.codes("test")
    scaler = StandardScaler().fit(z)
    probe = LogisticRegression(max_iter=200).fit(scaler.transform(z), y)
    assert values["linear_probe/codes"] == pytest.approx(probe.score(scaler.transform(z_test), y_test), abs=0.01)
    distances = cdist(subject.images("test")[0].flatten(1), subject.images("train")[0].flatten(1))
    votes = [np.bincount(y[np.argsort(row)[:5]], minlength=10).argmax() for row in distances]
    assert values["knn/pixels"] == pytest.approx(np.mean(votes == y_test.numpy()), abs=0.01)
    assert values["linear_probe/pca"] > 0.9, "digits are nearly linearly separable"


def test_clusters_are_matched_to_classes_whatever_their_numbers():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 40)
    x = (np.array([[9, 0], [0, 9], [-9, -9]])[y] + rng.normal(size=(120, 2))).astype(np.float32)
    scores = group("representation", "metrics.representation.few_labels=[2]").scores(x, y, x, y)
    assert scores == {
        "linear_probe": 1,
        "probe_of_2": 1,
        "knn": 1,
        "cluster_accuracy": 1,
        "cluster_nmi": pytest.approx(1),
    }
    wrong = y.copy()
    wrong[:10] = 1
    scores = group("representation", "metrics.representation.few_labels=[]").scores(x, y, x, wrong)
    assert scores["cluster_accuracy"] == pytest.approx(110 / 120)


# code


def test_the_jacobian_is_that_of_autograd(subject):
    found = group("code", "metrics.code.jacobian_images=5")(subject)["jacobian"]
    x = torch.cat([batch.x for batch in subject.batches("test", limit=5)])
    rows = [torch.autograd.functional.jacobian(lambda a: subject.model.encode(a[None])[0], image) for image in x]
    assert found == pytest.approx(float(torch.stack(rows).square().sum()) / 5, rel=1e-5)


def test_the_use_of_a_code(subject):
    values = group("code")(subject)
    x, y = subject.images("test")
    with torch.no_grad():
        mu, logvar = subject.model.posterior(x, y)
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(0)
    for i in range(16):
        assert values[f"unit/{i}/kl"] == pytest.approx(float(kl[i]), abs=1e-5)
        assert values[f"unit/{i}/mean"] == pytest.approx(float(mu[:, i].mean()), abs=1e-5)
    assert values["active_units"] == int((mu.numpy().var(0) > 0.01).sum())


@pytest.mark.parametrize("deviation", [0.3, 1.0, 30.0])
def test_mutual_information_is_that_of_a_gaussian_channel(deviation):
    """x ~ N(0, 1) and z = x + deviation · e have I(x; z) = log(1 + 1 / deviation²) / 2, in each of two units."""
    mu = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)).double()
    logvar = torch.full_like(mu, 2 * math.log(deviation))
    assert mutual_information(mu, logvar) == pytest.approx(math.log1p(deviation**-2), abs=0.05)


@pytest.mark.parametrize(("code", "hoyer", "zeros"), [([0, 0, 5, 0], 1, 0.75), ([2, 2, 2, 2], 0, 0)])
def test_hoyer_sparsity_from_one_unit_to_all(code, hoyer, zeros, subject, monkeypatch):
    codes = torch.tensor([code], dtype=torch.float).repeat(10, 1)
    fake = Trained(subject.model, subject.data, CPU)
    fake.codes = lambda split: (codes, None)
    monkeypatch.setattr(fake.model, "code_shape", (4, 1, 1))  # the group takes no Jacobian of a map
    values = group("code")(fake)
    assert values["hoyer"] == pytest.approx(hoyer, abs=1e-6)
    assert values["zeros"] == zeros


# robustness


def test_robustness_curves(subject):
    values = group("robustness", "metrics.robustness.images=20")(subject)
    batches = list(subject.batches("test", Gaussian(0.3, clip=True), 20))
    pairs = [(a[0].numpy(), b[0].numpy()) for batch in batches for a, b in zip(batch.seen, batch.x, strict=True)]
    assert len(pairs) == 20
    noisy = np.mean([peak_signal_noise_ratio(x, seen, data_range=1) for seen, x in pairs])
    cleaned = [
        peak_signal_noise_ratio(x, median(seen, np.ones((3, 3)), mode="reflect"), data_range=1) for seen, x in pairs
    ]
    assert values["gaussian/0.3/noisy"] == pytest.approx(noisy, rel=1e-4)
    assert values["gaussian/0.3/median"] == pytest.approx(np.mean(cleaned), rel=1e-4)
    for kind in ("noisy", "nl_means", "wavelet"):
        assert values[f"gaussian/0.1/{kind}"] > values[f"gaussian/0.5/{kind}"]
    assert values["gaussian/0.5/wavelet"] > values["gaussian/0.5/noisy"]


def test_classical_denoisers_take_colours(tmp_path, images):
    from aelab.metrics.robustness import _median, _of_scikit_image

    for denoise in (_median, *_of_scikit_image().values()):
        assert denoise(images).shape == images.shape
        assert torch.equal(denoise(torch.zeros_like(images)), torch.zeros_like(images)), "there is no noise to remove"


# anomaly


def test_anomalies_are_told_by_scores_and_a_threshold_from_validation(tmp_path):
    run = trained(tmp_path / "run", "model=ae", "data.classes=[0,1]", "trainer.max_epochs=25")
    subject = Trained.of(run)
    assert set(subject.images("train")[1].tolist()) == {0, 1}
    assert len(subject.images("test")[0]) == 360
    values = group("anomaly")(subject)

    strange = subject.images("test")[1].numpy() > 1
    errors = {}
    for split in ("val", "test"):
        x, image = subject.images(split)[0], subject.reconstructions(split)[0]
        errors[split] = (image - x).double().square().flatten(1).sum(1).numpy()
    pairs = errors["test"][strange][:, None] > errors["test"][~strange][None]
    assert values["auroc/error"] == pytest.approx(pairs.mean(), abs=1e-3)
    threshold = np.quantile(errors["val"], 0.95)
    assert values["recall/error"] == pytest.approx((errors["test"][strange] > threshold).mean())
    assert values["false_alarms/error"] == pytest.approx((errors["test"][~strange] > threshold).mean())
    assert values["of_normal/error"] == pytest.approx(errors["test"][~strange].mean())
    assert values["of_anomalies/error"] == pytest.approx(errors["test"][strange].mean())
    few = group("anomaly", "metrics.anomaly.normal_classes=[1]")(subject)
    assert (subject.images("val")[1] == 1).sum() < FOR_A_THRESHOLD
    assert not [name for name in few if name.startswith(("f1/", "recall/", "false_alarms/"))]
    assert "auroc/error" in few

    covariance = LedoitWolf().fit(subject.codes("train")[0].numpy())
    centred = subject.codes("test")[0].numpy() - covariance.location_
    distance = np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance.covariance_), centred)
    pairs = distance[strange][:, None] > distance[~strange][None]
    assert values["auroc/mahalanobis"] == pytest.approx(pairs.mean(), abs=1e-3)
    assert values["auroc/error"] > 0.8


@pytest.mark.parametrize("classes", ["null", "[0,1,2,3,4,5,6,7,8,9]"])
def test_no_anomalies_without_normal_and_other_images(classes, subject):
    with pytest.raises(Unsupported, match="normal"):
        group("anomaly", f"metrics.anomaly.normal_classes={classes}")(subject)


def test_normal_classes_that_there_are_not(subject):
    with pytest.raises(UserError, match="no class '11'"):
        group("anomaly", "metrics.anomaly.normal_classes=[11]")(subject)


def test_a_run_on_another_machine_is_evaluated_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build.device_of(compose("train", ["trainer=gpu"])[0]) == CPU


@pytest.mark.parametrize("sizes", [(16, 16, 16), (12, 14, 16), (9, 16, 12), (5, 5, 5)])
def test_ssim_of_volumes_is_that_of_scipys_blur(sizes):
    """It is also that of torchmetrics, which takes volumes from 11³ voxels, and images by the same formula."""
    from aelab.reconstruction import ssim

    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, *sizes, generator=g)
    image = (x + 0.1 * torch.randn(x.shape, generator=g)).clamp(0, 1)
    margin = min(5, (min(sizes) - 1) // 2)  # voxels beside the centre of the window
    sigma = min(1.5, (margin + 0.4) / 3.5)
    similarity = ssim(image, x, 1.5)
    for value, p, q in zip(similarity, image[:, 0].double().numpy(), x[:, 0].double().numpy(), strict=True):
        a, b, aa, bb, ab = (gaussian_filter(v, sigma, mode="mirror", truncate=3.5) for v in (p, q, p * p, q * q, p * q))
        means = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
        rest = (2 * (ab - a * b) + 9e-4) / (aa - a * a + bb - b * b + 9e-4)
        assert float(value) == pytest.approx((means * rest).mean(), abs=1e-6)
    if min(sizes) >= 11:
        torch.testing.assert_close(
            similarity, ssim_of_torchmetrics(image, x, data_range=1.0, reduction="none").view(-1)
        )


def test_ranges_count_each_anomaly_and_each_alarm_once():
    """Two anomalies of 8 and 2 points, alarms of 4, 1 and 3 points."""
    from aelab.metrics.anomaly import ranges

    strange = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0], dtype=bool)
    found = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1], dtype=bool)
    recall, precision = (4 / 8 + 1 / 2) / 2, (3 / 4 + 1 + 1 / 3) / 3
    assert ranges(strange, found) == pytest.approx(
        {"range_precision": precision, "range_recall": recall, "range_f1": 2 / (1 / precision + 1 / recall)}
    )
    assert set(ranges(strange, strange).values()) == {1.0}
    assert set(ranges(strange, np.zeros(16, dtype=bool)).values()) == {0.0}


def test_the_volume_under_the_precision_recall_surface():
    """Perfect scores fill it without a buffer, a shift inside the buffer costs little, and noise has the base rate."""
    from aelab.metrics.anomaly import vus_pr

    strange = np.zeros(2000, dtype=bool)
    for start in range(100, 2000, 200):
        strange[start : start + 20] = True
    assert vus_pr(strange, strange.astype(float), longest=0) == pytest.approx(1)
    scores = strange + 0.1 * np.random.default_rng(0).random(2000)
    near, far = (vus_pr(strange, np.roll(scores, shift)) for shift in (4, 60))
    assert 0.6 < near < vus_pr(strange, scores) <= 1
    assert far < 0.3
    noise = vus_pr(strange, np.random.default_rng(1).random(2000), longest=0)
    assert noise == pytest.approx(strange.mean(), abs=0.06)
