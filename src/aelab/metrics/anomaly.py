"""Detection of anomalies: images of classes that the model was not trained on are told from the others."""

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
    """Measures how well a score tells normal test images from anomalies.

    Images of the `normal_classes` are normal, and all others are anomalies. If `normal_classes` is None, the normal
    classes are those that the run was trained on: `data.classes`, or else the classes of the training images if the
    test split has others too, as in MVTec AD (Bergmann et al., 2019).

    There are two scores. Both are greater for stranger images:

    - `error`: squared error of the reconstruction, summed over channels and pixels;
    - `mahalanobis`: Mahalanobis distance of the code from the mean of the normal training codes (Lee et al., 2018). The
      covariance is that of these codes, shrunk as in Ledoit & Wolf, 2004.

    The threshold of a score is the value that 95 % of the normal *validation* images stay below. Keys are NAME/SCORE.
    NAME is

    - `auroc`: area under the ROC curve;
    - `average_precision`: average precision, with anomalies as positives;
    - `recall`: share of anomalies above the threshold;
    - `false_alarms`: share of normal test images above the threshold.
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
        if normal["test"].all() or not all(rows.any() for rows in normal.values()):
            raise Unsupported(
                f"normal classes {', '.join(map(data.name_of, labels))} must match some images of every split, and not "
                "all images of the test split"
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
