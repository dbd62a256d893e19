"""How sparse a code is, what it loses, and whether a dictionary is the true one."""

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from aelab import randomness
from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.data.features import Features
from aelab.models.base import Autoencoder
from aelab.noise import NoNoise
from aelab.ranges import Count

ROWS = 1000  # data that are encoded together


@dataclass(frozen=True)
class Dictionary:
    """Numbers of a sparse model on clean test data. `active` of the model says which units are on.

    - `l0`: number of units that are on, per datum;
    - `fvu`: fraction of variance unexplained, sum |x - x̂|² / sum |x - mean|²;
    - `dead`: share of units that are on for no test datum;
    - `shrinkage`: |x̂| / |x|, averaged over data that are not 0.

    If the features of the data are known (`data=features`), unit d has a direction, decode(e_d) - decode(0) of norm 1,
    and a cosine with each of N features. Of `truths` new data it is known which features are on:

    - `mcc`: |cosine| of the pairs of the best assignment of units to features, averaged over the min(D, N) pairs;
    - `f1`: of a unit as a detector of the feature that is most like it, averaged over units. It is 0 of a dead unit;
    - `uniqueness`: number of features that are the most like some unit, divided by D;
    - `true_l0`: number of features that are on, per datum.
    """

    truths: Count

    @needs("numbers", "vector", "sparse")
    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        model = trained.model
        assert model.active is not None
        on = torch.zeros(model.latent_dim, dtype=torch.double, device=trained.device)
        n, rest, ratios, nonzero = 0, 0.0, 0.0, 0
        total: Tensor | float = 0.0
        squares = 0.0
        for batch in trained.batches("test", NoNoise()):
            z = model.encode_batch(batch)
            shown = model.decode(z, batch.y).flatten(1).double()
            x = torch.where(batch.x.flatten(1).isnan(), shown, batch.x.flatten(1).double())
            on += model.active(z).sum(0)
            rest += float((x - shown).square().sum())
            norms = x.norm(dim=1)
            ratios += float((shown.norm(dim=1) / norms)[norms > 0].sum())
            nonzero += int((norms > 0).sum())
            total, squares, n = total + x.sum(0), squares + float(x.square().sum()), n + len(x)
        variance = squares - float(torch.as_tensor(total).square().sum()) / n
        result = {
            "l0": float(on.sum()) / n,
            "fvu": rest / variance,
            "dead": float((on == 0).double().mean()),
            "shrinkage": ratios / nonzero,
        }
        if isinstance(trained.data, Features):
            result |= self.compared(model, trained.data, trained.device)
        return result

    def compared(self, model: Autoencoder, data: Features, device: torch.device) -> dict[str, float]:
        """Return how the dictionary of a model compares with the features of the data."""
        units = torch.eye(model.latent_dim, device=device)
        columns = (model.decode(units) - model.decode(torch.zeros_like(units))).flatten(1)
        cosines = (normalize(columns) @ data.dictionary.to(device).T).abs()
        alike = cosines.argmax(1)
        both, units_on, features_on = (
            torch.zeros(model.latent_dim, dtype=torch.double, device=device) for _ in range(3)
        )
        true_l0 = 0.0
        for start in range(0, self.truths, ROWS):
            a = data.draw(min(ROWS, self.truths - start), randomness.generator(device, "dictionary", start))
            assert model.active is not None
            unit, feature = model.active(model.encode(data.mixed(a))), (a > 0)[:, alike]
            both, units_on = both + (unit & feature).sum(0), units_on + unit.sum(0)
            features_on, true_l0 = features_on + feature.sum(0), true_l0 + float((a > 0).sum())
        return {
            **matched(cosines),
            "f1": float((2 * both / (units_on + features_on).clamp_min(1)).mean()),
            "true_l0": true_l0 / self.truths,
        }


def matched(cosines: Tensor) -> dict[str, float]:
    """Return `mcc` and `uniqueness` of the absolute cosines (D, N) of units and features."""
    units, features = linear_sum_assignment(cosines.cpu().numpy(), maximize=True)
    return {
        "mcc": float(cosines[units, features].mean()),
        "uniqueness": len(cosines.argmax(1).unique()) / len(cosines),
    }
