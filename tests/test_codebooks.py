"""Codebooks: what each one chooses and charges, against loops and torch.distributions, and runs with each."""

import itertools
import math

import pytest
import torch
from conftest import but_slow, compose, model, names, start, trained
from test_resume import Kill, Killed, weights
from torch.distributions import Categorical, kl_divergence

from aelab import randomness
from aelab.codebooks.fsq import FSQ
from aelab.codebooks.gumbel import Gumbel
from aelab.codebooks.lfq import LFQ
from aelab.codebooks.loss import Loss
from aelab.codebooks.residual import Residual
from aelab.codebooks.simvq import SimVQ
from aelab.composition import build
from aelab.composition.trained import Trained
from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.models.base import perplexity
from aelab.nets.next_index import GRU, CausalTransformer
from aelab.samplers import Autoregressive, Transformer
from aelab.training.complete import complete
from aelab.training.fit import fit


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def h() -> torch.Tensor:
    return torch.randn(5, 6, 3, 2, generator=torch.Generator().manual_seed(2))


def at(weight):
    """Weights of these tests are numbers."""
    return weight


def book(name: str, dim: int = 6):
    torch.manual_seed(0)
    return build.build(compose("train", ["model=vqvae", f"codebook={name}"])[0].codebook)(dim=dim)


def terms(built, x):
    randomness.seed(torch.device("cpu"), "test")
    return built.loss(Batch(x, x, torch.zeros(len(x), dtype=torch.long)))


# The protocol, of every codebook


@pytest.mark.parametrize("name", names("codebook"))
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 7), (4, 6, 3, 2), (4, 6, 2, 2, 3)])
def test_entries_are_those_of_the_indices(name, shape):
    it, h = book(name).eval(), torch.randn(shape, generator=torch.Generator().manual_seed(2))
    e, indices, _ = it(h, at)
    assert e.shape == h.shape
    assert indices.shape == (shape[0], *shape[2:], it.depth)
    assert 0 <= indices.min() <= indices.max() < it.size
    torch.testing.assert_close(e, it.look_up(indices), atol=1e-5, rtol=1e-5)
    if name != "gumbel":  # which draws
        assert torch.equal(indices, it.choose(h))


@pytest.mark.parametrize("name", names("codebook"))
def test_gradients_reach_the_vectors_and_every_parameter(name, h):
    it, h = book(name), h.requires_grad_()
    e, _, found = it(h, at)
    ((e * torch.randn_like(e)).sum() + found["loss"]).backward()
    assert h.grad.isfinite().all()
    assert (h.grad != 0).any()
    for key, p in it.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key


@pytest.mark.parametrize("name", names("codebook"))
def test_terms_are_summed_over_a_datum_and_averaged_over_the_batch(name, h, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda t: t.fill_(1.0))  # gumbel draws
    it = book(name).eval()
    once, batch_twice, datum_twice = (it(t, at)[2] for t in (h, torch.cat([h, h]), torch.cat([h, h], dim=2)))
    for key in once:
        torch.testing.assert_close(once[key], batch_twice[key], msg=key)
        torch.testing.assert_close(2 * once[key], datum_twice[key], msg=key)


@pytest.mark.parametrize("name", names("codebook"))
def test_what_a_model_logs(name, x):
    built = model("model=vqvae", f"codebook={name}")
    found = terms(built, x)
    assert {"loss", "reconstruction", "perplexity"} <= found.keys()
    assert 1 <= float(found["perplexity"]) <= built.size
    indices = built.indices(x)
    assert indices.shape == (6, len(built.books))
    assert built.codebooks == len(built.books.unique())
    torch.testing.assert_close(built.look_up(indices), built.encode(x))


@pytest.mark.parametrize("name", but_slow(names("codebook"), "fsq"))
def test_a_run_trains_and_goes_on(name, tmp_path):
    """A run that was killed in its second epoch ends with the weights of one that was not."""
    words = ["model=vqvae", f"codebook={name}", "net.channels=[8]", "trainer.max_epochs=2", "logger=[csv]"]
    run = start(tmp_path / "whole", *words)
    complete(run)
    n = run.metrics["test/used_share"]
    assert 0 < n <= 1
    assert run.metrics["test/bits"] == pytest.approx(
        math.log2(Trained.of(run).model.size) * len(Trained.of(run).model.books)
    )
    cut = start(tmp_path / "cut", *words)
    with pytest.raises(Killed):
        fit(cut, callbacks=[Kill(70)])
    complete(cut)
    expected = weights(run, "last")
    assert all(torch.equal(value, expected[key]) for key, value in weights(cut, "last").items())


# Each against another way to compute it


def test_vqvae_takes_the_nearest_entry_and_passes_the_gradient_through(x):
    built = model("model=vqvae", "codebook=loss", "codebook.size=9", "model.latent_dim=4").eval()
    h, entries = built.encoder(x), built.codebook.entries
    vectors = h.movedim(1, -1).reshape(-1, 4)
    nearest = [min(range(9), key=lambda j: float((v - entries[j]).square().sum())) for v in vectors]
    assert built.indices(x).flatten().tolist() == nearest
    e = entries[nearest].view(6, *h.shape[2:], 4).movedim(-1, 1)
    torch.testing.assert_close(built.encode(x), e)
    found = terms(built, x)
    squares = (h - e).square().sum() / 6
    torch.testing.assert_close(found["commitment"], squares)
    torch.testing.assert_close(found["codebook"], squares)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 1.25 * squares)
    used = torch.tensor(nearest).bincount().float() / len(nearest)
    torch.testing.assert_close(found["perplexity"], Categorical(used).entropy().exp())
    built.zero_grad()
    found["reconstruction"].backward()
    leaf = e.detach().requires_grad_()
    error = built.reconstruction.error(built.decoder(leaf), x).mean()
    (at_the_decoder,) = torch.autograd.grad(error, leaf)
    parameters = list(built.encoder.parameters())
    expected = torch.autograd.grad(built.encoder(x), parameters, at_the_decoder)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_each_side_of_the_loss_codebook_has_its_own_gradient(h):
    """The entries go to the vectors with weight 1. The vectors go to the entries with the commitment weight."""
    it, h = Loss(6, 4, 0.25, 0).eval(), h.requires_grad_()
    _, indices, found = it(h, at)
    found["loss"].backward()
    e = it.look_up(indices)
    torch.testing.assert_close(h.grad, 0.25 * 2 * (h - e).detach() / 5)
    expected = torch.zeros(4, 6).index_add_(0, indices.flatten(), (2 * (e - h) / 5).movedim(1, -1).reshape(-1, 6))
    torch.testing.assert_close(it.entries.grad, expected)


def test_an_ema_codebook_follows_the_vectors_that_chose_it():
    it = model("model=vqvae", "codebook.size=2", "model.latent_dim=2", "codebook.decay=0.5").codebook
    it.entries.copy_(torch.tensor([[0.0, 0.0], [10.0, 10.0]]))
    it.totals.copy_(it.entries)
    h = torch.tensor([[1.0, 1.0], [3.0, 1.0], [9.0, 9.0]]).T.view(1, 2, 3, 1)
    indices = it.choose(h)
    assert indices.flatten().tolist() == [0, 0, 1]
    it.follow(h, indices)
    # The counts become (1 + 2) / 2 and (1 + 1) / 2. The totals become (0 + 4, 0 + 2) / 2 and (10 + 9) / 2.
    torch.testing.assert_close(it.entries, torch.tensor([[2 / 1.5, 1 / 1.5], [9.5, 9.5]]))


@pytest.mark.parametrize("name", ["ema", "loss"])
def test_an_idle_entry_is_revived_on_a_vector_of_the_batch(name):
    it = model("model=vqvae", f"codebook={name}", "codebook.size=5", "model.latent_dim=2", "codebook.revive_after=3")
    it, h = it.codebook, torch.randn(4, 2, 3, 3)
    vectors = h.movedim(1, -1).reshape(-1, 2)

    def on_a_vector(entry):
        return bool((vectors == entry).all(1).any())

    def elsewhere():
        with torch.no_grad():
            it.entries[2] = 1e6

    it.revive(h)
    assert all(on_a_vector(entry) for entry in it.entries), "all entries must begin on vectors of the first batch"
    elsewhere()
    for _ in range(3):
        assert not on_a_vector(it.entries[2])
        it.count(it.choose(h))
        elsewhere()
        it.idle[[0, 1, 3, 4]] = 0
    it.revive(h)
    assert on_a_vector(it.entries[2])


def test_simvq_moves_a_fixed_codebook_by_one_matrix(h):
    it = SimVQ(6, 7, 0.25)
    fixed = it.fixed.clone()
    torch.testing.assert_close(it.entries, fixed @ it.linear.weight.T)
    optimizer = torch.optim.SGD(it.parameters(), 0.1)
    before = it.entries.detach()
    it(h, at)[2]["loss"].backward()
    optimizer.step()
    assert torch.equal(it.fixed, fixed)
    assert (it.entries != before).all(), "an entry that no vector chose moves too"


def test_residual_codebooks_quantise_what_is_left(h):
    it = Residual(6, 3, lambda dim: Loss(dim, 8, 0.25, 0)).eval()
    rest = h.movedim(1, -1).reshape(-1, 6)
    e, expected, charged = torch.zeros_like(rest), [], 0.0
    for part in it.parts:
        nearest = torch.stack([(v - part.entries).square().sum(1).argmin() for v in rest])
        chosen = part.entries[nearest].detach()
        e, rest = e + chosen, rest - chosen
        expected.append(nearest)
        charged += 1.25 * float(rest.square().sum()) / 5
    found, indices, terms = it(h, at)
    assert torch.equal(indices.reshape(-1, 3), torch.stack(expected, 1))
    torch.testing.assert_close(found.movedim(1, -1).reshape(-1, 6), e)
    assert float(terms["loss"]) == pytest.approx(charged, rel=1e-5)
    leaf = h.clone().requires_grad_()
    weights_ = torch.randn_like(h)
    (it(leaf, at)[0] * weights_).sum().backward()
    torch.testing.assert_close(leaf.grad, weights_, msg="the gradient must pass through once, not once a codebook")


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2, 3], [4]])
def test_fsq_rounds_each_number_to_its_levels(levels):
    d = len(levels)
    it = FSQ(d, levels)
    assert it.size == math.prod(levels)
    wide = 3 * torch.randn(20_000, d, generator=torch.Generator().manual_seed(0))
    e, indices, _ = it(wide, at)
    for i, level in enumerate(levels):
        values = e[:, i].unique()
        assert len(values) == level
        expected = torch.arange(level) - level // 2
        torch.testing.assert_close(values, expected / (level // 2))
    by_hand = torch.zeros(len(wide), dtype=torch.long)
    stride = 1
    for i, level in enumerate(levels):
        by_hand += stride * (e[:, i] * (level // 2) + level // 2).round().long()
        stride *= level
    assert torch.equal(indices[:, 0], by_hand)
    grid = it.look_up(torch.arange(it.size)[:, None])
    assert len(grid.unique(dim=0)) == it.size
    zero = torch.zeros(1, d)
    torch.testing.assert_close(it(zero, at)[0], zero, msg="a vector of zeros must be the middle of the grid")


def test_fsq_has_the_gradient_of_its_bound():
    it = FSQ(3, [8, 5, 4])
    z = torch.randn(7, 3, requires_grad=True)
    weights_ = torch.randn(7, 3)
    (it(z, at)[0] * weights_).sum().backward()
    smooth = z.detach().requires_grad_()
    (it.bounded(smooth) / (it.levels // 2) * weights_).sum().backward()
    torch.testing.assert_close(z.grad, smooth.grad)


def test_the_entropies_of_lfq_are_those_of_all_words():
    it = LFQ(4, 16, 0.25, 0.1, 1.0, 0.7)
    z = torch.randn(30, 4)
    words = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    p = (-torch.cdist(z, words).square() / 0.7).softmax(1)
    sure, used = it.entropies(z)
    torch.testing.assert_close(sure, Categorical(p).entropy().mean())
    torch.testing.assert_close(used, Categorical(p.mean(0)).entropy())
    e, indices, _ = it(z, at)
    assert torch.equal(e, z.sign())
    assert [[int(i) >> bit & 1 for bit in range(4)] for i in indices] == (z > 0).int().tolist()


def test_gumbel_draws_from_its_distribution_and_pays_its_kl():
    it = Gumbel(3, 5, 0.5, 1.0)
    vector = torch.randn(1, 3)
    p = it.logits(vector).softmax(1).detach()
    _, indices, found = it(vector.expand(40_000, 3), at)
    share = indices.flatten().bincount(minlength=5) / 40_000
    torch.testing.assert_close(share, p[0], atol=0.01, rtol=0)
    divergence = kl_divergence(Categorical(p[0]), Categorical(torch.ones(5)))
    torch.testing.assert_close(found["kl"], divergence)
    torch.testing.assert_close(found["loss"], 0.5 * divergence)
    assert it.choose(vector).item() == int(p.argmax())


def test_perplexity_is_averaged_over_codebooks():
    uses = torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0]])
    assert float(perplexity(uses)) == pytest.approx((4 + 1) / 2)


def test_the_two_levels_of_vqvae2(x):
    built = model("model=vqvae2", "codebook=loss", "codebook.size=16", "net.channels=[8]", "model.top.channels=[4]")
    top, bottom = 2 * 2, 4 * 4
    indices = built.indices(x)
    assert indices.shape == (6, top + bottom)
    assert built.books.tolist() == [0] * top + [1] * bottom
    code = built.look_up(indices)
    assert code.shape == (6, *built.code_shape) == (6, 32, 4, 4)
    t = built.top_codebook.entries[indices[:, :top]].view(6, 2, 2, 16)
    for i, j in itertools.product(range(4), range(4)):
        torch.testing.assert_close(code[:, 16:, i, j], t[:, i // 2, j // 2])
        torch.testing.assert_close(code[:, :16, i, j], built.codebook.entries[indices[:, top + 4 * i + j]])
    uses = built.uses(indices)
    assert uses.sum(1).tolist() == [6 * top, 6 * bottom]
    assert torch.equal(uses[0], indices[:, :top].flatten().bincount(minlength=16))


# Sequences of indices


@pytest.mark.parametrize("net", [lambda b: GRU(5, b, 16), lambda b: CausalTransformer(5, b, 16, 2, 4)])
def test_step_by_step_is_the_whole_sequence_and_nothing_looks_ahead(net):
    torch.manual_seed(0)
    built = net(torch.tensor([0, 1, 0, 1, 0, 1]))
    indices = torch.randint(5, (3, 6))
    whole, _ = built(indices)
    assert whole.shape == (3, 7, 5)
    logits, state = built(indices[:, :0])
    steps = [logits]
    for place in range(6):
        logits, state = built(indices[:, place : place + 1], state)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole)
    changed = indices.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 5
    other, _ = built(changed)
    torch.testing.assert_close(other[:, :4], whole[:, :4])
    assert not torch.isclose(other[:, 4:], whole[:, 4:]).all()


@pytest.mark.parametrize("sampler", [Autoregressive(32, 15), Transformer(32, 2, 2, 15)])
def test_a_sampler_learns_how_indices_follow_each_other(sampler, shared):
    """Every training image gets the same map of indices, so nearly every draw must be that map."""
    subject = Trained.of(shared("model=vqvae", "codebook.size=8", "trainer.max_epochs=1"))
    pattern = torch.arange(4).view(1, 4)
    subject.model.indices = lambda x: pattern.expand(len(x), -1)
    images = sampler(subject, 50)
    with torch.no_grad():
        expected = subject.model.decode(subject.model.look_up(pattern))
    same = torch.isclose(images, expected, atol=1e-5).flatten(1).all(1)
    assert same.float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("words", [[f"codebook={name}"] for name in names("codebook")] + [["model=vqvae2"]], ids=str)
def test_both_samplers_draw_from_every_codebook(words, tmp_path):
    subject = Trained.of(trained(tmp_path / "run", "model=vqvae", *words, "trainer.max_epochs=1"))
    for sampler in (Autoregressive(8, 1), Transformer(8, 1, 2, 1)):
        images = sampler(subject, 7)
        assert images.shape == (7, 1, 8, 8)
        assert 0 <= images.min() <= images.max() <= 1


# Mistakes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["codebook=lfq", "codebook.size=1000"], "codebook.size=1000 must be a power of 2 .* type codebook.size=512"),
        (["codebook=fsq", "codebook.levels=[1,5]"], "must be two or more"),
        (["codebook=fsq", "codebook.levels=[]"], "must be two or more"),
        (["codebook=residual", "codebook@codebook.part=fsq"], "codebook=residual takes nearest entries: type "),
    ],
)
def test_a_mistake_gets_one_line(words, line):
    with pytest.raises(UserError, match=line):
        model("model=vqvae", *words)


def test_a_temperature_of_0_gets_one_line(h):
    with pytest.raises(UserError, match="temperature=0 must be above 0"):
        Gumbel(6, 5, 0.5, 0.0)(h, at)


def test_a_codebook_of_a_model_without_one(run_ae):
    code, said = run_ae("train", "model=vae", "codebook=fsq")
    assert code == 1
    assert len(said.strip().splitlines()) == 1
    assert "model=vqvae" in said
