"""Principal component analysis: the linear autoencoder that other autoencoders are compared with."""

from typing import Self

import numpy as np
import sklearn.decomposition
import torch
from torch import Tensor

from aelab.composition.trained import Trained

IMAGES = 60_000  # at most this many training images, drawn at random


class PCA:
    """Projects data (B, C, *sizes) on the first `dimensions` principal components. The result may leave [0, 1].

    What is missing is 0.
    """

    def __init__(self, x: Tensor, dimensions: int) -> None:
        """Fit the components to training data `x` (N, C, *sizes)."""
        flat = x.flatten(1).nan_to_num(0).numpy()
        self.fitted = sklearn.decomposition.PCA(min(dimensions, *flat.shape), random_state=0).fit(flat)

    @classmethod
    def of(cls, trained: Trained) -> Self:
        """Return the PCA of clean training data, with as many components as a code of the model has numbers."""
        return cls(trained.images("train", IMAGES)[0], trained.codes("test")[0].shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten(1).nan_to_num(0).cpu().numpy()
        projected = self.fitted.inverse_transform(self.fitted.transform(flat))
        return torch.from_numpy(np.asarray(projected, dtype=np.float32)).view_as(x).to(x.device)
