"""`ae evaluate run=DIR`: the numbers of a trained run, from nothing but its folder.

`metrics=[reconstruction,anomaly]` chooses groups of numbers (docs/metrics.md), and `metrics.anomaly.KEY=…` their keys.
"""

import json
import sys
from typing import TYPE_CHECKING, Literal

from aelab.composition.explain import task_of_run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(config: "DictConfig") -> None:
    """Add the numbers to the run's metrics.json, and print them."""
    with task_of_run("evaluate", config, {"splits": list[Literal["val", "test"]], "json": bool}) as run:
        from aelab.composition import build
        from aelab.training.evaluation import evaluate, show

        asked = any(word.startswith("metrics=") for word in sys.argv)
        metrics = evaluate(run, config.splits, build.metrics(config), asked, config.checkpoint, config.data.root)
        if config.json:
            print(json.dumps(metrics, indent=2))
        else:
            show(metrics, f"{metrics['test/images']:.0f} test data" if "test/images" in metrics else str(config.run))
