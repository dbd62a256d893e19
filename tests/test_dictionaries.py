"""Sparse coders, generated features, and the metrics of a dictionary."""

import pytest
import torch

from aelab.composition import build
from aelab.composition.compose import compose
from aelab.composition.trained import Trained
from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.metrics.dictionary import Dictionary, matched
from aelab.models.jumprelu import Step
from aelab.models.sparse_coder import dictionary

FOREST = ["data.features=60", "data.shape=[20]", "data.p=0.4", "data.zipf=0.5", "data.children=3", "data.depth=3"]


def features(*words):
    return build.data(compose("train", ["data=features", *words])[0])


def coder(*words):
    torch.manual_seed(0)
    config = compose("train", ["data=features", "data.shape=[10]", "model.latent_dim=12", *words])[0]
    return build.model(config)


@pytest.fixture
def batch():
    x = torch.randn(8, 10, generator=torch.Generator().manual_seed(1))
    return Batch(x, x, torch.zeros(8, dtype=torch.long))


def drawn(data, n=20000):
    return data.draw(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("words", [[], ["data.correlation=0.5"], FOREST])
def test_a_feature_fires_with_its_probability(words):
    data = features("data.zipf=0.7", *words)
    p, on = data.probabilities, (drawn(data) > 0).double().mean(0)
    torch.testing.assert_close(p, data.p * torch.arange(1, data.features + 1).float() ** -data.zipf)
    assert ((on - p).abs() < 5 * (p * (1 - p) / 20000).sqrt()).all()


def test_a_child_needs_its_parent_and_excludes_its_siblings():
    for exclusive in ("false", "true"):
        data = features(*FOREST, f"data.exclusive={exclusive}")
        on, children = drawn(data) > 0, data.parents >= 0
        assert children.sum() == 60 - 60 // 13
        assert not (on & ~on[:, data.parents])[:, children].any()
        siblings = torch.zeros(20000, 60).index_add(1, data.parents[children], on[:, children].float())
        assert (siblings.max() == 1) == (exclusive == "true")


def test_features_of_a_block_fire_together():
    on = (drawn(features("data.correlation=0.6", "data.block=4")) > 0).double()
    correlations = torch.corrcoef(on.T)
    blocks = torch.block_diag(*[torch.ones(4, 4)] * 4).bool() & ~torch.eye(16).bool()
    assert correlations[blocks].min() > 0.25
    assert correlations[~(blocks | torch.eye(16).bool())].abs().max() < 0.05


def test_magnitudes_and_directions():
    data = features("data.magnitude_std=0.1")
    a = drawn(data)
    assert a[a > 0].mean() == pytest.approx(1, abs=0.01)
    assert a[a > 0].std() == pytest.approx(0.1, abs=0.01)
    torch.testing.assert_close(data.dictionary @ data.dictionary.T, torch.eye(16))
    torch.testing.assert_close(data.mixed(a), torch.einsum("bn,nf->bf", a, data.dictionary))
    # More directions than dimensions reach the bound of Welch (1974) on the mean squared cosine.
    many = features("data.features=100", "data.shape=[20]").dictionary
    cosines = (many @ many.T)[~torch.eye(100).bool()]
    assert cosines.square().mean() == pytest.approx(80 / (20 * 99), rel=0.01)


def test_training_data_are_new_in_every_epoch_and_others_never():
    data = features("data.data=2000", "data.test_data=500", "data.batch_size=500")
    epochs = []
    for epoch in (0, 1):
        loader = data.batches("train")
        loader.batch_sampler.set_epoch(epoch)
        epochs.append(torch.cat([batch.x for batch in loader]))
        assert len(epochs[-1].unique(dim=0)) > 1800
    assert not torch.equal(*epochs)
    first, second = (torch.cat([batch.x for batch in data.batches("val")]) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.cat([batch.x for batch in data.batches("test")])[: len(first)])
    assert features().dictionary.equal(features("seed=1").dictionary)
    assert not features().dictionary.equal(features("data.dictionary_seed=1").dictionary)


def test_batch_topk_keeps_the_largest_of_a_batch_and_then_judges_each_datum_alone(batch):
    model = coder("model=batch_topk", "model.k=3")
    h = model.pre_activations(batch.x)
    z = model.sparse(h)
    kept = h.relu().flatten().sort(descending=True).values[: 3 * 8]
    torch.testing.assert_close(z[z != 0].sort(descending=True).values, kept[kept > 0])
    model.loss(batch)
    assert model.threshold.value == z[z > 0].min()
    for _ in range(3):
        model.loss(batch.map(lambda t: 2 * t))
    assert z[z > 0].min() < model.threshold.value < 2 * h.abs().max()
    model.eval()
    torch.testing.assert_close(model.encode(batch.x)[:1], model.encode(batch.x[:1]))
    codes = model.encode(batch.x)
    assert (codes[codes != 0] >= model.threshold.value).all()


def test_a_threshold_takes_the_place_of_ranks_in_evaluation(batch):
    model = coder("model=topk", "model.k=3", "model.threshold=true")
    h = model.pre_activations(batch.x)
    model.loss(batch)
    least = h.sort(1, descending=True).values[:, 2].mean()
    torch.testing.assert_close(model.threshold.value, least.detach())
    torch.testing.assert_close(model.eval().encode(batch.x), torch.where(h >= least, h, 0))


def test_each_prefix_of_a_matryoshka_explains_the_datum(batch):
    model = coder("model=matryoshka", "model.k=4", "model.levels=3", "model.aux_weight=0")
    z = model.sparse(model.pre_activations(batch.x))
    wanted = 0.0
    for m in (3, 6, 12):
        shown = z[:, :m] @ model.decoder[0].weight[:, :m].T + model.decoder[0].bias
        wanted = wanted + ((batch.x - shown) ** 2).sum(1).mean() / 2
    torch.testing.assert_close(model.loss(batch)["loss"], wanted)


def test_the_derivatives_of_a_jumprelu_are_those_of_its_paper():
    h = torch.tensor([[0.1, 0.52, 0.48, 2.0], [0.5, 0.44, 0.58, -1.0]], requires_grad=True)
    model = coder("model=jumprelu", "model.threshold=0.5", "model.bandwidth=0.1", "model.latent_dim=4")
    theta = model.log_threshold.exp()
    near = ((h - 0.5).abs() < 0.05).float()
    z = model.sparse(h)
    torch.testing.assert_close(z, torch.where(h > 0.5, h, 0))
    by_h, by_theta = torch.autograd.grad(z.sum(), (h, theta), allow_unused=True)
    assert by_theta is None  # the model has computed its own theta
    torch.testing.assert_close(by_h, (h > 0.5).float())
    (by_log,) = torch.autograd.grad(model.sparse(h).sum(), model.log_threshold)
    torch.testing.assert_close(by_log, (-0.5 / 0.1 * near).sum(0) * 0.5)  # d θ / d log θ = θ
    (by_log,) = torch.autograd.grad(model.on(h).sum(), model.log_threshold)
    torch.testing.assert_close(by_log, (-near / 0.1).sum(0) * 0.5)
    assert torch.equal(Step.apply(h, torch.full((4,), 0.5), 0.1), (h > 0.5).float())


def test_the_gates_learn_from_a_decoder_that_does_not(batch):
    model = coder("model=gated", "model.sparsity_weight=0.3")
    with torch.no_grad():
        for parameter in (model.gate_bias, model.magnitude_bias, model.log_scale):
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    terms = model.loss(batch)
    h = model.encoder(batch.x)
    gate = (h + model.gate_bias).relu()
    z = (gate > 0) * (model.log_scale.exp() * h + model.magnitude_bias).relu()
    weight, bias = model.decoder[0].weight, model.decoder[0].bias
    error = lambda z: ((batch.x - z @ weight.T - bias) ** 2).sum(1).mean() / 2  # noqa: E731
    torch.testing.assert_close(terms["loss"], error(z) + 0.3 * gate.sum(1).mean() + error(gate))
    decoder = list(model.decoder.parameters())
    of_auxiliary = torch.autograd.grad(
        terms["auxiliary"], [*decoder, model.gate_bias], allow_unused=True, retain_graph=True
    )
    assert [g is None for g in of_auxiliary] == [True, True, False]
    of_reconstruction = torch.autograd.grad(terms["reconstruction"], model.gate_bias, allow_unused=True)
    assert of_reconstruction == (None,)


def test_dead_units_explain_what_the_others_leave(batch):
    model = coder("model=topk", "model.k=2", "model.k_test=2", "model.aux_weight=0.5", "model.dead_after=16")
    with torch.no_grad():
        model.encoder[1].bias[:3] = -100.0  # so they are never among the largest
    for data in (8, 16):
        assert bool(model.loss(batch)["auxiliary"]) == (data == 16)
        assert model.idle[:3].tolist() == [data] * 3
        fired = (model.encode(batch.x) != 0).any(0)
        assert not model.idle[fired].any()
    with torch.no_grad():
        model.encoder[1].bias[:3] = 0.0
    dead = model.idle >= 16
    assert dead[:3].all()
    model.eval()  # so that nobody counts on
    z, terms = model.encode(batch.x), model.loss(batch)
    h = model.encoder(batch.x).relu() * dead
    values, units = h.topk(5, dim=1)  # half of ten numbers
    revived = torch.zeros_like(h).scatter(1, units, values)
    weight = model.decoder[0].weight
    left = batch.x - z @ weight.T - model.decoder[0].bias
    wanted = ((left - revived @ weight.T) ** 2).sum(1).mean() / 2
    torch.testing.assert_close(terms["auxiliary"], wanted)
    torch.testing.assert_close(terms["dead"], dead.float().mean())
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 0.5 * wanted)


@pytest.mark.parametrize("model", ["topk", "batch_topk", "matryoshka", "jumprelu", "gated"])
def test_columns_keep_their_norm_and_a_bias_comes_off_first(model, batch):
    model = coder(f"model={model}", "model.unit_norm=true", "model.pre_bias=true")
    columns = dictionary(model.decoder, 12, "")
    torch.testing.assert_close(model.encoder[1].weight, columns.weight.T)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(batch)["loss"].backward()
        optimizer.step()
    torch.testing.assert_close(columns.weight.norm(dim=0), torch.ones(12))
    assert columns.bias.abs().min() > 0
    torch.testing.assert_close(model.pre_activations(batch.x), model.encoder(batch.x - columns.bias))


def test_the_penalty_cannot_be_cheated_by_large_columns(batch):
    model = coder("model=sparse_l1", "model.decoder_norm=true")
    before = model.loss(batch)
    with torch.no_grad():  # a code of a tenth, and columns of ten times
        for parameter in model.encoder.parameters():
            parameter /= 10
        model.decoder[0].weight *= 10
    for name, value in model.loss(batch).items():
        torch.testing.assert_close(value, before[name], msg=name)
    model.decoder_norm = False
    torch.testing.assert_close(model.loss(batch)["sparsity"], model.encode(batch.x).abs().sum(1).mean())


def test_the_numbers_of_a_perfect_dictionary_and_of_worse_ones():
    words = ["data=features", "model=sparse_l1", "model.latent_dim=16", "data.test_data=1000", "data.data=1000"]
    config = compose("train", words)[0]
    data, model = build.data(config), build.model(config)
    data.setup()

    def numbers():
        return Dictionary(truths=3000)(Trained(model.eval(), data, torch.device("cpu")))

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder[0][1].weight.copy_(data.dictionary)
        model.decoder[0].weight.copy_(data.dictionary.T)
    best = numbers()
    assert best == pytest.approx(
        {"fvu": 0, "dead": 0, "shrinkage": 1, "mcc": 1, "uniqueness": 1, "f1": 1}
        | {name: best[name] for name in ("l0", "true_l0")},
        abs=1e-5,
    )
    assert best["l0"] == pytest.approx(4, abs=0.2)
    assert best["true_l0"] == pytest.approx(4, abs=0.2)
    with torch.no_grad():  # half as large: a norm of a half, and a quarter of the energy is left, around 0
        model.decoder[0].weight /= 2
    half = numbers()
    assert half["shrinkage"] == pytest.approx(0.5, abs=1e-5)
    assert half["mcc"] == pytest.approx(1)
    with torch.no_grad():  # unit 0 becomes unit 1
        model.decoder[0].weight[:, 0] = model.decoder[0].weight[:, 1]
        model.encoder[0][1].weight[0] = model.encoder[0][1].weight[1]
        model.encoder[0][1].bias[2] = -100.0
    worse = numbers()
    assert worse["uniqueness"] == pytest.approx(15 / 16)
    assert worse["mcc"] == pytest.approx(15 / 16, abs=0.02)
    assert worse["dead"] == pytest.approx(1 / 16)
    assert worse["f1"] == pytest.approx(15 / 16)


def test_the_assignment_counts_each_feature_once():
    cosines = torch.tensor([[0.9, 0.8, 0.0], [0.7, 0.1, 0.0]])
    assert matched(cosines) == {"mcc": pytest.approx((0.8 + 0.7) / 2), "uniqueness": 0.5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model=batch_topk model.k=13", "model.k=13 must be between 1 and model.latent_dim=12"),
        ("model=topk net=mlp model.pre_bias=true", "model.pre_bias=true wants a linear decoder"),
        ("model=gated model.pre_bias=true data.domain=unit", "whose output is the datum: type net=linear"),
        ("model=topk net=mlp net.tied=true model.unit_norm=true", "model.unit_norm=true wants a decoder that begins"),
        ("model=sparse_l1 net=mlp net.tied=true model.decoder_norm=true", "model.decoder_norm=true wants a decoder"),
    ],
)
def test_what_does_not_go_together_gets_one_line(words, message):
    with pytest.raises(UserError, match=message):
        coder(*words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data.shape=[1,8,8]", "is the shape of no vector: type data.shape="),
        ("data.children=3 data.depth=1", "leave no child for 16 features"),
    ],
)
def test_features_that_cannot_be_get_one_line(words, message):
    with pytest.raises(UserError, match=message):
        features(*words.split())


def test_a_dense_model_has_no_dictionary():
    config = compose(
        "train", ["data=features", "model=ae", "model.latent_dim=4", "data.data=200", "data.test_data=50"]
    )[0]
    data = build.data(config)
    data.setup()
    trained = Trained(build.model(config), data, torch.device("cpu"))
    with pytest.raises(UserError, match="it is of sparse models"):
        Dictionary(truths=10)(trained)
