"""Residual networks: ResNet-20 for CIFAR, ResNet-18 and 34 of basic blocks, ResNet-50 and 101 of bottlenecks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from rheobase.core.checks import check_choice, check_flag, check_whole
from rheobase.core.errors import ModelError
from rheobase.zoo.parts import POOLS, Pool, Stem, initialise, normalisation

Shortcut = Literal["A", "B"]
ResNetStem = Literal[Stem, "deep"]


class _Subsample(nn.Module):
    """Shortcut of option A: every second pixel, and zeros for new channels; no parameters."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        half = self.new_channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is the identity if the shape is unchanged."""

    expansion: ClassVar[int] = 1

    def __init__(
        self, in_planes: int, planes: int, stride: int, shortcut: Shortcut = "B", batch_norm: bool = True
    ) -> None:
        super().__init__()
        bias = not batch_norm
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=bias)
        self.bn1 = normalisation(planes, batch_norm)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=bias)
        self.bn2 = normalisation(planes, batch_norm)
        self.downsample = _shortcut(in_planes, planes, stride, shortcut, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """The value [B, planes, H, W] of an image or activation."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, and a shortcut; the output has four times ``planes`` channels.

    The stride is that of the 3x3 convolution, as in torchvision, not of the first one as in He et al. 2016.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self, in_planes: int, planes: int, stride: int, shortcut: Shortcut = "B", batch_norm: bool = True
    ) -> None:
        super().__init__()
        bias, out_planes = not batch_norm, self.expansion * planes
        self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=bias)
        self.bn1 = normalisation(planes, batch_norm)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=bias)
        self.bn2 = normalisation(planes, batch_norm)
        self.conv3 = nn.Conv2d(planes, out_planes, 1, bias=bias)
        self.bn3 = normalisation(out_planes, batch_norm)
        self.downsample = _shortcut(in_planes, out_planes, stride, shortcut, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """The value [B, 4 planes, H, W] of an image or activation."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


Block = type[BasicBlock] | type[Bottleneck]


def _shortcut(in_planes: int, out_planes: int, stride: int, shortcut: Shortcut, batch_norm: bool) -> nn.Module:
    """The identity if the shape is unchanged, else the shortcut of option A or B."""
    if stride == 1 and in_planes == out_planes:
        return nn.Identity()
    if shortcut == "A":
        return _Subsample(out_planes - in_planes)
    projection = nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=not batch_norm)
    return nn.Sequential(projection, normalisation(out_planes, batch_norm))


def _stages(
    width: int, blocks: Sequence[int], shortcut: Shortcut, block: Block = BasicBlock, batch_norm: bool = True
) -> Iterator[nn.Sequential]:
    """Stages of blocks; the first block of every stage but the first halves the image and doubles the width."""
    channels = width
    for stage, count in enumerate(blocks):
        planes, made = width * 2**stage, []
        for i in range(count):
            made.append(block(channels, planes, 2 if stage and i == 0 else 1, shortcut, batch_norm))
            channels = block.expansion * planes
        yield nn.Sequential(*made)


class _CifarResNet(nn.Module):
    """Stem, three stages, each twice as wide as the one before, global average pool, classifier."""

    def __init__(self, blocks: Sequence[int], num_classes: int, shortcut: Shortcut, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3 = _stages(width, blocks, shortcut)
        self.linear = nn.Linear(4 * width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class _ResNet(nn.Module):
    """Stem, four stages of 64 to 512 planes with projection shortcuts, global average pool, classifier."""

    def __init__(
        self, block: Block, blocks: Sequence[int], num_classes: int, stem: ResNetStem, pool: Pool, batch_norm: bool
    ) -> None:
        super().__init__()
        self.conv1 = _stem(stem, batch_norm)
        self.bn1 = normalisation(64, batch_norm)
        self.pool = nn.Identity() if stem == "cifar" else POOLS[pool](3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = _stages(64, blocks, "B", block, batch_norm)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        initialise(self)
        for part in self.modules():
            # Without batch norm the variance would double in every block: start from identities (Zhang et al. 2019).
            if isinstance(part, BasicBlock | Bottleneck) and not batch_norm:
                nn.init.zeros_((part.conv2 if isinstance(part, BasicBlock) else part.conv3).weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pool(F.relu(self.bn1(self.conv1(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))


def _stem(stem: ResNetStem, batch_norm: bool) -> nn.Module:
    """The layers before the first batch norm that all stems share."""
    bias = not batch_norm
    if stem == "cifar":
        return nn.Conv2d(3, 64, 3, padding=1, bias=bias)
    if stem == "imagenet":
        return nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=bias)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=bias), normalisation(32, batch_norm), nn.ReLU(inplace=True)),
        *(nn.Conv2d(32, 32, 3, padding=1, bias=bias), normalisation(32, batch_norm), nn.ReLU(inplace=True)),
        nn.Conv2d(32, 64, 3, padding=1, bias=bias),
    )


def _resnet(
    block: Block, blocks: Sequence[int], num_classes: int, stem: ResNetStem, pool: Pool, batch_norm: bool
) -> nn.Module:
    check_whole(num_classes, "num_classes", error=ModelError)
    check_choice(stem, ResNetStem, "stem", error=ModelError)
    check_choice(pool, Pool, "pool", error=ModelError)
    check_flag(batch_norm, "batch_norm", error=ModelError)
    if stem == "cifar" and pool == "max":
        reason = "is 'max', which has no effect: the CIFAR stem has no pooling"
        raise ModelError(reason, where="pool", remedy='leave it out, or choose stem="imagenet" or stem="deep"')
    return _ResNet(block, blocks, num_classes, stem, pool, batch_norm)


def resnet18(
    num_classes: int = 10, stem: ResNetStem = "cifar", pool: Pool = "average", batch_norm: bool = True
) -> nn.Module:
    """ResNet-18 (He et al. 2016, "Deep Residual Learning", Table 1) with projection shortcuts (option B).

    With the CIFAR stem, a 3x3 convolution without pooling, it is the network of QCFS (Bu et al. 2022) and PASCAL
    (appendix A.7); QAC and QVM do not describe their networks. With ``stem="imagenet", pool="max"``, a 7x7 convolution
    and a pooling, both of stride 2, it is the network of DA (section 5.2). ``stem="deep"`` has three 3x3 convolutions
    before the pooling.

    Input [B, 3, 32, 32], or [B, 3, 224, 224] for the other stems; any size runs. Parameter names are torchvision's:
    ``conv1 bn1 layer{1,2,3,4}.{0,...}.{conv1,bn1,conv2,bn2,downsample.{0,1}} fc`` (``conv1.{0,1,3,4,6}`` if deep).
    Weights of torchvision load with ``stem="imagenet", pool="max"``.

    Args:
        num_classes: number of classes.
        stem: the layers before the residual blocks.
        pool: pooling of the stem; the conversion of ``"max"`` needs ``max_pool="gate"`` or ``"average"``.
        batch_norm: if False, convolutions have biases instead, and residual branches start at zero.

    Example:
        >>> import torch
        >>> resnet18().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return _resnet(BasicBlock, (2, 2, 2, 2), num_classes, stem, pool, batch_norm)


def resnet34(
    num_classes: int = 10, stem: ResNetStem = "cifar", pool: Pool = "average", batch_norm: bool = True
) -> nn.Module:
    """ResNet-34 (He et al. 2016, "Deep Residual Learning", Table 1), otherwise as :func:`resnet18`.

    With ``stem="imagenet", pool="max"`` the ReLU network of DA (section 5.2); with ``stem="deep"`` that of SNN
    Calibration (Li et al. 2021) and of FTBC without QCFS (Wu et al. 2024, Table 1), in Table 4 also without batch norm.

    Example:
        >>> import torch
        >>> resnet34(num_classes=1000, stem="deep").eval()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1000])
    """
    return _resnet(BasicBlock, (3, 4, 6, 3), num_classes, stem, pool, batch_norm)


def resnet50(
    num_classes: int = 10, stem: ResNetStem = "cifar", pool: Pool = "average", batch_norm: bool = True
) -> nn.Module:
    """ResNet-50 (He et al. 2016, "Deep Residual Learning", Table 1) of bottlenecks, otherwise as :func:`resnet18`.

    With ``stem="imagenet", pool="max"`` the network of DA (section 5.2), whose weights are torchvision's. Blocks have
    ``conv{1,2,3}`` and ``bn{1,2,3}``.

    Example:
        >>> import torch
        >>> resnet50(num_classes=5).eval()(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 5])
    """
    return _resnet(Bottleneck, (3, 4, 6, 3), num_classes, stem, pool, batch_norm)


def resnet101(
    num_classes: int = 10, stem: ResNetStem = "cifar", pool: Pool = "average", batch_norm: bool = True
) -> nn.Module:
    """ResNet-101 (He et al. 2016, "Deep Residual Learning", Table 1), otherwise as :func:`resnet50`.

    Example:
        >>> import torch
        >>> resnet101(num_classes=5).eval()(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 5])
    """
    return _resnet(Bottleneck, (3, 4, 23, 3), num_classes, stem, pool, batch_norm)


def resnet20(num_classes: int = 10, shortcut: Shortcut = "A", width: int = 16) -> nn.Module:
    """CIFAR ResNet-20 (He et al. 2016, "Deep Residual Learning", section 4.2).

    Papers use this name for three networks. The defaults are those of He et al. The released code of QCFS (Bu et al.
    2022), and thus FTBC (+QCFS), has projections, ``shortcut="B"``. That of SNN Calibration (Li et al. 2021), and thus
    FTBC without QCFS, is also four times as wide, ``shortcut="B", width=64`` ("not a standard ResNet-20", QVM Table 3).
    QAC and QVM do not describe their networks.

    Input [B, 3, 32, 32]. Parameter names are those of akamaster/pytorch_resnet_cifar10:
    ``conv1 bn1 layer{1,2,3}.{0,1,2}.{conv1,bn1,conv2,bn2} linear``, and with option B
    ``layer{2,3}.0.downsample.{0,1}``.

    Args:
        num_classes: number of classes.
        shortcut: the shortcut where the shape changes: ``"A"`` subsamples and pads with zeros, ``"B"`` is a 1x1
            convolution with batch norm.
        width: channels of the first stage, an even number; the second has twice, the third four times as many.

    Example:
        >>> import torch
        >>> resnet20().eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    check_whole(num_classes, "num_classes", error=ModelError)
    check_choice(shortcut, Shortcut, "shortcut", error=ModelError)
    check_whole(width, "width", error=ModelError)
    if width % 2:
        remedy = "use an even number, because option A pads half of the new channels on each side"
        raise ModelError(f"is {width}", where="width", remedy=remedy)
    return _CifarResNet((3, 3, 3), num_classes, shortcut, width)
