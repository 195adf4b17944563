"""VGG-16, with batch normalisation or without."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from rheobase.core.checks import check_choice, check_flag, check_whole
from rheobase.core.errors import ModelError
from rheobase.zoo.parts import POOLS, Pool, Stem, initialise

Head = Literal["mlp", "linear"]
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class _VGG(nn.Module):
    """Five stages of 3x3 convolutions, each followed by a 2x2 pooling, and a classifier."""

    def __init__(self, num_classes: int, stem: Stem, pool: Pool, head: Head, batch_norm: bool) -> None:
        super().__init__()
        features: list[nn.Module] = []
        channels = 3
        for stage in _STAGES:
            for width in stage:
                norm = [nn.BatchNorm2d(width)] if batch_norm else []
                features += [nn.Conv2d(channels, width, 3, padding=1), *norm, nn.ReLU(inplace=True)]
                channels = width
            features.append(POOLS[pool](2))
        self.features = nn.Sequential(*features)
        side = 1 if stem == "cifar" else 7
        self.avgpool = nn.Identity() if stem == "cifar" else nn.AdaptiveAvgPool2d(side)
        pixels = channels * side * side
        self.classifier: nn.Module
        if head == "linear":
            self.classifier = nn.Linear(pixels, num_classes)
        else:
            self.classifier = nn.Sequential(
                *(nn.Linear(pixels, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)),
                *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)),
                nn.Linear(4096, num_classes),
            )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def vgg16(
    num_classes: int = 10,
    stem: Stem = "cifar",
    pool: Pool = "average",
    head: Head = "mlp",
    batch_norm: bool = True,
) -> nn.Module:
    """VGG-16 (Simonyan & Zisserman 2015, Table 1, column D) with batch normalisation.

    The defaults are those of the released code of QCFS (Bu et al. 2022), which FTBC (+QCFS) and PASCAL (appendices A.5
    and A.6) also use: average pooling in place of max-pooling, two hidden layers of 4096 with dropout 0.5.
    ``head="linear"`` on CIFAR is the VGG-16 of SNN Calibration (Li et al. 2021) and of FTBC without QCFS (appendix B).

    Input [B, 3, 32, 32] for ``"cifar"``, whose last pooling leaves one pixel, and [B, 3, 224, 224] for ``"imagenet"``,
    where it leaves 7x7. Parameter names are torchvision's for ``vgg16_bn``, whose weights load with
    ``stem="imagenet", pool="max"``: ``features.{0..43} classifier.{0,3,6}`` (``classifier`` alone with one layer).

    Args:
        num_classes: number of classes.
        stem: image size of the data set, which determines the input size of the classifier.
        pool: ``"max"`` is the network of 2015; its conversion needs ``max_pool="gate"`` or ``"average"``.
        head: the classifier, ``"mlp"`` with two hidden layers or ``"linear"`` with none.
        batch_norm: if False, the network and the names are torchvision's ``vgg16`` (FTBC, Table 4, has both).

    Example:
        >>> import torch
        >>> vgg16(num_classes=100).eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """
    check_whole(num_classes, "num_classes", error=ModelError)
    check_choice(stem, Stem, "stem", error=ModelError)
    check_choice(pool, Pool, "pool", error=ModelError)
    check_choice(head, Head, "head", error=ModelError)
    check_flag(batch_norm, "batch_norm", error=ModelError)
    return _VGG(num_classes, stem, pool, head, batch_norm)
