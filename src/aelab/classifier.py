"""Softmax regression on the codes of trained encoders. Fine-tuning trains all of it, or only the head.

    z    = encode_n(… encode_1(seen))                          the code of each layer is the image of the next
    loss = -log softmax(W z + b)_y + weight_decay · |W|²       nats per image

Hinton & Salakhutdinov, Reducing the dimensionality of data with neural networks, 2006; Vincent et al., Stacked
denoising autoencoders, 2010, section 3.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aelab.data.codes import as_images
from aelab.data.loader import Batch
from aelab.errors import UserError
from aelab.models.base import Autoencoder, Objective, Terms
from aelab.ranges import Count, NonNegative


class Softmax(Objective):
    """A classifier: a stack of encoders with a softmax head.

    Logs `cross_entropy` in nats, and `error`, the share of wrong answers.
    """

    encoders: nn.ModuleList

    def __init__(
        self,
        encoders: Sequence[Autoencoder],
        shape: tuple[Count, Count, Count],
        num_classes: Count | None,
        freeze: bool,
        weight_decay: NonNegative,
    ) -> None:
        """Build the head for images of `shape`. With `freeze`, only the head is trained.

        Raises UserError for a conditional encoder, which gets the label as input.
        """
        super().__init__()
        if num_classes is None:
            raise ValueError("data.num_classes is the number of labels, and it is not set: type data.num_classes=…")
        for encoder in encoders:
            check_unconditional(encoder)
        self.frozen, self.weight_decay = freeze, weight_decay
        self.encoders = nn.ModuleList(encoders)
        z = self.features(torch.zeros(1, *shape))
        self.head = nn.Linear(z.shape[1], num_classes)
        parameters = list(self.encoders.parameters())
        gradients = torch.autograd.grad(z.sum(), parameters, allow_unused=True) if z.requires_grad else ()
        for i, parameter in enumerate(parameters):  # no code depends on a decoder, so it is not trained
            parameter.requires_grad_(not freeze and i < len(gradients) and gradients[i] is not None)

    def features(self, x: Tensor) -> Tensor:
        """Return the codes (B, D) of the last encoder, for images (B, C, H, W)."""
        z = x
        for i, encoder in enumerate(self.encoders):
            z = encoder.encode(z if i == 0 else as_images(z)).flatten(1)  # type: ignore[operator]
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            z = self.features(x)
        logits: Tensor = self.head(z)
        return logits

    def loss(self, batch: Batch) -> Terms:
        logits = self(batch.seen)
        cross_entropy = F.cross_entropy(logits, batch.y)
        loss = cross_entropy + self.weight_decay * self.head.weight.square().sum()
        return {"loss": loss, "cross_entropy": cross_entropy, "error": (logits.argmax(1) != batch.y).float().mean()}

    def start_from(self, trained: Sequence[Objective]) -> None:
        """Copy the weights of trained encoders, or all weights of another classifier.

        `trained` lists one objective per encoder, or one classifier.
        """
        targets = [self] if isinstance(trained[0], Softmax) else self.encoders
        for target, source in zip(targets, trained, strict=True):
            target.load_state_dict(source.state_dict())


def check_unconditional(encoder: Autoencoder) -> None:
    """Raise UserError for a conditional encoder, which gets the label as input."""
    if encoder.conditional:
        raise UserError(
            f"the codes of {type(encoder).__name__} are made with the label, so no classifier can learn it from them"
        )
