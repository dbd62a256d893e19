"""Starts a decoder at the mean of the training data."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from aelab.errors import UserError


class OutputBias(Callback):
    """Sets the bias of the decoder's last layer to the mean training datum, before the first step.

    If the reconstruction term takes the sigmoid of what the decoder gives, the bias is the logit of the mean. Each mean
    is then kept `margin` away from 0 and 1, because the logits of 0 and 1 are infinite. The bias of a linear layer has
    a mean for each value, and that of a convolution one for each channel. What is missing counts in no mean. The code
    of Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016, does the same for images.

    Raises UserError for a decoder whose last layer has no such bias.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step:  # a resumed run has trained its bias already
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        total = number = torch.zeros((), device=pl_module.device)
        for batch in data.in_order("train", pl_module.device, data.noise):
            total, number = total + batch.x.nansum(0), number + (~batch.x.isnan()).sum(0)  # (C, *sizes)
        bias = _last_bias(pl_module)
        per_value, per_channel = (
            (total, number),
            (total.view(len(total), -1).sum(1), number.view(len(total), -1).sum(1)),
        )
        for sums, numbers in (per_value, per_channel):
            if data.domain != "tokens" and sums.numel() == bias.numel():
                mean = (sums / numbers.clamp_min(1)).flatten()
                identity = getattr(pl_module.reconstruction, "link", "sigmoid") == "identity"
                bias.copy_(mean if identity else mean.clamp(self.margin, 1 - self.margin).logit())
                return
        raise UserError("callbacks.output_bias needs a decoder whose last layer has one bias per value or per channel")


def _last_bias(model: LightningModule) -> torch.Tensor:
    biases = [module.bias for module in model.decoder.modules() if getattr(module, "bias", None) is not None]  # type: ignore[union-attr]
    if not biases:
        raise UserError("callbacks.output_bias needs a decoder with a bias")
    bias: torch.Tensor = biases[-1]  # type: ignore[assignment]
    return bias
