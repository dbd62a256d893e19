"""The codes of a trained run as data, for an autoencoder on top of it. A code of D numbers is an image of 1×1×D.

Bengio, Lamblin, Popovici & Larochelle, Greedy layer-wise training of deep networks, 2007.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aelab.data.base import DataModule
from aelab.data.images import Images
from aelab.data.loader import as_floats
from aelab.errors import UserError


@dataclass(eq=False, kw_only=True)
class Codes(Images):
    """`root` is the folder of the run. Its images are encoded clean, and each code stays in the split of its image.

    Raises UserError for codes outside [0, 1], because no reconstruction reaches those.
    """

    below: DataModule
    """The data of the run. `aelab.composition.build` supplies it, and `encode`."""
    encode: Callable[[Tensor], Tensor]
    """Maps images (B, C, H, W) in [0, 1] to codes (B, …), by the model of the run."""

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        self.below.setup()
        self.class_names = self.below.class_names
        pixels, labels, _ = self.below.splits["train" if train else "test"]
        codes = []
        with torch.no_grad():
            for index in torch.arange(len(pixels)).split(self.eval_batch_size):
                items = torch.stack([pixels[i] for i in index.tolist()])
                # Grey values are encoded as they are, also where training draws bits of them.
                x = as_floats(items) if self.below.domain == "unit" else self.below.target(items, torch.Generator())
                x = x.nan_to_num(0) if self.below.missing else x
                codes.append(self.encode(x).flatten(1).float().cpu())
        z = torch.cat(codes)
        if z.min() < 0 or z.max() > 1:
            raise UserError(
                f"the codes of {self.root} lie in [{z.min():.3g}, {z.max():.3g}], but an autoencoder on top needs "
                "codes in [0, 1]: train that run with model.code_activation=Sigmoid"
            )
        return as_images(z), labels


def as_images(z: Tensor) -> Tensor:
    """Return codes (B, D) as images (B, 1, 1, D), which is what the next autoencoder of a stack takes."""
    return z[:, None, None, :]
