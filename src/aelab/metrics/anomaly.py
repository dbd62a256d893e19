"""Detection of anomalies: data of some classes are told from the others, by the model and by classical detectors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sklearn.decomposition
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from aelab.composition.trained import Trained
from aelab.data.loader import Split
from aelab.errors import Unsupported

Scores = NDArray[np.float64]

ROWS = 20_000  # detectors are fitted to at most this many training data, drawn at random
NEIGHBOURS = 5
FOR_A_THRESHOLD = 20  # normal validation data, of which one may lie above the 95 % quantile
THRESHOLDS = 200  # of the precision-recall surface


@dataclass(frozen=True)
class Anomaly:
    """Measures how well a score tells normal test data from anomalies.

    Data of the `normal_classes` are normal, and all others are anomalies. If `normal_classes` is None, the normal
    classes are those that the run was trained on: `data.classes`, or else the classes of the training data if the test
    split has others too, as in MVTec AD (Bergmann et al., 2019).

    There are two scores of the model. All scores are greater for stranger data:

    - `error`: squared error of the reconstruction, summed over the datum; of tokens, the reconstruction term in nats;
    - `mahalanobis`: Mahalanobis distance of the code from the mean of the normal training codes (Lee et al., 2018). The
      covariance is that of these codes, shrunk as in Ledoit & Wolf, 2004.

    Classical detectors of numbers are fitted to the training split, as it was shown to the model:

    - `pca`: squared error of the projection on as many principal components as the code has numbers;
    - `knn`: distance to the 5th nearest training datum (Ramaswamy, Rastogi & Shim, 2000);
    - `isolation_forest`: of scikit-learn (Liu, Ting & Zhou, 2008);
    - `mean`: squared distance from the mean.

    The threshold of a score is the value that 95 % of the normal *validation* data stay below. With fewer than 20 of
    them there is no threshold, and no number that needs one. Keys are NAME/SCORE. NAME is

    - `auroc`: area under the ROC curve;
    - `average_precision`: average precision, with anomalies as positives;
    - `of_normal`, `of_anomalies`: mean score of the normal test data, and of the anomalies;
    - `f1`: harmonic mean of precision and recall at the threshold;
    - `recall`: share of anomalies above the threshold;
    - `false_alarms`: share of normal test data above the threshold;
    - `vus_pr`, `range_precision`, `range_recall`, `range_f1`: of windows of a recording, see `vus_pr` and `ranges`.
    """

    normal_classes: Sequence[int | str] | None

    def __call__(self, trained: Trained) -> dict[str, float]:
        data = trained.data
        classes = self.normal_classes if self.normal_classes is not None else data.classes
        labels = sorted(set(trained.images("train")[1].tolist())) if classes is None else data.labels_of(classes)
        if classes is None and set(trained.images("test")[1].tolist()) <= set(labels):
            raise Unsupported(
                "it is not known which classes are normal: train with data.classes=[0,1], or type "
                "metrics.anomaly.normal_classes=[0,1]"
            )
        normal = {split: np.isin(trained.images(split)[1], labels) for split in ("train", "val", "test")}
        if normal["test"].all() or not (normal["train"].any() and normal["test"].any()):
            raise Unsupported(
                f"normal classes {', '.join(map(data.name_of, labels))} must match some data of the training split and "
                "of the test split, and not all data of the test split"
            )
        fitted = LedoitWolf().fit(trained.codes("train")[0].numpy()[normal["train"]])

        def distances(split: Split) -> Scores:
            return np.asarray(np.sqrt(fitted.mahalanobis(trained.codes(split)[0].numpy())))

        scores: dict[str, Callable[[Split], Scores]] = {"error": partial(_errors, trained), "mahalanobis": distances}
        if data.domain != "tokens":
            scores |= detectors(trained)
        result: dict[str, float] = {}
        strange = ~normal["test"]
        for name, score in scores.items():
            values = score("test")
            result |= {
                f"auroc/{name}": float(roc_auc_score(strange, values)),
                f"average_precision/{name}": float(average_precision_score(strange, values)),
                f"of_normal/{name}": float(values[~strange].mean()),
                f"of_anomalies/{name}": float(values[strange].mean()),
            }
            if normal["val"].sum() >= FOR_A_THRESHOLD:
                threshold = np.quantile(score("val")[normal["val"]], 0.95)
                result |= {
                    f"f1/{name}": float(f1_score(strange, values > threshold)),
                    f"recall/{name}": float((values[strange] > threshold).mean()),
                    f"false_alarms/{name}": float((values[~strange] > threshold).mean()),
                }
                if data.in_time:
                    result |= {f"{key}/{name}": value for key, value in ranges(strange, values > threshold).items()}
            if data.in_time:
                result[f"vus_pr/{name}"] = vus_pr(strange, values)
        return result


def _errors(trained: Trained, split: Split) -> Scores:
    if trained.data.domain == "tokens":
        with torch.no_grad():
            nats = [trained.model.error(trained.model.encode_batch(b), b).cpu() for b in trained.batches(split)]
        return np.asarray(torch.cat(nats).double().numpy())
    sse = trained.data.errors(trained.reconstructions(split)[0], trained.images(split)[0])["sse"]
    return np.asarray(sse.double().numpy())


def detectors(trained: Trained) -> dict[str, Callable[[Split], Scores]]:
    """Return the scores of classical detectors by name. They see what the model sees, with 0 for what is missing."""

    def rows(split: Split, limit: int | None = None) -> NDArray[Any]:
        return np.asarray(trained.images(split, limit)[0].flatten(1).nan_to_num(0).numpy())

    train = rows("train", ROWS)
    pca = sklearn.decomposition.PCA(min(trained.codes("test")[0].shape[1], *train.shape), random_state=0).fit(train)
    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(train)
    forest = IsolationForest(random_state=0).fit(train)

    def projected(split: Split) -> Scores:
        x = rows(split)
        return np.asarray(np.square(x - pca.inverse_transform(pca.transform(x))).sum(1))

    return {
        "pca": projected,
        "knn": lambda split: np.asarray(neighbours.kneighbors(rows(split))[0][:, -1]),
        "isolation_forest": lambda split: np.asarray(-forest.score_samples(rows(split))),
        "mean": lambda split: np.asarray(np.square(rows(split) - train.mean(0)).sum(1)),
    }


def ranges(strange: NDArray[np.bool_], found: NDArray[np.bool_]) -> dict[str, float]:
    """Return precision, recall and F1 of whole anomalies, for points (N,) in time order.

    An anomaly is a longest stretch of `strange` points, and an alarm one of `found` points. Recall is the mean over
    anomalies of the share that is found. Precision is the mean over alarms of the share that is strange, and 0 without
    an alarm. Tatbul, Lee, Zdonik, Alam & Gottschlich, Precision and recall for time series, 2018, equations 4 and 8,
    with no weight on existence, a flat bias, and a cardinality factor of 1.
    """
    recall = float(np.mean([found[start:end].mean() for start, end in _spans(strange)]))
    precision = float(np.mean([strange[start:end].mean() for start, end in _spans(found)] or [0.0]))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"range_precision": precision, "range_recall": recall, "range_f1": f1}


def _spans(points: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], points.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def vus_pr(strange: NDArray[np.bool_], scores: Scores, longest: int | None = None) -> float:
    """Return the volume under the precision-recall surface of scores (N,) in time order.

    A point near an anomaly counts as one in part: the label falls from 1 to 0 over l / 2 points on each side, as the
    square root of 1 - d / l at distance d. Precision and recall are those of these soft labels, and recall is
    multiplied by the share of anomalies of which a point was found. The area under them is averaged over l = 0 …
    `longest`, by default the median length of an anomaly. Paparrizos, Boniol, Palpanas, Tsay, Elmore & Franklin, Volume
    under the surface, 2022, section 4.
    """
    spans = _spans(strange)
    longest = int(np.median([end - start for start, end in spans])) if longest is None else longest
    thresholds = np.unique(np.quantile(scores, np.linspace(1, 0, THRESHOLDS)))[::-1]
    areas = []
    for length in np.unique(np.linspace(0, longest, min(longest + 1, 10)).round().astype(int)):
        soft = strange.astype(float)
        for start, end in spans:
            for d in range(1, length // 2 + 1):
                for at in (start - d, end - 1 + d):
                    if 0 <= at < len(soft):
                        soft[at] = max(soft[at], math.sqrt(1 - d / length))
        positives = (strange.sum() + soft.sum()) / 2
        precision, recall = [1.0], [0.0]
        for threshold in thresholds:
            found = scores >= threshold
            hit = (soft * found).sum()
            existence = np.mean([found[max(s - length // 2, 0) : e + length // 2].any() for s, e in spans])
            precision.append(hit / found.sum())
            recall.append(min(hit / positives, 1.0) * existence)
        areas.append(np.sum(np.diff(recall) * np.array(precision[1:])))
    return float(np.mean(areas))
