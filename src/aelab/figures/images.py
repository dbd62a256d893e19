"""Figures of images, and of the weights of the first layer."""

import torch
from matplotlib.figure import Figure
from torch import nn

from aelab import randomness
from aelab.composition.trained import Trained
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
    if torch.equal(batch.seen, batch.x):
        del rows["seen"]
    rows["error"] = differences(image - batch.x)
    return sheet(list(rows.values()), list(rows))


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
    return sheet([trained.data.pictures(row) for row in rows], labels)


def filters(trained: Trained, run: Run) -> Figure:
    """Draw the weights of the first 100 units of the first layer.

    They are an image for each unit of a linear layer, and a kernel for each unit of a convolution. Weights
    on colours are shown in colour, with grey for zero.
    """
    layers = [m for m in trained.model.encoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    channels, height, width = trained.data.shape
    weight = layers[0].weight.detach()
    if isinstance(layers[0], nn.Linear):
        if weight.shape[1] % (height * width):
            raise Unsupported("the first layer does not see a whole image")
        weight = weight.view(len(weight), -1, height, width)
    images = weight[:100, :channels]
    images = images if images.shape[1] == 3 else images.mean(1, keepdim=True)
    images = images / images.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    pictures = images.cpu() / 2 + 0.5 if images.shape[1] == 3 else differences(images)
    return sheet(pictures.split(COLUMNS))


def strangest(trained: Trained, run: Run) -> Figure:
    """Draw the test images with the least and the greatest squared error, each above its reconstruction."""
    x, images = trained.images("test")[0], trained.reconstructions("test")[0]
    order = (images - x).square().flatten(1).sum(1).argsort()
    least, most = order[:COLUMNS], order.flip(0)[:COLUMNS]
    rows = [trained.data.pictures(row) for row in (x[least], images[least], x[most], images[most])]
    return sheet(rows, ["least error", "", "greatest error", ""])
