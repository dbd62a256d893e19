"""MNIST: 70,000 handwritten digits, 1×28×28. LeCun, Bottou, Bengio & Haffner, 1998."""

from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from aelab.data.download import from_torchvision
from aelab.data.images import Images


class MNIST(Images):
    source: Any = datasets.MNIST

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        data = from_torchvision(self.source, self.root, train)
        self.class_names = [name.split(" - ")[0] for name in data.classes]  # MNIST names its classes `7 - seven`
        return data.data.unsqueeze(1), data.targets.to(torch.long)
