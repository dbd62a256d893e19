"""Images of a kind that the model was not trained on, told from the others by its error and by its code."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score

from aelab.composition.trained import Trained
from aelab.data.loader import Split
from aelab.errors import Unsupported


@dataclass(frozen=True)
class Anomaly:
    """Test images of the `normal_classes` against all others; null: those that the run was trained on (`data.classes`).

    Two scores, greater for what is stranger: `error`, the squared error of the reconstruction summed over pixels, and
    `mahalanobis`, the distance of the code from the mean of normal training codes, in their covariance (Lee et al.,
    2018; shrunk as Ledoit & Wolf, 2004). By `NAME/SCORE`:

    - `auroc`, `average_precision` of the anomalies;
    - `recall`: the share of anomalies above the threshold that 95 % of the normal *validation* images stay below;
      `false_alarms`: the share of normal test images above it.
    """

    normal_classes: Sequence[int] | None

    def __call__(self, trained: Trained) -> dict[str, float]:
        classes = self.normal_classes if self.normal_classes is not None else trained.data.classes
        if classes is None:
            raise Unsupported(
                "which classes are normal? train with data.classes=[0,1], or type metrics.anomaly.normal_classes=[0,1]"
            )
        normal = {split: np.isin(trained.images(split)[1], list(classes)) for split in ("train", "val", "test")}
        if normal["test"].all() or not all(rows.any() for rows in normal.values()):
            raise Unsupported(
                f"metrics.anomaly.normal_classes={list(classes)}: some images, and not all of the test split, must be "
                "of these"
            )
        fitted = LedoitWolf().fit(trained.codes("train")[0].numpy()[normal["train"]])

        def distances(split: Split) -> NDArray[np.float64]:
            return np.asarray(np.sqrt(fitted.mahalanobis(trained.codes(split)[0].numpy())))

        def errors(split: Split) -> NDArray[np.float64]:
            sse = trained.data.errors(trained.reconstructions(split)[0], trained.images(split)[0])["sse"]
            return np.asarray(sse.double().numpy())

        result: dict[str, float] = {}
        strange = ~normal["test"]
        for name, score in (("error", errors), ("mahalanobis", distances)):
            threshold, scores = np.quantile(score("val")[normal["val"]], 0.95), score("test")
            result |= {
                f"auroc/{name}": float(roc_auc_score(strange, scores)),
                f"average_precision/{name}": float(average_precision_score(strange, scores)),
                f"recall/{name}": float((scores[strange] > threshold).mean()),
                f"false_alarms/{name}": float((scores[~strange] > threshold).mean()),
            }
        return result
