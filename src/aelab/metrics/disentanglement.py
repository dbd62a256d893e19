"""Whether each unit of a code says one thing, of data whose factors are known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aelab import randomness
from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.ranges import Count, NonNegative

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Disentanglement:
    """Scores of the codes of clean data. A variational code is its mean. All lie between 0 and 1.

    Predictors are fitted to `samples` training data and scored on as many test data. Numbers of mutual information are
    of test data, with the range of each unit cut into `bins`.

    - `mig`: I(unit; factor) of the best unit less that of the second best, over the entropy of the factor, averaged
      over factors (Chen et al., 2018, equation 6);
    - `modularity`: 1 less the share of squared information that a unit has on other factors than its own, averaged
      over units. It is 0 of a unit that knows nothing (Ridgeway & Mozer, 2018, equation 2);
    - `sap`: squared correlation of the best unit with a factor less that of the second best, averaged over factors
      (Kumar, Sattigeri & Balakrishnan, 2018, section 3);
    - `dci/disentanglement`, `dci/completeness`: 1 less the entropy of the importance of a unit over factors, and of a
      factor over units, weighed by importance; `dci/informativeness`: accuracy of the forest of `trees` trees that the
      importances are of, averaged over factors (Eastwood & Williams, 2018, section 2);
    - `beta_vae`: accuracy of a linear classifier that says which factor the pairs of a group share, from |z - z'|
      averaged over `group` pairs (Higgins et al., 2017, section 3);
    - `factor_vae`: the same for data that share one factor, by a vote on the unit of least relative variance. Units of
      a variance below `prune` have no vote (Kim & Mnih, 2018, section 4).

    The last two have `votes` groups to learn from and half as many to be scored on.
    """

    samples: Count
    bins: Count
    trees: Count
    group: Count
    votes: Count
    prune: NonNegative

    @needs("vector", "factors")
    def __call__(self, trained: Trained) -> dict[str, float]:
        (z, y), (z_test, y_test) = (
            (codes.double().numpy(), factors.long().numpy())
            for codes, factors in (trained.codes("train", self.samples), trained.codes("test", self.samples))
        )
        information = mutual_information(z_test, y_test, self.bins)
        importance, accuracy = self.importance(z, y, z_test, y_test)
        return {
            "mig": mig(information, y_test),
            "modularity": modularity(information),
            "sap": sap(z_test, y_test),
            "dci/disentanglement": concentration(importance),
            "dci/completeness": concentration(importance.T),
            "dci/informativeness": accuracy,
            "beta_vae": self.beta_vae(z, y, z_test, y_test),
            "factor_vae": self.factor_vae(z, y, z_test, y_test),
        }

    def importance(self, z: Floats, y: Ints, z_test: Floats, y_test: Ints) -> tuple[Floats, float]:
        """Return the importance (D, F) of units for a forest that predicts each factor, and the mean accuracy."""
        columns, scores = [], []
        for factor, truth in zip(y.T, y_test.T, strict=True):
            forest = RandomForestClassifier(self.trees, max_features=None, min_samples_leaf=2, random_state=0)
            scores.append(forest.fit(z, factor).score(z_test, truth))
            columns.append(forest.feature_importances_)
        return np.stack(columns, axis=1), float(np.mean(scores))

    def beta_vae(self, z: Floats, y: Ints, z_test: Floats, y_test: Ints) -> float:
        def groups(codes: Floats, factors: Ints, n: int) -> tuple[Floats, Ints]:
            g = generator("beta_vae", n)
            which = g.integers(factors.shape[1], size=n)
            first = g.integers(len(codes), size=(n, self.group))
            second = np.empty_like(first)
            for factor in range(factors.shape[1]):
                second[which == factor] = sharing(factors[:, factor], first[which == factor], g)
            return np.abs(codes[first] - codes[second]).mean(1), which

        inputs, wanted = groups(z, y, self.votes)
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(inputs, wanted)
        return float(linear.score(*groups(z_test, y_test, max(1, self.votes // 2))))

    def factor_vae(self, z: Floats, y: Ints, z_test: Floats, y_test: Ints) -> float:
        variance = z.var(0)
        active = variance >= self.prune
        if not active.any():
            return 0.0

        def groups(codes: Floats, factors: Ints, n: int) -> tuple[Ints, Ints]:
            g = generator("factor_vae", n)
            which = g.integers(factors.shape[1], size=n)
            first = g.integers(len(codes), size=(n, 1))
            rows = np.empty((n, self.group), dtype=np.int64)
            for factor in range(factors.shape[1]):
                rows[which == factor] = sharing(
                    factors[:, factor], np.repeat(first[which == factor], self.group, axis=1), g
                )
            spread = codes[rows][:, :, active].var(1) / variance[active]
            return spread.argmin(1), which

        votes = np.zeros((int(active.sum()), y.shape[1]))
        np.add.at(votes, groups(z, y, self.votes), 1)
        units, wanted = groups(z_test, y_test, max(1, self.votes // 2))
        return float((votes.argmax(1)[units] == wanted).mean())


def generator(*place: Any) -> np.random.Generator:
    return np.random.default_rng(randomness.key("disentanglement", *place))


def sharing(factor: Ints, rows: Ints, g: np.random.Generator) -> Ints:
    """Return for each of `rows` a row that has the same value of a factor (N,), drawn at random."""
    order = np.argsort(factor, kind="stable")
    _, start, count = np.unique(factor[order], return_index=True, return_counts=True)
    place = np.searchsorted(np.unique(factor), factor[rows])
    drawn = order[start[place] + (g.random(rows.shape) * count[place]).astype(np.int64)]
    return np.asarray(drawn)


def mutual_information(z: Floats, y: Ints, bins: int) -> Floats:
    """Return the information (D, F) in nats that each unit, cut into bins of equal width, has on each factor."""
    edges = [np.linspace(unit.min(), unit.max(), bins + 1)[1:-1] for unit in z.T]
    cut = [np.digitize(unit, inner) for unit, inner in zip(z.T, edges, strict=True)]
    return np.array([[mutual_info_score(factor, unit) for factor in y.T] for unit in cut])


def mig(information: Floats, y: Ints) -> float:
    """Return the mutual information gap of information (D, F) on factors (N, F)."""
    second, first = np.sort(known_share(information, y), axis=0)[-2:]
    return float(np.mean(first - second))


def known_share(information: Floats, y: Ints) -> Floats:
    """Return information (D, F) over the entropies of factors (N, F). It is 0 of a factor that does not change."""
    entropy = np.array([mutual_info_score(factor, factor) for factor in y.T])
    return np.asarray(information / np.maximum(entropy, 1e-300))


def modularity(information: Floats) -> float:
    """Return the modularity of information (D, F)."""
    squares = information**2
    best = squares.max(1)
    others = (squares.sum(1) - best) / np.maximum(best * max(information.shape[1] - 1, 1), 1e-300)
    return float(np.where(best > 0, 1 - others, 0).mean())


def sap(z: Floats, y: Ints) -> float:
    """Return the gap between the two units (N, D) that correlate most with each factor (N, F)."""
    a, b = ((values - values.mean(0)) / np.maximum(values.std(0), 1e-12) for values in (z, y))
    second, first = np.sort((a.T @ b / len(z)) ** 2, axis=0)[-2:]
    return float(np.mean(first - second))


def concentration(importance: Floats) -> float:
    """Return 1 less the entropy of each row of an importance matrix, in units of its largest, weighed by row sums.

    Of (units, factors) this is disentanglement, of its transpose completeness. It is 0 if all is 0.
    """
    total = importance.sum(1)
    if not total.any() or importance.shape[1] < 2:
        return 0.0
    share = importance / np.where(total > 0, total, 1)[:, None]
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1) / np.log(importance.shape[1])
    return float((total * (1 - entropy)).sum() / total.sum())
