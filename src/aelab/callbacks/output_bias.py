"""Starts a decoder at the mean training image."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from aelab.errors import UserError


class OutputBias(Callback):
    """Sets the bias of the decoder's last layer to the logit of the mean training image, before the first step.

    The bias of a linear layer holds one mean per pixel and channel. The bias of a convolution holds one mean per
    channel. Each mean is kept `margin` away from 0 and 1, because the logits of 0 and 1 are infinite. The code of
    Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016, does the same.

    Raises UserError for a decoder whose last layer has no such bias.
    """

    def __init__(self, margin: float) -> None:
        self.margin = margin

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.global_step:  # a resumed run has trained its bias already
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        total, images = torch.zeros(()), 0
        for batch in data.in_order("train", pl_module.device, data.noise):
            total, images = total.to(batch.x) + batch.x.sum(0), images + len(batch.x)
        mean = total / images  # (C, H, W)
        bias = _last_bias(pl_module)
        for shape in (mean.flatten(), mean.mean((1, 2))):
            if shape.shape == bias.shape:
                bias.copy_(shape.clamp(self.margin, 1 - self.margin).logit())
                return
        raise UserError("callbacks.output_bias needs a decoder whose last layer has one bias per pixel or per channel")


def _last_bias(model: LightningModule) -> torch.Tensor:
    biases = [module.bias for module in model.decoder.modules() if getattr(module, "bias", None) is not None]  # type: ignore[union-attr]
    if not biases:
        raise UserError("callbacks.output_bias needs a decoder with a bias")
    bias: torch.Tensor = biases[-1]  # type: ignore[assignment]
    return bias
