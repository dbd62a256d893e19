"""Fashion-MNIST: 70,000 pictures of clothing, 1×28×28. Xiao, Rasul & Vollgraf, 2017, arXiv:1708.07747."""

from torchvision import datasets

from aelab.data.mnist import MNIST


class FashionMNIST(MNIST):
    source = datasets.FashionMNIST
