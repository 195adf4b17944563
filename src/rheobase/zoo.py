"""Networks as the papers use them; each function returns an untrained ``nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["resnet20"]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around an option-A shortcut, which has no parameters."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.planes = planes
        self.subsample = stride != 1 or in_planes != planes

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.subsample:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))
        return F.relu(out + x)


class _CifarResNet(nn.Module):
    """Stem, three stages of 16, 32 and 64 channels, global average pool, classifier."""

    def __init__(self, blocks: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks[0], stride=1)
        self.layer2 = self._stage(16, 32, blocks[1], stride=2)
        self.layer3 = self._stage(32, 64, blocks[2], stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
        first = _BasicBlock(in_planes, planes, stride)
        return nn.Sequential(first, *(_BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


def resnet20(num_classes: int = 10) -> nn.Module:
    """CIFAR ResNet-20 with option-A shortcuts (He et al. 2016, "Deep Residual Learning", section 4.2).

    Input [B, 3, 32, 32]. Parameter names are those of akamaster/pytorch_resnet_cifar10:
    ``conv1 bn1 layer{1,2,3}.{0,1,2}.{conv1,bn1,conv2,bn2} linear``.

    Args:
        num_classes: width of the classifier.

    Example:
        >>> import torch
        >>> resnet20().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _CifarResNet((3, 3, 3), num_classes)
