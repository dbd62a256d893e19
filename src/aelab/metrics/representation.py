"""How well labels are predicted from the codes, compared with PCA of the same dimension and with raw pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sklearn.decomposition
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aelab import randomness
from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.ranges import Count

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Representation:
    """Accuracy of simple predictors of the label. Keys are NAME/FEATURES.

    FEATURES is `codes`, the codes of clean data; `pca`, as many principal components; or `pixels`, the raw numbers. Of
    tokens there are `codes` only. NAME is

    - `linear_probe`: logistic regression on standardised features;
    - `probe_of_N`: the same, with N labels per class, for each N of `few_labels`;
    - `knn`: majority vote of the `neighbours` nearest training images;
    - `cluster_accuracy`: k-means with as many clusters as classes. Each cluster is matched with one class;
    - `cluster_nmi`: normalised mutual information of these clusters and the classes.

    Predictors are fitted to at most `images` training images, drawn at random, and scored on the whole test split. All
    numbers but `cluster_nmi` are shares of right answers, between 0 and 1.

    Raises Unsupported for training images of one class.
    """

    images: Count
    few_labels: Sequence[Count]
    neighbours: Count

    @needs("labels")
    def __call__(self, trained: Trained) -> dict[str, float]:
        (x, y), (x_test, y_test) = trained.images("train", self.images), trained.images("test")
        (z, _), (z_test, _) = trained.codes("train", self.images), trained.codes("test")
        features = {"codes": (z.numpy(), z_test.numpy())}
        if trained.data.domain != "tokens":
            pixels, pixels_test = (a.flatten(1).nan_to_num(0).numpy() for a in (x, x_test))
            pca = sklearn.decomposition.PCA(min(z.shape[1], *pixels.shape), random_state=0).fit(pixels)
            features |= {"pca": (pca.transform(pixels), pca.transform(pixels_test)), "pixels": (pixels, pixels_test)}
        return {
            f"{name}/{what}": value
            for what, (train, test) in features.items()
            for name, value in self.scores(train, y.numpy(), test, y_test.numpy()).items()
        }

    def scores(self, train: Array, y: NDArray[np.int64], test: Array, y_test: NDArray[np.int64]) -> dict[str, float]:
        """Return the numbers by name, for features (N, D) and labels (N,) of training and of test images."""
        result = {"linear_probe": linear_probe(train, y, test, y_test)}
        order = np.random.default_rng(randomness.key("few labels")).permutation(len(y))
        for n in self.few_labels:
            rows = np.concatenate([order[y[order] == label][:n] for label in np.unique(y)])
            result[f"probe_of_{n}"] = linear_probe(train[rows], y[rows], test, y_test)
        result["knn"] = float(KNeighborsClassifier(min(self.neighbours, len(train))).fit(train, y).score(test, y_test))
        clusters = KMeans(len(np.unique(y)), n_init=3, random_state=0).fit(train).predict(test)
        table = np.zeros((clusters.max() + 1, y_test.max() + 1))
        np.add.at(table, (clusters, y_test), 1)
        result["cluster_accuracy"] = float(table[linear_sum_assignment(-table)].sum() / len(y_test))
        result["cluster_nmi"] = float(normalized_mutual_info_score(y_test, clusters))
        return result


def linear_probe(train: Array, y: NDArray[np.int64], test: Array, y_test: NDArray[np.int64]) -> float:
    """Return the accuracy of a logistic regression on standardised features (N, D)."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    return float(pipeline.fit(train, y).score(test, y_test))
