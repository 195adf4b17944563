"""MobileNet: alternating depthwise and pointwise convolutions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rheobase.core.checks import check_choice, check_whole
from rheobase.core.errors import ModelError
from rheobase.zoo.parts import Stem, initialise

# width and stride of each block (Howard et al. 2017, Table 1)
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class _Separable(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise 1x1 convolution."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, in_planes, 3, stride=stride, padding=1, groups=in_planes, bias=False)
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv2 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)))


class _MobileNet(nn.Module):
    def __init__(self, num_classes: int, stem: Stem) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=1 if stem == "cifar" else 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        layers, channels = [], 32
        for planes, stride in _BLOCKS:
            layers.append(_Separable(channels, planes, stride))
            channels = planes
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


def mobilenet(num_classes: int = 10, stem: Stem = "cifar") -> nn.Module:
    """MobileNet, version 1, of full width and with ReLU (Howard et al. 2017, Table 1).

    The network of SNN Calibration (Li et al. 2021) and FTBC (Wu et al. 2024, appendix B and Table 8). Its only pooling
    is the global average. Input [B, 3, 32, 32], or [B, 3, 224, 224] with ``stem="imagenet"``; any size runs.
    Parameter names are those of the authors' CIFAR code: ``conv1 bn1 layers.{0..12}.{conv1,bn1,conv2,bn2} linear``,
    where ``conv1`` of a block is depthwise and ``conv2`` pointwise.

    Args:
        num_classes: number of classes.
        stem: the first convolution has stride 1 (``"cifar"``) or 2 (``"imagenet"``).

    Example:
        >>> import torch
        >>> mobilenet().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    check_whole(num_classes, "num_classes", error=ModelError)
    check_choice(stem, Stem, "stem", error=ModelError)
    return _MobileNet(num_classes, stem)
