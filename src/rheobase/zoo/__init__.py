"""The networks of the papers, and a vision transformer; each function returns an untrained ``nn.Module``.

An argument with another value than those listed is a ModelError.
"""

from rheobase.zoo.mobilenet import mobilenet
from rheobase.zoo.resnet import resnet18, resnet20, resnet34, resnet50, resnet101
from rheobase.zoo.vgg import vgg16
from rheobase.zoo.vit import vit

__all__ = ["mobilenet", "resnet18", "resnet20", "resnet34", "resnet50", "resnet101", "vgg16", "vit"]
