"""Data as a function of (seed, iteration). Importing this package makes their short names known to the command line."""

from pt_flows.data.augmentation import ImageAugmentation
from pt_flows.data.cifar10 import CIFAR10
from pt_flows.data.digits import Digits
from pt_flows.data.imagenet import ImageNet
from pt_flows.data.mnist import MNIST, FashionMNIST
from pt_flows.data.one_layer import OneLayer
from pt_flows.data.shapes32 import Shapes32
from pt_flows.data.simulated import Simulated
from pt_flows.data.supervised import ImageRows, Kink, LinearRegression, Text
from pt_flows.data.toy2d import Toy2D
from pt_flows.data.two_domains import TwoDomains

__all__ = [
    "CIFAR10",
    "MNIST",
    "Digits",
    "FashionMNIST",
    "ImageAugmentation",
    "ImageNet",
    "ImageRows",
    "Kink",
    "LinearRegression",
    "OneLayer",
    "Shapes32",
    "Simulated",
    "Text",
    "Toy2D",
    "TwoDomains",
]
