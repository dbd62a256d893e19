"""A weight of a loss as a function of the optimizer step: every `beta`, `sparsity_weight`, … may be one of these.

    ae train +schedule@model.beta=linear model.beta.end=4 model.beta.steps=2000

While training, a weight stands where its schedule is; in validation and test it stands at `end`, so that the best
checkpoint is chosen by one objective, not by one that is easier early in the warm-up.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """Step -> weight, and the weight that the run is about."""

    end: float

    def __call__(self, step: int) -> float: ...


Scheduled = float | Schedule


@dataclass(frozen=True)
class Constant:
    """Always `end`."""

    end: float

    def __call__(self, step: int) -> float:
        return self.end


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` on a straight line in `steps` steps, then `end` (warm-up: Sønderby et al., 2016)."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` on half a cosine in `steps` steps, then `end`."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        rise = (1 - math.cos(math.pi * min(step / self.steps, 1.0))) / 2
        return self.start + (self.end - self.start) * rise


@dataclass(frozen=True)
class Cyclic:
    """`period` steps a cycle: a straight rise from `start` to `end` in its first part `rise`, then `end` (Fu et al.,
    Cyclical Annealing Schedule, 2019, equation 6)."""

    start: float
    end: float
    period: int
    rise: float

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min((step % self.period) / (self.period * self.rise), 1.0)
