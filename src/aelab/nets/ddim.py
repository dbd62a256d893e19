"""Diffusion with a deterministic way back: noise is added in `steps`, and taken away in a few of them.

    x_t = sqrt(a_t) x + sqrt(1 - a_t) e,  e ~ N(0, I)        a_t falls from 1 to nearly 0
    x_s = sqrt(a_s) x̂ + sqrt(1 - a_s) ê                      for any s, with x̂ and ê as predicted from x_t

Song, Meng & Ermon, Denoising diffusion implicit models, 2021, equation 12, https://arxiv.org/abs/2010.02502; Nichol &
Dhariwal, Improved denoising diffusion probabilistic models, 2021, equation 17 (cosine); Salimans & Ho, Progressive
distillation, 2022, appendix D (v).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from aelab.errors import UserError

LEAST = 1e-4  # of a_t, so that dividing by its root stays harmless
Predict = Callable[[Tensor, Tensor], Tensor]  # x_t (B, …) and times (B,) -> the target (B, …) as it is predicted


class DDIM(nn.Module):
    """The times of a diffusion. A net predicts e (`epsilon`), or sqrt(a_t) e - sqrt(1 - a_t) x (`v`)."""

    frequencies = 32  # of the sines and the cosines of a time

    def __init__(
        self,
        steps: int,
        sampling_steps: int,
        schedule: Literal["cosine", "linear"],
        predicts: Literal["epsilon", "v"],
    ) -> None:
        """Raises UserError for more steps of sampling than there are steps."""
        super().__init__()
        if not 1 <= sampling_steps <= steps:
            raise UserError(f"model.sampling_steps={sampling_steps} must be from 1 to model.steps={steps}")
        self.steps, self.sampling_steps, self.predicts = steps, sampling_steps, predicts
        self.a = kept(steps, schedule)  # no buffer: those become bfloat16 in low precision
        self.kept = self.a.tolist()

    def embedding(self, t: Tensor) -> Tensor:
        """Times (B,) -> sines and cosines of them (B, 64)."""
        rates = torch.exp(torch.arange(self.frequencies, device=t.device) * (-math.log(1e4) / self.frequencies))
        angles = 1000 / self.steps * t[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def noised(self, x: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_t and the target, each (B, …), for x (B, …), and times (B,), which are drawn if none are given."""
        t = torch.randint(1, self.steps + 1, x.shape[:1], device=x.device) if t is None else t
        e, a = torch.randn_like(x), self.a.to(t.device)[t].view(-1, *[1] * (x.ndim - 1)).to(x)
        target = e if self.predicts == "epsilon" else a.sqrt() * e - (1 - a).sqrt() * x
        return a.sqrt() * x + (1 - a).sqrt() * e, target, t

    def down(self, predict: Predict, x_T: Tensor) -> Tensor:
        """Walk from x_T (B, …) to x."""
        x = x_T
        for at, to in pairwise(reversed(self._times())):
            x = self._move(predict, x, at, to, at)
        return x

    def up(self, predict: Predict, x: Tensor) -> Tensor:
        """Walk from x (B, …) to the x_T that leads to it."""
        for at, to in pairwise(self._times()):
            x = self._move(predict, x, at, to, max(at, 1))
        return x

    def _move(self, predict: Predict, x: Tensor, at: int, to: int, told: int) -> Tensor:
        a, b, root = self.kept[at], self.kept[to], math.sqrt
        e = predict(x, torch.full(x.shape[:1], told, device=x.device))
        if self.predicts == "v":
            e = root(a) * e + root(1 - a) * x
        clean = (x - root(1 - a) * e) / root(a)
        return root(b) * clean + root(1 - b) * e

    def _times(self) -> list[int]:
        return [round(i * self.steps / self.sampling_steps) for i in range(self.sampling_steps + 1)]


def kept(steps: int, schedule: str) -> Tensor:
    """Return a_t, the share of a datum's variance that is kept, at each time from 0 to `steps`."""
    t = torch.linspace(0, 1, steps + 1, dtype=torch.double)
    if schedule == "cosine":
        angle = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
        a = angle / angle[0]
    else:  # variances from 1e-4 to .02 at 1,000 steps, and their like at other numbers (Ho et al., 2020)
        beta = torch.linspace(0.1 / steps, min(20 / steps, 0.999), steps, dtype=torch.double)
        a = torch.cat([t[:1] + 1, (1 - beta).cumprod(0)])
    return a.clamp_min(LEAST).float()
