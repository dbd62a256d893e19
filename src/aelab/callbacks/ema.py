"""Averaged weights: validation, pictures and checkpoints use the running mean of the weights over steps."""

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from aelab.ranges import Share


class EMA(WeightAveraging):
    """After step n + 1 the average a of the weights w becomes d a + (1 - d) w, with d = min(decay, (1 + n) / (10 + n)).

    The ramp keeps the weights of the beginning out of the average of a short run: with a fixed decay of .999 they are a
    third of it after a thousand steps. TensorFlow's ExponentialMovingAverage has the same one (`num_updates`).
    """

    def __init__(self, decay: Share) -> None:
        def average(averaged: Tensor, now: Tensor, n: Tensor | int) -> Tensor:
            d = ((1 + n) / (10 + n)).clamp(max=decay) if isinstance(n, Tensor) else min(decay, (1 + n) / (10 + n))
            return d * averaged + (1 - d) * now

        super().__init__(avg_fn=average)
