"""Likelihoods and coherence of a model of two modalities."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.composition.trained import Trained
from aelab.data.loader import Batch
from aelab.errors import Unsupported
from aelab.metrics.classifier import classifier
from aelab.metrics.likelihood import importance_weighted
from aelab.models.modalities import Bimodal
from aelab.noise import NoNoise
from aelab.ranges import Count


@dataclass(frozen=True)
class Joint:
    """Numbers of x, the datum, and y, what comes with it, averaged over at most `images` test data.

    In nats, from the same importance-weighted bound with `k` codes of the posterior of what is known, if both terms are
    likelihoods:

    - `log_p_xy`: log p(x, y), from q(z | x, y);
    - `log_p_y`: log p(y), from q(z | y);
    - `log_p_x_given_y`: their difference. It is an estimate, and no bound.

    Coherence, of a y that is a label:

    - `coherence/x_to_y`: share of data whose label is the most probable one of decode_y(encode(x));
    - `coherence/y_to_x`: share of data, one drawn for each label, that a classifier of the data gives that label;
    - `coherence/prior`: share of data from the prior that a classifier gives the label decoded from the same code;
    - `coherence/classifier`: share of test data that the classifier gives their label. It judges no better than that.

    Of a y that is a tensor: `y_sse/x`, the squared error of decode_y(encode(x)), and `y_sse/mean`, that of the mean y.
    """

    k: Count
    codes_at_once: Count
    images: Count | None

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        model = trained.model
        if not isinstance(model, Bimodal):
            raise Unsupported("it is of a model of two modalities: mvae, jmvae")
        batches = list(trained.batches("test", NoNoise(), self.images))
        result = self.likelihoods(model, batches)
        y = torch.cat([batch.y for batch in batches])
        found = torch.cat([model.decode_y(model.encode(batch.seen)) for batch in batches])
        if model.num_classes is None:
            mean = torch.cat([batch.y for batch in trained.batches("train", NoNoise())]).mean(0)
            errors = {"x": found - y, "mean": mean - y}
            return result | {f"y_sse/{name}": float(e.square().flatten(1).sum(1).mean()) for name, e in errors.items()}
        result["coherence/x_to_y"] = _share(found, y)
        if len(trained.data.shape) == 3 and trained.data.domain == "unit":
            judge = classifier(trained)

            def judged(x: Tensor) -> Tensor:
                return torch.cat([judge.logits(judge.features(part)) for part in x.split(500)])

            z = torch.randn(len(y), model.latent_dim, device=y.device)
            drawn = torch.cat([model.sample(len(part), part) for part in y.split(500)])
            result["coherence/y_to_x"] = _share(judged(drawn), y)
            of_prior = torch.cat([model.decode(part) for part in z.split(500)])
            result["coherence/prior"] = _share(judged(of_prior), model.decode_y(z).argmax(1))
            result["coherence/classifier"] = _share(judged(torch.cat([batch.x for batch in batches])), y)
        return result

    def likelihoods(self, model: Bimodal, batches: list[Batch]) -> dict[str, float]:
        """Return the bounds, or nothing if a term is no likelihood."""
        sums, images = {"log_p_xy": 0.0, "log_p_y": 0.0}, 0
        try:
            for batch in batches:
                n = batch.x.shape[0]
                for name, weights in (("log_p_xy", model.joint_log_weights), ("log_p_y", model.y_log_weights)):
                    draw = functools.partial(weights, batch)
                    sums[name] += float(importance_weighted(draw, [self.k], n, self.codes_at_once)[0])
                images += n
        except Unsupported:
            return {}
        means = {name: value / images for name, value in sums.items()}
        return means | {"log_p_x_given_y": means["log_p_xy"] - means["log_p_y"]}


def _share(scores: Tensor, y: Tensor) -> float:
    return float((scores.argmax(1) == y).double().mean())
