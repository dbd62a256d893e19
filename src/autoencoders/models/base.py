"""What every autoencoder shares: wiring, and no loss."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autoencoders import randomness
from autoencoders.data.loader import Batch
from autoencoders.errors import UserError
from autoencoders.metrics.image import image_errors
from autoencoders.reconstruction import Reconstruction
from autoencoders.schedules import Weight

Terms = dict[str, Tensor]


class Objective(LightningModule):
    """How anything here is trained and evaluated: a subclass supplies `loss`.

    Optimizer, scheduler and seed are set by `autoencoders.build`, and have no place in a constructor.
    """

    optimizer: Callable[[Iterable[Any]], Optimizer]
    scheduler: Callable[[Optimizer], LRScheduler] | None = None
    seed: int = 0

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this name 40 times a step; this way takes 0.2 µs instead of the 1.3 µs of torch's.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def loss(self, seen: Tensor, x: Tensor, y: Tensor) -> Terms:
        """Encode `seen`, explain `x`: "loss" is minimised and every entry is logged, each a mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    def errors(self, batch: Batch) -> Terms:
        """What an evaluation logs besides the terms of the loss: (B,) each."""
        return {}

    def squared_weights(self) -> Tensor:
        """Sum of the squares of all matrices and kernels, biases left out."""
        return torch.stack([p.square().sum() for p in self.parameters() if p.ndim > 1]).sum()

    def now(self, weight: Weight) -> float:
        """A weight of the loss at this step: itself, or where its schedule stands (at its end in evaluation)."""
        if isinstance(weight, int | float):
            return weight
        return weight(self.global_step) if self.training else weight.end

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        randomness.seed(self.device, "train", self.seed, self.current_epoch, batch_idx, self.global_rank)
        terms = self.loss(batch.seen, batch.x, batch.y)
        loss = terms["loss"] if batch.weight == 1 else terms["loss"] * batch.weight
        return {"loss": loss, "terms": {name: term.detach() for name, term in terms.items()}}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._evaluation_step(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._evaluation_step(batch, batch_idx)

    def _evaluation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The same loss, and the other errors; the draws are fixed, whatever the seed."""
        randomness.seed(self.device, "evaluation", batch_idx, self.global_rank)
        terms = self.loss(batch.seen, batch.x, batch.y)
        return {"terms": {**terms, **{name: value.mean() for name, value in self.errors(batch).items()}}}

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}


class Autoencoder(Objective):
    """A variant supplies its nets and `loss`; `encode` and `decode` where its code is not simply what the encoder
    gives; and `sample` if it is generative. Its constructor takes what its paper has: nets, sizes, weights.
    """

    spatial: ClassVar[bool] = False
    """Whether a code is a stack of maps (B, latent_dim, h, w), which only a spatial net gives."""

    conditional: ClassVar[bool] = False
    """Whether encoder and decoder must be told the label."""

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, latent_dim: int, reconstruction: Reconstruction) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"model.latent_dim must be at least 1, got {latent_dim}")
        self.latent_dim = latent_dim
        self.reconstruction = reconstruction

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) -> codes (B, latent_dim), without randomness."""
        z: Tensor = self.encoder(x)
        return z

    def out(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Codes (B, latent_dim) -> what the reconstruction term reads."""
        out: Tensor = self.decoder(z)
        return out

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Codes (B, latent_dim) -> images (B, C, H, W) in [0, 1]."""
        return self.reconstruction.image(self.out(z, y))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The reconstruction: (B, C, H, W) -> (B, C, H, W) in [0, 1]."""
        return self.decode(self.encode(x, y), y)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """`n` new images (n, C, H, W) in [0, 1], of a generative model. Raises UserError for any other."""
        raise UserError(f"{type(self).__name__} has no prior over its codes, so it cannot sample; a vae can")

    @property
    def generative(self) -> bool:
        """Whether the model can sample."""
        return type(self).sample is not Autoencoder.sample

    def errors(self, batch: Batch) -> Terms:
        """Of the image that `forward` gives."""
        return image_errors(self(batch.seen, batch.y), batch.x)


class Variational(Autoencoder):
    """Wiring of a model whose code is a normal distribution, and whose prior over codes is N(0, I)."""

    @property
    def likelihood(self) -> bool:
        """Whether `error` is a whole -log p(x | z): then there are bounds of log p(x)."""
        return self.reconstruction.likelihood

    @property
    def density(self) -> bool:
        """Whether that p is a density of pixels in [0, 1], not a probability of greys or bits."""
        return self.reconstruction.density

    def error(self, z: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Codes (B, latent_dim), clean images (B, C, H, W) -> the reconstruction term (B,)."""
        return self.reconstruction.error(self.out(z, y), x)

    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) -> mean and log variance of their codes, each (B, latent_dim)."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.posterior(x, y)[0]

    def draw(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """One code from each posterior: mu + exp(logvar / 2) e, e ~ N(0, I)."""
        return mu + (logvar / 2).exp() * torch.randn_like(mu)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """`n` images (n, C, H, W) in [0, 1] from codes drawn from the prior."""
        return self.decode(standard_normal(self, n), y)


def standard_normal(model: Autoencoder, n: int) -> Tensor:
    """Codes (n, latent_dim) drawn from N(0, I), on the model's device and in its precision."""
    like = next(model.parameters())
    return torch.randn(n, model.latent_dim, device=like.device, dtype=like.dtype)
