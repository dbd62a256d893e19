"""Schedules: a weight of a loss as a function of the optimizer step. Any `beta`, `sparsity_weight`, … may be one.

    ae train +schedule@model.beta=linear model.beta.end=4 model.beta.steps=2000

In training, a weight has the value of its schedule at the current step. In validation and test it has the value `end`.
All checkpoints are therefore compared by the same objective. Otherwise one from early in the warm-up might win, because
the objective is easier there.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aelab.ranges import Count, NonNegative, Share


@runtime_checkable
class Schedule(Protocol):
    """Maps an optimizer step to a weight. `end` is the weight in validation and test."""

    end: NonNegative

    def __call__(self, step: int) -> float: ...


Scheduled = NonNegative | Schedule


@dataclass(frozen=True)
class Constant:
    """The weight is always `end`."""

    end: NonNegative

    def __call__(self, step: int) -> float:
        return self.end


@dataclass(frozen=True)
class Linear:
    """The weight goes from `start` to `end` on a straight line in `steps` steps. Then it stays at `end`.

    Sønderby et al., 2016, use this as warm-up.
    """

    start: NonNegative
    end: NonNegative
    steps: Count

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cosine:
    """The weight goes from `start` to `end` on half a cosine in `steps` steps. Then it stays at `end`."""

    start: NonNegative
    end: NonNegative
    steps: Count

    def __call__(self, step: int) -> float:
        rise = (1 - math.cos(math.pi * min(step / self.steps, 1.0))) / 2
        return self.start + (self.end - self.start) * rise


@dataclass(frozen=True)
class Cyclic:
    """The weight goes through cycles of `period` steps.

    In the first part of each cycle, the share `rise` of it, the weight goes from `start` to `end` on a straight line.
    Then it stays at `end` until the next cycle. Fu et al., Cyclical Annealing Schedule, 2019, equation 6.
    """

    start: NonNegative
    end: NonNegative
    period: Count
    rise: Share

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min((step % self.period) / (self.period * self.rise), 1.0)
