"""Small networks for the converter's tests, each in the natural style of its family.

The style (functional or module activations, in-place, reuse) is the point; the sizes are not.
``GRID`` must convert, ``MaxPoolVGG`` once a max-pool choice is made, ``UNSUPPORTED`` must be refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase import QCFS

CLASSES = 5


# --- residual networks ----------------------------------------------------------------------------


class OptionABlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.planes = planes
        self.subsample = stride != 1 or in_planes != planes

    def shortcut(self, x: Tensor) -> Tensor:
        if not self.subsample:
            return x
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4), "constant", 0)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        out = F.relu(out)
        return out


class OptionAResNet(nn.Module):
    """CIFAR ResNet: functional ReLU, parameter-free shortcuts, pooling over a size read at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(OptionABlock(4, 4), OptionABlock(4, 4))
        self.layer2 = nn.Sequential(OptionABlock(4, 8, 2), OptionABlock(8, 8))
        self.layer3 = nn.Sequential(OptionABlock(8, 16, 2), OptionABlock(16, 16))
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer1(out)
        out = self.layer2(out)
        out = self.layer3(out)
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


class ReusedReluBlock(nn.Module):
    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x

        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)

        out = self.conv2(out)
        out = self.bn2(out)

        if self.downsample is not None:
            identity = self.downsample(x)

        out += identity
        out = self.relu(out)

        return out


class ReusedReluResNet(nn.Module):
    """torchvision's ResNet: one in-place ReLU module per block, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(ReusedReluBlock(8, 8), ReusedReluBlock(8, 8))
        downsample = nn.Sequential(nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.BatchNorm2d(16))
        self.layer2 = nn.Sequential(ReusedReluBlock(8, 16, 2, downsample), ReusedReluBlock(16, 16))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.fc(x)


class PreActBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv1(out)
        out = self.conv2(torch.relu(self.bn2(out)))
        return torch.add(out, shortcut)


class PreActResNet(nn.Module):
    """Pre-activation ResNet: the residual stream is a running sum that no activation closes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.layers = nn.Sequential(PreActBlock(8, 8), PreActBlock(8, 16, 2), PreActBlock(16, 16))
        self.bn = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(self.conv1(x))
        out = torch.relu(self.bn(out))
        out = F.adaptive_avg_pool2d(out, 1).flatten(1)
        return self.linear(out)


# --- plain and mobile networks --------------------------------------------------------------------


def vgg_features(pool: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in (8, 0, 12, 12, 0, 16, 0):
        if not width:
            layers.append(pool())
            continue
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """VGG with average pooling: everything a module in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg_features(lambda: nn.AvgPool2d(2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(16 * 2 * 2, 32),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(32, 16),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(16, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = torch.flatten(x, 1)
        return self.classifier(x)


class MaxPoolVGG(nn.Module):
    """VGG with max pooling: converting needs a choice of what a maximum becomes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg_features(lambda: nn.MaxPool2d(kernel_size=2, stride=2))
        self.classifier = nn.Linear(16 * 2 * 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


class ConvBNReLU6(nn.Sequential):
    def __init__(self, in_planes: int, planes: int, kernel_size: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_planes, planes, kernel_size, stride, (kernel_size - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(planes),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = inp * expand_ratio
        self.use_res_connect = stride == 1 and inp == oup
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvBNReLU6(inp, hidden, kernel_size=1))
        layers += [
            ConvBNReLU6(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, oup, 1, bias=False),
            nn.BatchNorm2d(oup),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals: depthwise convolutions, ReLU6, bottlenecks without an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvBNReLU6(3, 8, stride=2),
            InvertedResidual(8, 4, 1, expand_ratio=1),
            InvertedResidual(4, 8, 2, expand_ratio=3),
            InvertedResidual(8, 8, 1, expand_ratio=2),
            ConvBNReLU6(8, 16, kernel_size=1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.mean([2, 3])
        return self.classifier(x)


# --- networks that join branches ------------------------------------------------------------------


class DenseLayer(nn.Module):
    def __init__(self, in_planes: int, growth_rate: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, 2 * growth_rate, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * growth_rate)
        self.conv2 = nn.Conv2d(2 * growth_rate, growth_rate, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return torch.cat([x, out], 1)


class Transition(nn.Module):
    def __init__(self, in_planes: int, planes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.relu(self.norm(x))))


class DenseNet(nn.Module):
    """Dense connections: batch norm on concatenated features, which no convolution before it can absorb."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.dense1 = nn.Sequential(DenseLayer(8, 4), DenseLayer(12, 4))
        self.trans1 = Transition(16, 8)
        self.dense2 = nn.Sequential(DenseLayer(8, 4), DenseLayer(12, 4))
        self.norm = nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.dense2(self.trans1(self.dense1(self.conv0(x))))
        out = F.relu(self.norm(features), inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        out = torch.flatten(out, 1)
        return self.classifier(out)


class BasicConv2d(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.bn(x)
        return F.relu(x, inplace=True)


class InceptionBlock(nn.Module):
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 4, 1)
        self.branch3x3_1 = BasicConv2d(in_channels, 4, 1)
        self.branch3x3_2 = BasicConv2d(4, 4, 3, padding=1)
        self.branch5x5_1 = BasicConv2d(in_channels, 4, 1)
        self.branch5x5_2 = BasicConv2d(4, 4, (1, 5), padding=(0, 2))
        self.branch5x5_3 = BasicConv2d(4, 4, (5, 1), padding=(2, 0))
        self.branch_pool = BasicConv2d(in_channels, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch1x1 = self.branch1x1(x)
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch5x5 = self.branch5x5_3(self.branch5x5_2(self.branch5x5_1(x)))
        branch_pool = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branch_pool = self.branch_pool(branch_pool)
        outputs = [branch1x1, branch3x3, branch5x5, branch_pool]
        return torch.cat(outputs, 1)


class Inception(nn.Module):
    """Parallel branches of different depth and kernel, one of them an average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = BasicConv2d(3, 8, 3)
        self.block1 = InceptionBlock(8)
        self.block2 = InceptionBlock(16)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(p=0.5)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(self.stem(x))
        x = F.avg_pool2d(x, kernel_size=2)
        x = self.avgpool(self.block2(x))
        x = self.dropout(x)
        x = torch.flatten(x, 1)
        return self.fc(x)


class DoubleConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class UNet(nn.Module):
    """Encoder and decoder with skips; up by transposed convolution, then by interpolation. Gives a map."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = DoubleConv(3, 4)
        self.down1 = DoubleConv(4, 8)
        self.down2 = DoubleConv(8, 16)
        self.pool = nn.AvgPool2d(2)
        self.up1 = nn.ConvTranspose2d(16, 8, kernel_size=2, stride=2)
        self.up1_bn = nn.BatchNorm2d(8)
        self.conv1 = DoubleConv(16, 8)
        self.conv2 = DoubleConv(12, 4)
        self.outc = nn.Conv2d(4, CLASSES, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(self.pool(x1))
        x3 = self.down2(self.pool(x2))
        x = F.relu(self.up1_bn(self.up1(x3)))
        x = self.conv1(torch.cat([x2, x], dim=1))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv2(torch.cat([x1, x], dim=1))
        return self.outc(x)


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
        )

    @staticmethod
    def channel_shuffle(x: Tensor, groups: int) -> Tensor:
        batchsize, num_channels, height, width = x.size()
        channels_per_group = num_channels // groups
        x = x.view(batchsize, groups, channels_per_group, height, width)
        x = torch.transpose(x, 1, 2).contiguous()
        return x.view(batchsize, num_channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, 1)
        out = torch.cat((x1, self.branch(x2)), dim=1)
        return self.channel_shuffle(out, 2)


class SplitPermuteNet(nn.Module):
    """ShuffleNet's split and channel shuffle, a dilated and a 'same' convolution, scalar arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.stage = nn.Sequential(ShuffleUnit(8), ShuffleUnit(8))
        self.dilated = nn.Conv2d(8, 12, 3, padding=2, dilation=2, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.same = nn.Conv2d(12, 12, 3, padding="same")
        self.relu = nn.ReLU()
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.stage(x)
        x = self.relu(self.bn(self.dilated(x)))
        x = self.relu(self.same(x) * 0.5)
        x = x - 0.1
        x = x.mean([2, 3])
        return self.fc(x)


# --- other ranks ----------------------------------------------------------------------------------


class Conv1dNet(nn.Module):
    """One-dimensional signals and the activation as a tensor method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(2, 8, kernel_size=5, padding=2)
        self.bn1 = nn.BatchNorm1d(8)
        self.conv2 = nn.Conv1d(8, 12, kernel_size=3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm1d(12)
        self.conv3 = nn.Conv1d(12, 16, kernel_size=3, padding=1)
        self.bn3 = nn.BatchNorm1d(16)
        self.pool = nn.AvgPool1d(2)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.bn1(self.conv1(x)).relu())
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x)).relu()
        return self.fc(x.mean(-1))


class MLP(nn.Module):
    """Dense layers; the activation as ReLU, as Hardtanh from zero and as a clamp."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12 * 12, 32)
        self.bn1 = nn.BatchNorm1d(32)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(32, 24)
        self.bn2 = nn.BatchNorm1d(24)
        self.act2 = nn.Hardtanh(0, 2)
        self.fc3 = nn.Linear(24, 16)
        self.fc4 = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = self.act1(self.bn1(self.fc1(x)))
        x = self.act2(self.bn2(self.fc2(x)))
        x = torch.clamp(self.fc3(x), min=0)
        return self.fc4(x)


class QCFSResNet(nn.Module):
    """A residual network of quantised activations with trained thresholds, one for the layer or one a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.act1 = QCFS(levels=4, threshold=1.5)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.act2 = QCFS(levels=8, threshold=torch.linspace(0.5, 2.0, 6))
        self.pool = nn.AvgPool2d(2)
        self.fc = nn.Linear(6 * 6 * 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)) + x)
        return self.fc(self.pool(x).flatten(1))


class Conv3dNet(nn.Module):
    """Volumes, the in-place functional activation, a mean over three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(4)
        self.pool = nn.AvgPool3d(2)
        self.conv2 = nn.Conv3d(4, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(8)
        self.conv3 = nn.Conv3d(8, 8, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False)
        self.bn3 = nn.BatchNorm3d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.pool(x)
        x = F.relu_(self.bn2(self.conv2(x)))
        x = F.relu_(self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3, 4)))


GRID: dict[str, Callable[[], nn.Module]] = {
    network.__name__: network
    for network in (
        OptionAResNet,
        ReusedReluResNet,
        PreActResNet,
        VGG,
        MobileNetV2,
        DenseNet,
        Inception,
        UNet,
        Conv1dNet,
        MLP,
        Conv3dNet,
        SplitPermuteNet,
        QCFSResNet,
    )
}

# The shape of one sample.
INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "OptionAResNet": (3, 16, 16),
    "ReusedReluResNet": (3, 12, 12),
    "PreActResNet": (3, 12, 12),
    "VGG": (3, 16, 16),
    "MobileNetV2": (3, 16, 16),
    "DenseNet": (3, 12, 12),
    "Inception": (3, 12, 12),
    "UNet": (3, 16, 16),
    "Conv1dNet": (2, 24),
    "MLP": (1, 12, 12),
    "Conv3dNet": (1, 8, 8, 8),
    "SplitPermuteNet": (3, 16, 16),
    "QCFSResNet": (3, 12, 12),
    "MaxPoolVGG": (3, 16, 16),
}

# Activation calls in one forward.
SITES: dict[str, int] = {
    "OptionAResNet": 1 + 6 * 2,
    "ReusedReluResNet": 1 + 4 * 2,
    "PreActResNet": 3 * 2 + 1,
    "VGG": 4 + 2,
    "MobileNetV2": 1 + 1 + 2 + 2 + 1,
    "DenseNet": 2 * 2 + 1 + 2 * 2 + 1,
    "Inception": 1 + 2 * 7,
    "UNet": 3 * 2 + 1 + 2 * 2,
    "Conv1dNet": 3,
    "MLP": 3,
    "Conv3dNet": 3,
    "SplitPermuteNet": 1 + 2 * 2 + 2,
    "QCFSResNet": 2,
    "MaxPoolVGG": 4,
}


# --- networks to be refused -----------------------------------------------------------------------


class OneActivation(nn.Module):
    """Convolution, batch norm, ReLU, convolution, the given activation, mean, classifier."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.act = activation
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.act(self.conv2(x))
        return self.fc(x.mean([2, 3]))


class SqueezeExcite(nn.Module):
    """A ReLU network whose channels a sigmoid gates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.reduce = nn.Conv2d(8, 4, 1)
        self.expand = nn.Conv2d(4, 8, 1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        scale = F.adaptive_avg_pool2d(x, 1)
        scale = torch.sigmoid(self.expand(F.relu(self.reduce(scale))))
        x = scale * x
        return self.fc(x.mean([2, 3]))


class SoftmaxAttention(nn.Module):
    """Attention pooling; the softmax comes before any product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.score = nn.Linear(8, 1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.conv(x)).flatten(2).transpose(1, 2)
        weights = torch.softmax(self.score(tokens), dim=1)
        return self.fc((weights * tokens).sum(1))


class LayerNormMLP(nn.Module):
    """A dense network normalised by each sample's own statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Recurrent(nn.Module):
    """A recurrent layer between ReLU layers."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.rnn = layer(8, 8, batch_first=True)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(F.relu(self.embed(x)))
        return self.fc(F.relu(out[:, -1]))


class DataDependent(nn.Module):
    """The path taken depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 16)
        self.fc3 = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # noqa: SIM108
            x = F.relu(self.fc1(x))
        else:
            x = F.relu(self.fc2(self.fc1(x)))
        return self.fc3(x)


class NoActivation(nn.Module):
    """Linear from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(x)).mean([2, 3]))


class ActivationProduct(nn.Module):
    """Two activations multiplied with one another."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(12, 16)
        self.right = nn.Linear(12, 16)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.left(x)) * F.relu(self.right(x)))


# Factory, shape of one sample, word expected in the message.
UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "SiLU": (lambda: OneActivation(nn.SiLU()), (3, 8, 8), "silu"),
    "GELU": (lambda: OneActivation(nn.GELU()), (3, 8, 8), "gelu"),
    "LeakyReLU": (lambda: OneActivation(nn.LeakyReLU(0.1)), (3, 8, 8), "leaky_relu"),
    "SqueezeExcite": (SqueezeExcite, (3, 8, 8), "sigmoid"),
    "SoftmaxAttention": (SoftmaxAttention, (3, 8, 8), "softmax"),
    "LayerNorm": (LayerNormMLP, (3, 8, 8), "layer_norm"),
    "LSTM": (lambda: Recurrent(nn.LSTM), (6, 4), "LSTM"),
    "GRU": (lambda: Recurrent(nn.GRU), (6, 4), "GRU"),
    "DataDependent": (DataDependent, (12,), "control flow"),
    "NoActivation": (NoActivation, (3, 8, 8), "no activation"),
    "ActivationProduct": (ActivationProduct, (12,), "mul"),
}


WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def build(name: str, seed: int = 0) -> nn.Module:
    """Build a network of this file in eval mode, its batch norms far from the identity.

    Weights are redrawn by He's rule: PyTorch's default shrinks the signal so much that, with fixed batch-norm
    statistics, the output of the deeper networks would hardly depend on the input and hide any error.
    """
    if name in GRID:
        factory = GRID[name]
    elif name == "MaxPoolVGG":
        factory = MaxPoolVGG
    else:
        factory = UNSUPPORTED[name][0]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = factory()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
            elif isinstance(module, WEIGHTED):
                nn.init.kaiming_normal_(module.weight)
    return network.eval()
