"""Each formula is compared with another way to compute it: torch.distributions, autograd, a sort, a naive loop."""

import itertools
import math

import pytest
import torch
from conftest import compose, data, model, start, trained
from torch.distributions import Bernoulli, Normal, kl_divergence

from aelab import randomness
from aelab.composition import build
from aelab.data.loader import Batch
from aelab.noise import Gaussian, Masking
from aelab.training.fit import fit


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


Y = torch.arange(6)


def terms(built, x, seen=None, place="test", hidden=None):
    randomness.seed(torch.device("cpu"), place)
    return built.loss(Batch(x if seen is None else seen, x, Y[: len(x)], hidden))


def test_weight_decay_is_the_sum_of_squared_matrices(x):
    built = model("model=ae", "model.weight_decay=0.5")
    expected = sum(float((w**2).sum()) for key, w in built.named_parameters() if key.endswith("weight"))
    found = terms(built, x)
    assert float(found["squared_weights"]) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 0.5 * found["squared_weights"])
    tied = model("model=ae", "model.weight_decay=1", "net.tied=true")
    halves = [w for key, w in tied.named_parameters() if key.startswith("encoder") and key.endswith("weight")]
    torch.testing.assert_close(terms(tied, x)["squared_weights"], sum((w**2).sum() for w in halves))


def test_dae_with_equal_weights_is_ae(x):
    seen = torch.where(torch.rand_like(x) < 0.5, 0, x)
    dae, ae = model("model=dae", "model.alpha=1", "model.beta=1"), model("model=ae")
    dae.load_state_dict(ae.state_dict())
    torch.testing.assert_close(terms(dae, x, seen)["loss"], terms(ae, x, seen)["loss"])


@pytest.mark.parametrize("emphasis", ["chosen", "changed"])
def test_dae_weighs_the_chosen_pixels(x, emphasis):
    """The expected loss is a loop over pixels.

    A black pixel stays black under masking. It counts as chosen all the same, but not as changed.
    """
    built = model("model=dae", "model.alpha=3", "model.beta=0.25", f"model.emphasis={emphasis}")
    x = x * (x > 0.5)
    seen, hidden = Masking(0.4)(x, randomness.generator("cpu", "masking"))
    assert (hidden & (seen == x)).any()
    with torch.no_grad():
        p = built.decoder(built.encoder(seen)).sigmoid()
        found = terms(built, x, seen, hidden=hidden)
    expected = 0.0
    for before, after, shown, chosen in zip(x, seen, p, hidden, strict=True):
        for i, j in itertools.product(range(8), range(8)):
            a, q = float(before[0, i, j]), float(shown[0, i, j])
            heavy = bool(chosen[0, i, j]) if emphasis == "chosen" else float(after[0, i, j]) != a
            expected += (3 if heavy else 0.25) * -(a * math.log(q) + (1 - a) * math.log(1 - q))
    assert float(found["loss"]) == pytest.approx(expected / len(x), rel=1e-5)


def test_dae_is_ae_under_noise_that_chooses_nothing(x):
    """Gaussian noise hides no pixel, so all of them count as chosen."""
    seen, hidden = Gaussian(0.3, clip=True)(x, randomness.generator("cpu", "noise"))
    assert hidden is None
    dae, ae = model("model=dae", "model.beta=0"), model("model=ae")
    dae.load_state_dict(ae.state_dict())
    torch.testing.assert_close(terms(dae, x, seen)["loss"], terms(ae, x, seen)["loss"])


def test_sparsity_is_the_kl_of_bernoullis(x):
    built = model("model=sparse", "model.rho=0.1", "model.sparsity_weight=3")
    share = built.encode(x).mean(0)
    expected = kl_divergence(Bernoulli(torch.tensor(0.1)), Bernoulli(share)).sum()
    found = terms(built, x)
    torch.testing.assert_close(found["sparsity"], expected)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 3 * expected)
    torch.testing.assert_close(found["activation"], share.mean())


def test_the_running_share_is_a_corrected_mean_of_the_batches_before():
    built = model("model=sparse", "model.average=running", "model.momentum=0.9").train()
    batches = torch.rand(5, 6, 1, 8, 8)
    shares = [built.encode(batch).mean(0) for batch in batches]
    for batch in batches:
        z = built.encode(batch)
        found = built.share(z)
    weights = torch.tensor([0.9 ** (4 - i) for i in range(5)])
    torch.testing.assert_close(found, torch.einsum("i,ij->j", weights / weights.sum(), torch.stack(shares)))
    gradients = torch.autograd.grad(found.sum(), z, retain_graph=True), torch.autograd.grad(z.mean(0).sum(), z)
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(built.eval().share(z), found)  # evaluation does not move the mean


def test_topk_keeps_the_largest(x):
    built = model("model=topk", "model.latent_dim=20", "model.k=3", "model.k_test=7")
    for k, training in ((3, True), (7, False)):
        built.train(training)
        for h, z in zip(built.encoder(x), built.encode(x), strict=True):
            largest = sorted(h.tolist(), reverse=True)[:k]
            assert sorted(z[z != 0].tolist(), reverse=True) == largest
            assert torch.equal(z[z != 0], h[z != 0])


ONE_LAYER = ("model=cae", "net=mlp", "net.hidden_dims=[]", "model.latent_dim=5")


def jacobian_norms(built, x):
    jacobian = [torch.autograd.functional.jacobian(lambda i: built.encode(i[None])[0], image) for image in x]
    return torch.stack([j.square().sum() for j in jacobian])


@pytest.mark.parametrize(
    "net", ["mlp", *(pytest.param(net, marks=pytest.mark.slow) for net in ("conv", "resnet", "lstm", "transformer"))]
)
def test_contraction_is_the_squared_jacobian(x, net):
    built = model("model=cae", "model.estimator=exact", f"net={net}", "model.latent_dim=5")
    with torch.no_grad():
        exact = terms(built, x)["contraction"]
    torch.testing.assert_close(exact, jacobian_norms(built, x).mean())
    built.code_and_norm = built.hutchinson
    built.eval()
    mean = torch.stack([terms(built, x, place=f"draw {i}")["contraction"] for i in range(2000)]).mean()
    torch.testing.assert_close(mean, exact, rtol=0.05, atol=0)


def test_the_closed_form_of_the_contraction_is_exact(x):
    closed, exact = (model(*ONE_LAYER, f"model.estimator={name}") for name in ("closed_form", "exact"))
    torch.testing.assert_close(closed.code_and_norm(x)[1], jacobian_norms(closed, x))
    for built in (closed, exact):
        terms(built, x)["contraction"].backward()
    weights = (next(p for key, p in built.named_parameters() if key.endswith("weight")) for built in (closed, exact))
    torch.testing.assert_close(*(w.grad for w in weights))


@pytest.mark.slow
def test_hutchinson_has_the_gradient_of_what_it_estimates(x):
    gradients = []
    for estimator, draws in (("exact", 1), ("hutchinson", 4000)):
        built = model("model=cae", f"model.estimator={estimator}", "net.hidden_dims=[6]", "model.latent_dim=3")
        sum(terms(built, x[:2], place=f"{i}")["contraction"] for i in range(draws)).backward()
        gradients.append(built.encoder[0][1].weight.grad / draws)
    torch.testing.assert_close(*gradients, rtol=0, atol=float(gradients[0].abs().max()) / 10)


def test_beta_capacity_and_free_bits(x):
    kl = model("model=vae")
    for overrides, price in (
        (("model.beta=3",), lambda kl: 3 * kl.sum()),
        (("model.beta=3", "model.capacity=2.5"), lambda kl: 3 * (kl.sum() - 2.5).abs()),
        (("model.beta=3", "model.free_bits=0.004"), lambda kl: 3 * kl.clamp_min(0.004).sum()),
    ):
        built = model("model=beta_vae", *overrides)
        built.load_state_dict(kl.state_dict())
        mu, logvar = built.posterior(x)
        per_unit = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).mean(0)
        assert (per_unit < 0.004).any()
        assert (per_unit > 0.004).any()
        found, vae = terms(built, x), terms(kl, x)
        torch.testing.assert_close(found["kl"], vae["kl"])
        torch.testing.assert_close(found["loss"], vae["reconstruction"] + price(per_unit))


def test_sigma_vae_is_a_gaussian_density(x):
    built = model("model=sigma_vae", "model.sigma=0.4")
    other = model("model=vae", "reconstruction=gaussian", "reconstruction.sigma=0.4", "reconstruction.learned=true")
    other.load_state_dict(
        {key.replace("log_sigma", "reconstruction.log_sigma"): value for key, value in built.state_dict().items()}
    )
    randomness.seed(torch.device("cpu"), "test")
    image = built.decode(built.draw(*built.posterior(x)))
    expected = -Normal(image, 0.4).log_prob(x).flatten(1).sum(1).mean()
    torch.testing.assert_close(terms(built, x)["reconstruction"], expected)
    torch.testing.assert_close(terms(built, x)["loss"], terms(other, x)["loss"])


def test_the_best_sigma_is_the_root_mean_square_error(x):
    """With the image held fixed, the learned sigma goes there (Rybkin et al., equation 4)."""
    built = model("model=sigma_vae")
    optimizer = torch.optim.Adam([built.log_sigma], 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        terms(built, x)["loss"].backward()
        optimizer.step()
    randomness.seed(torch.device("cpu"), "test")
    image = built.decode(built.draw(*built.posterior(x)))
    torch.testing.assert_close(built.log_sigma.exp(), (image - x).square().mean().sqrt(), rtol=1e-3, atol=0)


def test_cvae_uses_the_label_on_both_sides(x):
    built = model("model=cvae", "model.latent_dim=3")
    same, other = torch.full((6,), 2), torch.full((6,), 7)
    assert not torch.equal(built.encode(x, same), built.encode(x, other))
    z = built.encode(x, same)
    assert not torch.equal(built.decode(z, same), built.decode(z, other))
    randomness.seed(torch.device("cpu"), "test")
    drawn = built.sample(6, same)
    randomness.seed(torch.device("cpu"), "test")
    torch.testing.assert_close(drawn, built.decode(torch.randn(6, 3), same))
    with pytest.raises(Exception, match="needs the labels"):
        built.encode(x)


def log_weights(built, x, k):
    """Return log p(x, z) - log q(z | x) (B, k) by torch.distributions, for the draws that the model makes."""
    mu, logvar = (t.repeat_interleave(k, 0) for t in built.posterior(x))
    randomness.seed(torch.device("cpu"), "test")
    z = mu + (logvar / 2).exp() * torch.randn_like(mu)
    p = Bernoulli(logits=built.decoder(z))
    bits = x.repeat_interleave(k, 0)
    joint = p.log_prob(bits).flatten(1).sum(1) + Normal(0.0, 1.0).log_prob(z).sum(1)
    return (joint - Normal(mu, (logvar / 2).exp()).log_prob(z).sum(1)).view(-1, k)


@pytest.mark.parametrize("k", [1, 7])
def test_iwae_is_the_log_of_the_mean_weight(x, k):
    built, bits = model("model=iwae", f"model.k={k}"), x.round()
    expected = log_weights(built, bits, k).logsumexp(1) - math.log(k)
    torch.testing.assert_close(terms(built, bits)["loss"], -expected.mean(), rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_iwae_with_one_draw_is_the_bound_of_the_vae_and_more_are_tighter(x):
    vae, x = model("model=vae"), x.round()
    means = {}
    with torch.no_grad():
        for k in (1, 2, 10):
            built = model("model=iwae", f"model.k={k}")
            built.load_state_dict(vae.state_dict())
            means[k] = torch.stack([terms(built, x, place=f"{i}")["loss"] for i in range(2000)]).mean()
        expected = torch.stack([terms(vae, x, place=f"{i}")["loss"] for i in range(2000)]).mean()
    torch.testing.assert_close(means[1], expected, rtol=2e-3, atol=0)
    assert means[10] < means[2] < means[1]


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_mmd_is_that_of_a_naive_loop(kernel):
    built = model("model=wae_mmd", "model.latent_dim=3", f"model.kernel={kernel}")
    g = torch.Generator().manual_seed(0)
    z, e = torch.randn(7, 3, generator=g) + 1, torch.randn(7, 3, generator=g)

    def k(a, b):
        square = sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))
        if kernel == "rbf":
            return math.exp(-square / 6)
        return sum(6 * s / (6 * s + square) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    expected = sum(k(z[i], z[j]) + k(e[i], e[j]) for i, j in pairs) / 42
    expected -= 2 * sum(k(a, b) for a in z for b in e) / 49
    assert float(built.mmd(z, e)) == pytest.approx(expected, rel=1e-4)


def test_a_step_of_aae_is_one_of_the_discriminator_then_one_of_the_autoencoder(tmp_path):
    """The weights are those of a hand-written loop. A pair of steps counts as one."""
    overrides = ["model=aae", "trainer.max_epochs=2", "data.batch_size=100", "noise=gaussian"]
    trainer = fit(start(tmp_path / "run", *overrides))
    config, _ = compose("train", overrides)
    built, images = build.model(config), build.data(config)
    first = torch.optim.Adam(built.discriminator.parameters(), 1e-3, fused=True)
    second = torch.optim.Adam([*built.encoder.parameters(), *built.decoder.parameters()], 1e-3, fused=True)
    loader, steps = images.batches("train"), 0
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        for step, batch in enumerate(loader):
            randomness.seed(torch.device("cpu"), "train", 0, epoch, step, 0)
            d, z = built.discriminator, built.encoder(batch.seen).detach()
            e = torch.randn(len(batch.x), 16)
            loss = -(d(e).sigmoid().log() + (1 - d(z).sigmoid()).log()).mean()
            first.zero_grad()
            loss.backward()
            first.step()
            second.zero_grad()
            built.loss(batch)["loss"].backward()
            second.step()
            steps += 1
    assert trainer.global_step == steps
    for (key, p), q in zip(trainer.lightning_module.named_parameters(), built.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=key)


def test_health_of_a_posterior_a_sparse_code_and_a_codebook(tmp_path):
    short = ("trainer.max_epochs=1", "logger=[]")
    run = trained(tmp_path / "vae", "model=vae", "model.latent_dim=5", *short)
    built, images = build.trained(run), data().batches("test")
    with torch.no_grad():
        mu = torch.cat([built.encode(batch.seen) for batch in images])
    assert run.metrics["test/active_units"] == float((mu.var(0, correction=0) > 0.01).sum())
    assert (run.folder / "figures" / "kl_per_unit.png").is_file()

    run = trained(tmp_path / "topk", "model=topk", *short)
    with torch.no_grad():
        z = torch.cat([build.trained(run).encode(batch.seen) for batch in data().batches("test")])
    assert run.metrics["test/active_share"] == pytest.approx(8 / 64)
    assert run.metrics["test/dead_units"] == float((z == 0).all(0).sum())

    run = trained(tmp_path / "vqvae", "model=vqvae", *short)
    with torch.no_grad():
        used = torch.cat(
            [build.trained(run).indices(batch.seen).flatten() for batch in data().batches("test")]
        ).bincount()
    assert run.metrics["test/used_entries"] == float((used > 0).sum())
    entropy = torch.distributions.Categorical(used / used.sum()).entropy()
    assert run.metrics["test/perplexity"] == pytest.approx(float(entropy.exp()), rel=1e-4)


@pytest.mark.slow
def test_an_ill_code_is_warned_about_once(tmp_path):
    for name, overrides, words in (
        ("vae", ("model.beta=1000",), "the posterior collapsed"),
        ("vqvae", ("codebook.size=2000", "codebook.revive_after=0"), "the codebook died"),
    ):
        small = ("data.batch_size=10", "trainer.max_epochs=5", "logger=[]")
        run = trained(tmp_path / name, f"model={name}", *small, *overrides)
        text = (run.folder / "train.log").read_text(encoding="utf-8")
        assert text.count(words) == 1, name
        early = trained(tmp_path / f"{name}_early", f"model={name}", *small, *overrides, "trainer.max_epochs=3")
        assert words not in (early.folder / "train.log").read_text(encoding="utf-8"), "a code may wake up late"


def test_structured_cvae_explains_what_is_hidden(monkeypatch):
    """The bound of the hidden pixels given the seen ones is that of torch.distributions.

    The guess learns from its own term only.
    """
    built = model("model=structured_cvae", "net.hidden_dims=[20]", "model.latent_dim=5", "model.guess_weight=0.5")
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    seen, hidden = x.clone(), torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    hidden[:, :, :, 4:] = True
    seen[hidden] = 0.25  # the value of a hidden pixel must not matter
    monkeypatch.setattr(torch, "randn_like", lambda t: torch.full_like(t, 0.3))
    batch = Batch(seen, x, torch.zeros(4), hidden)
    terms = built.loss(batch)

    guess = built.guess(seen).view_as(x)
    filled = torch.cat([x[..., :4], guess.sigmoid()[..., 4:]], dim=3)
    m, v = built.encoder(filled).chunk(2, dim=1)
    mu, logvar = built.recognition(x).chunk(2, dim=1)
    prior, q = (Normal(mean, (log / 2).exp()) for mean, log in ((m, v), (mu, logvar)))
    z = q.mean + 0.3 * q.stddev
    target = x[..., 4:]
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    errors = [bce(out[..., 4:], target, reduction="sum") / 4 for out in (built.decoder(z), guess)]
    kl = kl_divergence(q, prior).sum(1).mean()
    for name, value in {
        "reconstruction": errors[0], "kl": kl, "bound": errors[0] + kl, "guess": errors[1],
        "loss": errors[0] + kl + 0.5 * errors[1],
    }.items():  # fmt: skip
        torch.testing.assert_close(terms[name], value, msg=name)
    torch.testing.assert_close(built.encode_batch(batch), m)
    torch.testing.assert_close(built.reconstruct(batch)[hidden], built.decode(m)[hidden])
    torch.testing.assert_close(built.reconstruct(batch)[~hidden], seen[~hidden], msg="what was seen stays")
    torch.testing.assert_close(built.encode(x), built.encoder(x)[:, :5])

    alone = torch.autograd.grad(terms["bound"], list(built.guess.parameters()), allow_unused=True, retain_graph=True)
    assert alone == (None,) * len(alone), "the bound must give the guess no gradient"


@pytest.mark.parametrize("normalise", ["false", "true"])
@pytest.mark.parametrize("data", ["digits", "digits_rows", "moving_digits"])
def test_masked_fills_in_patches_that_never_entered_the_encoder(data, normalise):
    """The error is that of the hidden patches, by a loop over them. What stands in a hidden patch changes nothing."""
    words = [f"data={data}", "model=masked", "noise.p=0.5", "reconstruction=mse", "reconstruction.link=identity"]
    config, _ = compose("train", [*words, f"model.normalise={normalise}"])
    built, batch = build.model(config).eval(), next(iter(build.data(config).batches("val")))
    batch = batch.map(lambda t: t[:5])
    tokens = built.tokens(batch.seen, batch.hidden)[0]
    assert tokens.shape == (5, built.places - round(0.5 * built.places), config.net.dim)
    other = batch._replace(seen=torch.where(batch.hidden, 7.0, batch.seen))
    torch.testing.assert_close(built.tokens(other.seen, other.hidden)[0], tokens)

    out, size, expected = built.filling(batch), 4, torch.zeros(5)
    assert out.shape == batch.x.shape
    starts = [range(0, length, size) for length in batch.x.shape[2:]]
    for i in range(5):
        hidden = 0
        for place in itertools.product(*starts):
            at = (i, slice(None), *(slice(start, start + size) for start in place))
            if not batch.hidden[at].any():
                continue
            target = batch.x[at]
            if normalise == "true":
                target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            expected[i] += (out[at] - target).square().sum() / 2
            hidden += 1
        assert hidden == round(0.5 * built.places)
    torch.testing.assert_close(built.error(tokens, batch), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(built.loss(batch)["loss"], expected.mean(), rtol=1e-4, atol=1e-4)
    shown = built.reconstruct(batch)
    assert torch.equal(shown[~batch.hidden.expand_as(shown)], batch.x[~batch.hidden.expand_as(shown)])
    torch.testing.assert_close(built.encode(batch.x), built.tokens(batch.x, None)[0].mean(1))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("noise=gaussian", "type noise=patches noise.size=4"),
        ("noise.size=3", "type noise=patches noise.size=4"),
        ("noise.p=0.99", "hides 4 of 4 patches"),
        ("net=conv", "type net=transformer"),
        ("reconstruction=ssim", "type reconstruction=mse"),
        ("model.normalise=true", "reconstruction.link=identity"),
    ],
)
def test_masked_without_patches_is_refused(run_ae, line, says):
    code, said = run_ae("train", "model=masked", *line.split())
    assert code == 1
    assert says in said
    assert "\n" not in said.strip()
