"""What every objective shares: wiring, and no loss."""

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar, cast

import torch
from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from aelab import randomness
from aelab.data.base import DataModule
from aelab.data.loader import Batch
from aelab.errors import Unsupported, UserError
from aelab.nets.base import Net
from aelab.noise import Noise
from aelab.optimizers import Scheduler, descriptions
from aelab.ranges import Count
from aelab.reconstruction import Reconstruction
from aelab.schedules import Scheduled

Terms = dict[str, Tensor]
Normal = tuple[Tensor, Tensor]
"""Mean and log variance of a normal distribution, (B, …) each."""
_Method = TypeVar("_Method", bound=Callable[..., Any])


def once(method: _Method) -> _Method:
    """Decorate a method so that an evaluation step runs it once per input.

    The loss, the errors and the health of a code all need the code of a batch. Outside of `remembering` the method runs
    each time.
    """

    @functools.wraps(method)
    def remembered(model: "Objective", *inputs: Any) -> Any:
        memory = model._memory
        if memory is None:
            return method(model, *inputs)
        key = (method.__qualname__, *map(id, inputs))
        if key not in memory:
            memory[key] = inputs, method(model, *inputs)  # the inputs stay alive, so that their ids stay theirs
        return memory[key][1]

    return cast(_Method, remembered)


class Objective(LightningModule):
    """How anything here is trained and evaluated. A subclass supplies `loss`.

    `aelab.composition.build` sets optimizer, scheduler and seed. They have no place in a constructor.
    """

    optimizer: Callable[[Iterable[Any]], Optimizer]
    scheduler: Scheduler | Callable[[Optimizer], LRScheduler] | None = None
    seed: int = 0
    _data: "weakref.ref[DataModule] | None" = None
    _memory: dict[tuple[Any, ...], Any] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning sets this name 40 times per step. This way takes 0.2 µs, torch's way takes 1.3 µs.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def attach(self, data: DataModule) -> None:
        """Hand over the data module. An evaluation step asks it for the errors of a reconstruction.

        The model does not own the data: a copy of the model, such as an averaged one, copies no images.
        """
        self._data = weakref.ref(data)

    def loss(self, batch: Batch) -> Terms:
        """Encode `batch.seen` and explain `batch.x`.

        The entry "loss" is minimised and every entry is logged. Each is a mean over the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    def errors(self, batch: Batch) -> Terms:
        """Return what an evaluation logs besides the terms of the loss, (B,) each."""
        return {}

    def code(self, batch: Batch) -> Terms:
        """Return what `callbacks.health` reads of the codes of a batch, (B, …) each."""
        return {}

    def squared_weights(self) -> Tensor:
        """Return the sum of the squares of all matrices and kernels. Biases are left out."""
        return torch.stack([p.square().sum() for p in self.parameters() if p.ndim > 1]).sum()

    def at_step(self, weight: Scheduled) -> float:
        """Return the value of a weight of the loss at this step. In evaluation a schedule is at its end."""
        if isinstance(weight, int | float):
            return weight
        return weight(self.global_step) if self.training else weight.end

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        randomness.seed(self.device, "train", self.seed, self.current_epoch, batch_idx, self.global_rank)
        terms = self.loss(batch)
        loss = terms["loss"] if batch.weight == 1 else terms["loss"] * batch.weight
        return {"loss": loss, "terms": terms}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._evaluation_step(batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        return self._evaluation_step(batch, batch_idx)

    def _evaluation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Compute the same loss, and the errors. The draws are fixed, whatever the seed."""
        randomness.seed(self.device, "evaluation", batch_idx, self.global_rank)
        with self.remembering():
            terms = self.loss(batch)
            errors = {name: value.mean() for name, value in self.errors(batch).items()}
            return {"terms": {**terms, **errors}, "code": self.code(batch)}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within this block, methods decorated with `once` run once per input."""
        self._memory = {}
        try:
            yield
        finally:
            self._memory = None

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Return the optimizer of some parameters. Raises UserError for values that it refuses."""
        try:
            return self.optimizer(list(parameters))
        except ValueError as error:
            raise UserError(f"optimizer: {error}") from error

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_of(p for p in self.parameters() if p.requires_grad)
        mixed = isinstance(self.trainer.precision_plugin, MixedPrecision)
        if mixed and self.trainer.gradient_clip_val and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise UserError("a fused optimizer does not clip gradients in mixed precision: type optimizer.fused=false")
        return [optimizer], descriptions(self.scheduler, optimizer, self.trainer)


class Autoencoder(Objective):
    """A model with an encoder and a decoder.

    A variant supplies its nets and `loss`. It overrides `encode` and `out` if its code is not simply what the encoder
    gives, and `sample` if it is generative. Its constructor takes what its paper has: nets, sizes, weights.
    """

    codes: ClassVar[tuple[str, ...]] = ("vector",)
    """What a code may be: "vector" (B, D), "map" (B, D, h, w), or both."""

    domains: ClassVar[tuple[str, ...]] = ("unit", "real", "tokens")
    """What the numbers of a datum may be: in [0, 1], real, or ids."""

    conditional: ClassVar[bool] = False
    """Whether encoder and decoder must be told the label."""

    completes: bool = False
    """Whether the model completes what the noise hides, so that it means nothing without noise."""

    fills: bool = False
    """Whether a reconstruction shows what the noise did not choose as it was seen."""

    decodes: ClassVar[bool] = True
    """Whether a code alone gives a datum."""

    walks: ClassVar[bool] = False
    """Whether a reconstruction takes many steps of a net, so that no evaluation step makes one."""

    active: Callable[[Tensor], Tensor] | None = None
    """Which units of codes (B, D) are on, of a sparse model."""

    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: Count) -> None:
        """Raises UserError for a net whose codes are of a kind that this model does not take."""
        super().__init__()
        if ("map" if net.code_sizes else "vector") not in self.codes:
            wants = "a vector: net=mlp, or any other than spatial" if net.code_sizes else "a map: net=spatial"
            raise UserError(f"the code of {type(self).__name__} is {wants}")
        self.latent_dim = latent_dim
        self.autoregressive = net.autoregressive
        self.code_shape = (latent_dim, *net.code_sizes)
        self.reconstruction = reconstruction

    def prepare_for(self, noise: Noise) -> None:
        """Take note of the noise of the run. Raises UserError for one from which the model cannot learn."""

    @once
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the codes (B, *code_shape) of images (B, C, H, W), without randomness."""
        z: Tensor = self.encoder(x)
        return z

    def encode_batch(self, batch: Batch) -> Tensor:
        """Return the codes (B, *code_shape) of what a batch shows."""
        return self.encode(batch.seen, batch.y)

    def out(self, z: Tensor, y: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """Return what the reconstruction term reads, for codes (B, *code_shape).

        `x` is the clean data that a decoder with teacher forcing is shown. Without it the decoder generates.
        """
        out: Tensor = self.decoder(z, x) if self.autoregressive else self.decoder(z)
        return out

    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] for codes (B, *code_shape)."""
        return self.reconstruction.mean(self.out(z, y))

    def generate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return data (B, C, *sizes) for codes that were drawn. What else of a datum is random is drawn too."""
        return self.decode(z, y)

    def error(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the reconstruction term (B,) of codes (B, *code_shape) against the clean images of a batch."""
        return self.reconstruction.error(self.out(z, batch.y, batch.x), batch.x)

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the reconstruction (B, C, H, W) in [0, 1] of what a batch shows."""
        return self.filled(self.decode(self.encode_batch(batch), batch.y), batch)

    def filled(self, shown: Tensor, batch: Batch) -> Tensor:
        """Return what is shown of a batch (B, C, H, W), with the places that were seen if the model `fills`."""
        return torch.where(batch.chosen, shown, batch.seen) if self.fills else shown

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the reconstruction (B, C, H, W) in [0, 1] of images (B, C, H, W)."""
        return self.decode(self.encode(x, y), y)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return `n` new images (n, C, H, W) in [0, 1]. Raises UserError for a model that is not generative."""
        raise UserError(f"{type(self).__name__} has no prior over its codes, so it cannot sample; a vae can")

    @property
    def likelihood(self) -> bool:
        """Whether `error` is a whole -log p(x | z). Only then are there bounds of log p(x)."""
        return self.reconstruction.likelihood

    def check_likelihood(self) -> None:
        """Raise Unsupported if the reconstruction term is no likelihood."""
        if not self.likelihood:
            raise Unsupported("its reconstruction term is no likelihood: train with reconstruction=bce or gaussian")

    @property
    def density(self) -> bool:
        """Whether p(x | z) is a density of pixels in [0, 1]. Otherwise it is a probability of greys or bits."""
        return self.reconstruction.density

    @property
    def generative(self) -> bool:
        """Whether the model can sample."""
        return type(self).sample is not Autoencoder.sample

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        """Return log p(x | z) + log p(z) - log q(z | seen) of `k` codes drawn per image, (k, B).

        Raises Unsupported for a model without a bound of log p(x).
        """
        raise Unsupported(f"{type(self).__name__} has no posterior, so there is no bound of log p(x)")

    def errors(self, batch: Batch) -> Terms:
        data = None if self.walks or self._data is None else self._data()
        return data.errors(self.reconstruct(batch), batch.x) if data else {}

    def code(self, batch: Batch) -> Terms:
        """`z`, the codes; `on`, which units are on, of a model that says so."""
        z = self.encode_batch(batch)
        return {"z": z} | ({"on": self.active(z)} if self.active is not None else {})


class Variational(Autoencoder):
    """Wiring of a model whose code is a normal distribution, and whose prior over codes is N(0, I)."""

    @once
    def posterior(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the codes of images (B, C, H, W), each (B, latent_dim)."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.posterior(x, y)[0]

    def draw(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """Draw one code from each posterior."""
        return draw(mu, logvar)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return `n` images (n, C, H, W) in [0, 1] from codes that are drawn from the prior."""
        return self.decode(standard_normal(self, n), y)

    def log_weights(self, batch: Batch, k: int) -> Tensor:
        self.check_likelihood()

        def rows(t: Tensor) -> Tensor:
            return t.repeat(k, *[1] * (t.ndim - 1))

        mu, logvar = map(rows, self.posterior(batch.seen, batch.y))
        z = self.draw(mu, logvar)
        return (log_ratio(z, mu, logvar) - self.error(z, batch.map(rows))).view(k, -1)

    def code(self, batch: Batch) -> Terms:
        """`z`, the means; `kl`, the KL of each unit."""
        return super().code(batch) | {"kl": kl_per_unit(*self.posterior(batch.seen, batch.y))}


class Quantized(Autoencoder):
    """Wiring of a model whose code is a map of entries of one codebook or several of the same size.

    A code has N places, each of which holds an index. Places are in the order in which a sampler draws them.
    """

    codes = ("map",)

    size: int
    """Number of values of an index."""

    books: Tensor
    """(N,): which codebook each place belongs to, from 0."""

    codebooks: int
    """Number of codebooks."""

    def look_up(self, indices: Tensor) -> Tensor:
        """Return the codes (B, *code_shape) of indices (B, N)."""
        raise NotImplementedError(f"{type(self).__name__} has no codebook")

    def indices(self, x: Tensor) -> Tensor:
        """Return the codes of images (B, C, H, W) as indices into the codebooks, (B, N)."""
        raise NotImplementedError(f"{type(self).__name__} has no indices")

    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the entries (B, *code_shape) of the codes of images (B, C, H, W)."""
        return self.look_up(self.indices(x))

    def uses(self, indices: Tensor) -> Tensor:
        """Return how often indices (B, N) name each entry of each codebook, (codebooks, size)."""
        places = (indices + self.books * self.size).flatten()
        return torch.bincount(places, minlength=self.codebooks * self.size).view(self.codebooks, -1)

    def code(self, batch: Batch) -> Terms:
        """`indices` of the codes."""
        return {"indices": self.indices(batch.seen)}


class Alternating(Autoencoder):
    """Wiring of a model with critics. Each step is one step of the critics, then one of all else.

    Each side has an optimizer of its own. The pair counts as one step of the run.
    """

    def __init__(self, net: Net, reconstruction: Reconstruction, latent_dim: Count) -> None:
        super().__init__(net, reconstruction, latent_dim)
        self.automatic_optimization = False

    @property
    def critics(self) -> nn.Module:
        """The part that the first optimizer trains."""
        raise NotImplementedError(f"{type(self).__name__} has no critics")

    def critic_loss(self, batch: Batch) -> Tensor:
        """Return what the critics minimise. No gradient of it may reach the autoencoder."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss of its critics")

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        randomness.seed(self.device, "train", self.seed, self.current_epoch, batch_idx, self.global_rank)
        first, second = self.optimizers()  # type: ignore[attr-defined]
        first._on_before_step = first._on_after_step = lambda: None  # these would count another step of the run
        first.zero_grad()
        self.manual_backward(batch.weight * self.critic_loss(batch))
        first.step()

        terms = self.loss(batch)
        second.zero_grad()
        self.manual_backward(batch.weight * terms["loss"])
        second.step()
        self._step_schedulers("step", batch_idx)
        return {"terms": terms}

    def configure_optimizers(self) -> Any:
        critics = {id(p) for p in self.critics.parameters()}
        # The reconstruction term comes last, as it does in the optimizer state of runs of version 0.
        parts = sorted(self.children(), key=lambda part: id(part) == id(self.reconstruction))
        rest = dict.fromkeys(p for part in parts for p in part.parameters() if p.requires_grad and id(p) not in critics)
        optimizers = [self.optimizer_of(self.critics.parameters()), self.optimizer_of(rest)]
        self._schedules = [entry for o in optimizers for entry in descriptions(self.scheduler, o, self.trainer)]
        return optimizers, [entry["scheduler"] for entry in self._schedules]

    def on_train_epoch_end(self) -> None:
        self._step_schedulers("epoch", self.current_epoch)

    def _step_schedulers(self, interval: str, index: int) -> None:
        """Step the schedulers of an interval. Lightning leaves this to a model that steps its own optimizers."""
        for entry in self._schedules:
            if entry["interval"] == interval and (index + 1) % entry["frequency"] == 0:
                watches = (self.trainer.callback_metrics[entry["monitor"]],) if entry["reduce_on_plateau"] else ()
                entry["scheduler"].step(*watches)


def draw(mu: Tensor, logvar: Tensor) -> Tensor:
    """Draw from normal distributions: mu + exp(logvar / 2) e with e ~ N(0, I)."""
    return mu + (logvar / 2).exp() * torch.randn_like(mu)


def log_ratio(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(z; 0, I) - log N(z; mu, exp(logvar)) (B,) of codes (B, D)."""
    return ((z - mu).square() / logvar.exp() + logvar - z.square()).sum(1) / 2


def kl(mu: Tensor, logvar: Tensor, prior: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || prior) in nats, summed over the units of a code, (B,). See `kl_per_unit`."""
    return kl_per_unit(mu, logvar, prior).flatten(1).sum(1)


def kl_per_unit(mu: Tensor, logvar: Tensor, prior: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return the KL of each unit: ((mu - m)² + exp(logvar)) / exp(v) - 1 + v - logvar, halved.

    `prior` holds m and v, the means and log variances of the prior. Without it the prior is N(0, I).
    """
    if prior is None:
        return (mu.square() + logvar.exp() - 1 - logvar) / 2
    m, v = prior
    return (((mu - m).square() + logvar.exp()) / v.exp() - 1 + v - logvar) / 2


def perplexity(uses: Tensor) -> Tensor:
    """Return exp of the entropy of the use of entries (codebooks, size), averaged over codebooks.

    If the entries of a codebook are used equally often, it is their number.
    """
    share = uses / uses.sum(1, keepdim=True)
    mean: Tensor = torch.special.entr(share).sum(1).exp().mean()
    return mean


def standard_normal(model: Autoencoder, n: int) -> Tensor:
    """Draw `n` codes (n, *code_shape) from N(0, I), on the model's device and in its precision."""
    like = next(model.parameters())
    return torch.randn(n, *model.code_shape, device=like.device, dtype=like.dtype)
