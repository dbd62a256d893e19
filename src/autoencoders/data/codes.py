"""The codes of a trained run as data, for an autoencoder on top of it: a code of D numbers is an image of 1×1×D.

Bengio, Lamblin, Popovici & Larochelle, Greedy layer-wise training of deep networks, 2007.
"""

import torch
from torch import Tensor

from autoencoders import build
from autoencoders.classifier import as_images, check_unconditional
from autoencoders.data.base import Images
from autoencoders.data.loader import as_floats
from autoencoders.errors import UserError
from autoencoders.run import Run


class Codes(Images):
    """`root` is the folder of the run. Its images are encoded clean, and each stays in its split.

    Raises UserError for codes that leave [0, 1], which no reconstruction term would reach.
    """

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        run = Run(self.root, self.trust)
        model = run.load_autoencoder().to(run.device)
        below = build.data(run.config)
        below.setup()
        pixels, labels, _ = below.splits["train" if train else "test"]
        codes = []
        with torch.no_grad():
            for index in torch.arange(len(pixels)).split(self.eval_batch_size):
                x = as_floats(torch.stack([pixels[i] for i in index.tolist()]).to(run.device))
                codes.append(model.encode(x).flatten(1).float().cpu())
        z = torch.cat(codes)
        if z.min() < 0 or z.max() > 1:
            raise UserError(
                f"the codes of {self.root} lie in [{z.min():.3g}, {z.max():.3g}], and a layer above wants them in "
                "[0, 1]: train that run with model.code_activation=Sigmoid"
            )
        return as_images(z), labels


def code_shape(run: Run) -> list[int]:
    """1, 1, D of the codes of a run."""
    model = run.load_autoencoder()
    check_unconditional(model)
    with torch.no_grad():
        return [1, 1, model.encode(torch.zeros(1, *run.config.data.shape)).numel()]
