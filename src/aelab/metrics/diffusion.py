"""What the code and the noise of a diffusion autoencoder hold."""

from dataclasses import dataclass

import torch

from aelab import randomness
from aelab.composition.trained import Trained
from aelab.errors import Unsupported
from aelab.models.diffusion_ae import DiffusionAE
from aelab.noise import NoNoise
from aelab.ranges import Count


@dataclass(frozen=True)
class Diffusion:
    """Errors of a diffusion autoencoder, averaged over the first `images` test data, without noise.

    - `loss/code`: the loss with the code of each datum, over `times` draws of time and noise for each;
    - `loss/no_code`: the same with codes of 0, if the model knows these (model.drop_code above 0);
    - `loss/other_code`: the same with the code of another datum of the batch;
    - `sse/inverted`: squared error of the reconstruction from the datum's own x_T;
    - `sse/drawn`: squared error of what the code gives with an x_T that is drawn.
    """

    images: Count
    times: Count

    @torch.no_grad()
    def __call__(self, trained: Trained) -> dict[str, float]:
        model, sums, images = trained.model, dict[str, float](), 0
        if not isinstance(model, DiffusionAE):
            raise Unsupported("it is of model=diffusion_ae")
        for batch in trained.batches("test", NoNoise(), self.images):
            z = model.encode(batch.x)
            codes = {"code": z, "other_code": z.roll(1, 0)}
            codes |= {"no_code": torch.zeros_like(z)} if model.drop_code else {}
            found = {}
            for name, code in codes.items():
                randomness.seed(trained.device, "diffusion", images)  # the same times and noise for all three
                errors = torch.stack([model.error(code, batch) for _ in range(self.times)])
                found[f"loss/{name}"] = errors.mean(0)
            shown = {"inverted": model.decode(z, x_T=model.invert(batch.x, z)), "drawn": model.generate(z)}
            found |= {f"sse/{name}": trained.data.errors(data, batch.x)["sse"] for name, data in shown.items()}
            sums = {name: sums.get(name, 0.0) + float(value.double().sum()) for name, value in found.items()}
            images += batch.x.shape[0]
        return {name: value / images for name, value in sums.items()}
