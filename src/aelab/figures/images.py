"""Figures of images, and of the weights of the first layer."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from aelab import randomness
from aelab.composition.needs import needs
from aelab.composition.trained import Trained
from aelab.data.drawing import REACH, draw
from aelab.errors import Unsupported
from aelab.figures.sheet import COLUMNS, differences, sheet
from aelab.runs.run import Run
from aelab.samplers import GMM, KDE, Autoregressive, Gaussian, Sampler


def reconstructions(trained: Trained, run: Run) -> Figure:
    """Draw clean images, what the encoder saw if that differs, their reconstructions, and the error of each pixel.

    The images are spread over the classes. Of grey images, red pixels are too bright and blue pixels too dark. Of
    colour images, red is the magnitude of the error.
    """
    batch = trained.examples(COLUMNS)
    image, pictures = trained.model.reconstruct(batch), trained.data.pictures
    rows = {"clean": pictures(batch.x), "seen": pictures(batch.seen), "reconstruction": pictures(image)}
    if torch.equal(batch.seen, batch.x.nan_to_num(0)):
        del rows["seen"]
    if trained.data.domain != "tokens":
        rows["error"] = _errors(image - batch.x, trained.data.domain)
    return sheet(list(rows.values()), list(rows))


def _errors(difference: Tensor, domain: str) -> Tensor:
    """Return differences as pictures: of images by their own colours, of other data as real numbers around 0."""
    if difference.ndim == 4:
        return differences(difference)
    return draw(difference * (REACH if domain == "unit" else 1), "real")


def priors(trained: Trained, run: Run) -> Figure:
    """Draw images sampled from the prior, and from densities fitted to the codes.

    In the rows of the prior, a conditional model has one class per column.
    """
    rows, labels = [], []
    if trained.model.generative:
        randomness.seed(trained.device, "pictures")
        classes = min(trained.data.num_classes or COLUMNS, COLUMNS)
        y = torch.arange(4 * COLUMNS, device=trained.device) % COLUMNS % classes
        rows += trained.model.sample(4 * COLUMNS, y).split(COLUMNS)
        labels += ["prior", *[""] * 3]
    fitted: dict[str, Sampler] = {
        "normal": Gaussian(),
        "10 normals": GMM(10),
        "KDE": KDE(),
        "GRU": Autoregressive(128, 5),
    }
    for name, sampler in fitted.items():
        try:
            rows += sampler(trained, 2 * COLUMNS).split(COLUMNS)
            labels += [name, ""]
        except Unsupported:
            continue
    if not rows:
        raise Unsupported("the model has no prior, and decodes no codes")
    return sheet([trained.data.pictures(row) for row in rows], labels)


@needs("numbers")
def filters(trained: Trained, run: Run) -> Figure:
    """Draw the weights of the first 100 units of the first layer that is linear or a convolution of images.

    They are an image for each unit of a linear layer, and a kernel for each unit of a convolution. Weights
    on colours are shown in colour, with grey for zero.
    """
    layers = [m for m in trained.model.encoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    channels, *sizes = trained.data.shape
    if not layers:
        raise Unsupported("no layer of the encoder has weights that are pictures")
    weight = layers[0].weight.detach()
    if isinstance(layers[0], nn.Linear):
        if weight.shape[1] % math.prod(sizes) or weight.shape[1] < math.prod(trained.data.shape):
            raise Unsupported("the first layer does not see a whole datum")
        weight = weight.view(len(weight), -1, *sizes)
    images = weight[:100, :channels]
    if images.ndim != 4:
        scale = images.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, *[1] * (images.ndim - 1))
        return sheet(draw(REACH * images / scale, "real").cpu().split(COLUMNS))
    images = images if images.shape[1] == 3 else images.mean(1, keepdim=True)
    images = images / images.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    pictures = images.cpu() / 2 + 0.5 if images.shape[1] == 3 else differences(images)
    return sheet(pictures.split(COLUMNS))


def strangest(trained: Trained, run: Run) -> Figure:
    """Draw the test data with the least and the greatest error, each above its reconstruction.

    The error is squared, and that of tokens is the share of wrong ones.
    """
    x, images = trained.images("test")[0], trained.reconstructions("test")[0]
    errors = trained.data.errors(images, x)
    order = (errors["sse"] if "sse" in errors else -errors["accuracy"]).argsort()
    least, most = order[:COLUMNS], order.flip(0)[:COLUMNS]
    rows = [trained.data.pictures(row) for row in (x[least], images[least], x[most], images[most])]
    return sheet(rows, ["least error", "", "greatest error", ""])
