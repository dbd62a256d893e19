"""Optimizers that papers use and torch.optim does not have."""

from typing import Any

import torch


class AdamOnes(torch.optim.Adam):
    """Adam whose second moment begins at 1 and not at 0, so that its first steps are short: a warm-up of about
    1 / (1 - betas[1]) steps.

    As in the code of Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, fused: bool) -> None:
        super().__init__(params, lr, betas, eps, fused=fused)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {
                    "step": torch.zeros((), device=p.device if group["fused"] else None),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.ones_like(p),
                }
