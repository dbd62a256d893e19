"""Adversarial autoencoder: a second net tells codes from draws of the prior, and the encoder learns to fool it.

    D(z)          logit that z came from the prior N(0, I)
    discriminator = -log s(D(e)) - log(1 - s(D(z)))        e ~ N(0, I), z = encoder(seen) held fixed
    loss          = reconstruction + adversarial_weight · -log s(D(z))

A step is one of the discriminator, then one of encoder and decoder, each with an optimizer of its own.

Makhzani, Shlens, Jaitly, Goodfellow & Frey, Adversarial autoencoders, 2016. https://arxiv.org/abs/1511.05644
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from autoencoders import randomness
from autoencoders.data.loader import Batch
from autoencoders.models.base import Autoencoder, Terms, standard_normal
from autoencoders.nets.base import Net
from autoencoders.reconstruction import Reconstruction
from autoencoders.schedules import Weight


class AAE(Autoencoder):
    def __init__(
        self,
        net: Net,
        reconstruction: Reconstruction,
        latent_dim: int,
        adversarial_weight: Weight,
        discriminator_dims: Sequence[int],
    ) -> None:
        super().__init__(latent_dim, reconstruction)
        self.automatic_optimization = False
        self.adversarial_weight = adversarial_weight
        self.encoder = net.encoder(latent_dim)
        self.decoder = net.decoder(latent_dim, reconstruction.maps)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([latent_dim, *discriminator_dims, 1]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.discriminator = nn.Sequential(*layers[:-1])

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        z = self.encoder(seen)
        reconstruction = self.reconstruction.error(self.decoder(z), x).mean()
        adversarial = F.softplus(-self.discriminator(z)).mean()
        loss = reconstruction + self.now(self.adversarial_weight) * adversarial
        return {
            "loss": loss,
            "reconstruction": reconstruction,
            "adversarial": adversarial,
            "discriminator": self.discriminator_loss(z.detach()),
        }

    def discriminator_loss(self, z: Tensor) -> Tensor:
        e = standard_normal(self, len(z))
        return (F.softplus(-self.discriminator(e)) + F.softplus(self.discriminator(z))).mean()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        randomness.seed(self.device, "train", self.seed, self.current_epoch, batch_idx, self.global_rank)
        first, second = self.optimizers()  # type: ignore[attr-defined]
        first._on_before_step = first._on_after_step = lambda: None  # a pair of steps is one step of the run
        first.zero_grad()
        self.manual_backward(batch.weight * self.discriminator_loss(self.encode(batch.seen).detach()))
        first.step()

        terms = self.loss(batch.seen, batch.x, batch.y)
        second.zero_grad()
        self.manual_backward(batch.weight * terms["loss"])
        second.step()
        return {"terms": {name: term.detach() for name, term in terms.items()}}

    def configure_optimizers(self) -> Any:
        second = [*self.encoder.parameters(), *self.decoder.parameters()]
        if isinstance(self.reconstruction, nn.Module):
            second += self.reconstruction.parameters()
        optimizers = [self.optimizer(self.discriminator.parameters()), self.optimizer(second)]
        return optimizers, [self.scheduler(optimizer) for optimizer in optimizers] if self.scheduler else []

    def on_train_epoch_end(self) -> None:
        for scheduler in self.lr_schedulers() or []:  # type: ignore[union-attr]
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(self.trainer.callback_metrics["val/loss"])
            else:
                scheduler.step()

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """`n` images (n, C, H, W) in [0, 1] from codes drawn from the prior."""
        return self.decode(standard_normal(self, n), y)
