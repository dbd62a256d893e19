"""CIFAR-10: 60,000 colour photographs, 3×32×32. Krizhevsky, 2009."""

import torch
from torch import Tensor
from torchvision import datasets

from aelab.data.download import from_torchvision
from aelab.data.images import Images


class CIFAR10(Images):
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        data = from_torchvision(datasets.CIFAR10, self.root, train)
        self.class_names = list(data.classes)
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)
