"""The zoo: shapes, parameters and multiplications against published numbers, names, conversion, bad arguments."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase import zoo
from rheobase.core.errors import ModelError, TraceError
from rheobase.core.torchvision import repair_torchvision
from rheobase.exchange import checkpoints as models
from rheobase.graph import capture, replace_max_pool


def conv(inputs: int, outputs: int, side: int) -> int:
    """Weights of a convolution that a batch norm follows, and the batch norm's scale and shift."""
    return inputs * outputs * side * side + 2 * outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def vgg16(pixels: int, classes: int, hidden: bool = True) -> int:
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    # VGG's convolutions have a bias too
    features = sum(conv(i, o, 3) + o for i, o in pairwise(widths))
    if not hidden:
        return features + linear(512 * pixels, classes)
    return features + linear(512 * pixels, 4096) + linear(4096, 4096) + linear(4096, classes)


def resnet(stem: int, widths: tuple[int, ...], blocks: tuple[int, ...], classes: int, projection: bool = True) -> int:
    total, before = stem, widths[0]
    for width, count in zip(widths, blocks, strict=True):
        total += conv(before, width, 3) + (2 * count - 1) * conv(width, width, 3)
        total += conv(before, width, 1) if projection and width != before else 0
        before = width
    return total + linear(before, classes)


def bottlenecks(blocks: tuple[int, ...], classes: int) -> int:
    total, before = conv(3, 64, 7), 64
    for width, count in zip(WIDE, blocks, strict=True):
        total += conv(before, width, 1) + (count - 1) * conv(4 * width, width, 1) + conv(before, 4 * width, 1)
        total += count * (conv(width, width, 3) + conv(width, 4 * width, 1))
        before = 4 * width
    return total + linear(before, classes)


def mobilenet(classes: int) -> int:
    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    separable = sum(conv(1, i, 3) + conv(i, o, 1) for i, o in pairwise(widths))
    return conv(3, 32, 3) + separable + linear(1024, classes)


IMAGENET: dict[str, Any] = {"num_classes": 1000, "stem": "imagenet"}
R18, R34, WIDE = (2, 2, 2, 2), (3, 4, 6, 3), (64, 128, 256, 512)
DEEP = conv(3, 32, 3) + conv(32, 32, 3) + conv(32, 64, 3)

# function, arguments, side of the image, parameters counted here, and as torchvision documents them
NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], int, int, int | None]] = {
    "VGG-16 CIFAR": (zoo.vgg16, {}, 32, vgg16(1, 10), None),
    "VGG-16 CIFAR-100": (zoo.vgg16, {"num_classes": 100}, 32, vgg16(1, 100), None),
    "VGG-16 CIFAR, one layer": (zoo.vgg16, {"head": "linear"}, 32, vgg16(1, 10, hidden=False), None),
    "VGG-16 ImageNet": (zoo.vgg16, IMAGENET, 224, vgg16(49, 1000), 138_365_992),
    "ResNet-18 CIFAR": (zoo.resnet18, {}, 32, resnet(conv(3, 64, 3), WIDE, R18, 10), None),
    "ResNet-18 ImageNet": (zoo.resnet18, IMAGENET, 224, resnet(conv(3, 64, 7), WIDE, R18, 1000), 11_689_512),
    "ResNet-34 CIFAR": (zoo.resnet34, {}, 32, resnet(conv(3, 64, 3), WIDE, R34, 10), None),
    "ResNet-34 ImageNet": (zoo.resnet34, IMAGENET, 224, resnet(conv(3, 64, 7), WIDE, R34, 1000), 21_797_672),
    "ResNet-34 deep": (zoo.resnet34, {"num_classes": 1000, "stem": "deep"}, 224, resnet(DEEP, WIDE, R34, 1000), None),
    "ResNet-50 ImageNet": (zoo.resnet50, IMAGENET, 224, bottlenecks(R34, 1000), 25_557_032),
    "ResNet-101 ImageNet": (zoo.resnet101, IMAGENET, 224, bottlenecks((3, 4, 23, 3), 1000), 44_549_160),
    "ResNet-20 A": (zoo.resnet20, {}, 32, resnet(conv(3, 16, 3), (16, 32, 64), (3, 3, 3), 10, False), None),
    "ResNet-20 B": (zoo.resnet20, {"shortcut": "B"}, 32, resnet(conv(3, 16, 3), (16, 32, 64), (3, 3, 3), 10), None),
    "ResNet-20 B, wide": (
        *(zoo.resnet20, {"shortcut": "B", "width": 64}, 32),
        *(resnet(conv(3, 64, 3), (64, 128, 256), (3, 3, 3), 10), None),
    ),
    "MobileNet CIFAR": (zoo.mobilenet, {}, 32, mobilenet(10), None),
    "MobileNet ImageNet": (zoo.mobilenet, IMAGENET, 224, mobilenet(1000), None),
}


def on_meta(name: str) -> tuple[nn.Module, Tensor]:
    """A network without values, and images for it: shapes cost nothing."""
    function, arguments, side, *_ = NETWORKS[name]
    with torch.device("meta"):
        return function(**arguments).eval(), torch.empty(2, 3, side, side)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_shape_and_parameters(name: str) -> None:
    network, images = on_meta(name)
    _, arguments, _, counted, documented = NETWORKS[name]
    assert network(images).shape == (2, arguments.get("num_classes", 10))
    assert count(network) == counted
    assert documented in (None, counted)


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        ("ResNet-20 A", 0.27, 2),  # He et al. 2016, Table 6
        ("MobileNet ImageNet", 4.2, 1),  # Howard et al. 2017, Table 4
    ],
)
def test_published_parameters(name: str, millions: float, digits: int) -> None:
    assert round(count(on_meta(name)[0]) / 1e6, digits) == millions


def multiplications(network: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one image, from the shapes they meet."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    network(images)
    return total


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("VGG-16 CIFAR", 332_111_872),  # PASCAL, appendix A.5
        ("VGG-16 CIFAR-100", 332_480_512),
        ("VGG-16 ImageNet", 15_470_264_320),  # PASCAL, appendix A.6
    ],
)
def test_multiplications_of_vgg(name: str, published: int) -> None:
    assert multiplications(*on_meta(name)) == published


@pytest.mark.parametrize(
    ("name", "billions", "digits"),
    [
        ("ResNet-18 ImageNet", 1.81, 2),  # torchvision's table of weights
        ("ResNet-34 ImageNet", 3.66, 2),
        ("ResNet-50 ImageNet", 4.09, 2),
        ("ResNet-101 ImageNet", 7.80, 2),
        ("MobileNet ImageNet", 0.569, 3),  # Howard et al. 2017, Table 4
    ],
)
def test_strides_by_multiplications(name: str, billions: float, digits: int) -> None:
    assert round(multiplications(*on_meta(name)) / 1e9, digits) == billions


def keys(network: nn.Module) -> set[str]:
    return {name for name, _ in network.named_parameters()}


def test_names_are_torchvisions() -> None:
    layers = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
    expected = {f"features.{i + j}.{k}" for i in layers for j in (0, 1) for k in ("weight", "bias")}
    assert keys(on_meta("VGG-16 ImageNet")[0]) == expected | {
        f"classifier.{i}.{k}" for i in (0, 3, 6) for k in ("weight", "bias")
    }

    expected = {"conv1.weight", "bn1.weight", "bn1.bias", "fc.weight", "fc.bias"}
    for stage in (1, 2, 3, 4):
        for layer in ("0.conv1", "0.conv2", "1.conv1", "1.conv2", *(["0.downsample.0"] if stage > 1 else [])):
            expected.add(f"layer{stage}.{layer}.weight")
        for layer in ("0.bn1", "0.bn2", "1.bn1", "1.bn2", *(["0.downsample.1"] if stage > 1 else [])):
            expected |= {f"layer{stage}.{layer}.weight", f"layer{stage}.{layer}.bias"}
    assert keys(on_meta("ResNet-18 ImageNet")[0]) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs", "more"),
    [
        ("resnet18", "resnet18", {}),
        ("resnet50", "resnet50", {}),
        ("resnet101", "resnet101", {}),
        ("vgg16", "vgg16_bn", {}),
        ("vgg16", "vgg16", {"batch_norm": False}),
    ],
)
def test_weights_of_torchvision_load_and_give_its_logits(name: str, theirs: str, more: dict[str, Any]) -> None:
    repair_torchvision()
    models = pytest.importorskip("torchvision.models")
    expected = getattr(models, theirs)(num_classes=7).eval()
    network = getattr(zoo, name)(num_classes=7, stem="imagenet", pool="max", **more).eval()
    network.load_state_dict(expected.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), expected(images))


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_without_batch_norm(name: str) -> None:
    network = getattr(zoo, name)(batch_norm=False).eval()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert all(part.bias is not None for part in network.modules() if isinstance(part, nn.Conv2d))
    with torch.no_grad():
        assert 0.01 < network(torch.randn(2, 3, 32, 32)).std() < 10  # neither vanishing nor exploding


def test_shortcut_a_by_hand() -> None:
    network = zoo.resnet20(width=4)
    block = network.layer2[0]
    nn.init.zeros_(block.bn2.weight)  # the residual branch gives nothing: only the shortcut is left
    x = torch.rand(2, 4, 6, 6)
    expected = torch.zeros(2, 8, 3, 3)
    for channel in range(4):
        for i in range(3):
            for j in range(3):
                expected[:, channel + 2, i, j] = x[:, channel, 2 * i, 2 * j]
    assert torch.equal(block.eval()(x), expected)


CONVERTED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "vgg16": (zoo.vgg16, 32, 13 + 2),
    "resnet18": (zoo.resnet18, 16, 1 + 8 * 2),
    "resnet18 imagenet": (lambda: zoo.resnet18(stem="imagenet"), 32, 1 + 8 * 2),
    "resnet34 deep": (lambda: zoo.resnet34(stem="deep"), 32, 3 + 16 * 2),
    "resnet34 without batch norm": (lambda: zoo.resnet34(batch_norm=False), 16, 1 + 16 * 2),
    "resnet50": (zoo.resnet50, 16, 1 + 16 * 3),
    "resnet20": (zoo.resnet20, 16, 1 + 9 * 2),
    "resnet20 B": (lambda: zoo.resnet20(shortcut="B"), 16, 1 + 9 * 2),
    "mobilenet": (zoo.mobilenet, 32, 1 + 13 * 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
def test_converts(name: str) -> None:
    function, side, sites = CONVERTED[name]
    network, images = function().eval(), torch.rand(3, 3, side, side)
    # maximum thresholds: the search by least squares takes a hundred times longer on networks of this width
    snn = rb.convert(network, rb.RateCoding(timesteps=2, threshold="max"), calibration=images)
    assert len(snn.sites) == sites
    with torch.no_grad():
        torch.testing.assert_close(snn.ann(images), network(images), rtol=1e-3, atol=1e-4)
    logits = snn(images)
    assert logits.shape == (3, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "places"),
    [
        (lambda: zoo.vgg16(pool="max", head="linear"), [f"features.{i} (MaxPool2d)" for i in (6, 13, 23, 33, 43)]),
        (lambda: zoo.resnet18(stem="imagenet", pool="max"), ["pool (MaxPool2d)"]),
    ],
)
def test_max_pooling_needs_a_choice(function: Callable[[], nn.Module], places: list[str]) -> None:
    images = torch.rand(2, 3, 32, 32)
    found = capture(function(), images)
    assert [node.origin for node in found.graph.nodes if node.operation == "max_pool"] == places
    with pytest.raises(TraceError, match="max-pooling"):
        replace_max_pool(found, "refuse").raise_if_refused()
    replace_max_pool(found, "gate").raise_if_refused()


@pytest.mark.parametrize("name", zoo.__all__)
def test_every_function_is_a_model_of_the_command_line(name: str) -> None:
    network = models.load(f"rheobase.zoo:{name}")
    assert not network.training
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (zoo.vgg16, {"num_classes": 0}, "num_classes: is 0. Remedy: use a whole number from 1."),
        (zoo.resnet18, {"num_classes": -1}, "num_classes: is -1. Remedy"),
        (zoo.resnet34, {"num_classes": 10.0}, "num_classes: is 10.0. Remedy"),
        (zoo.resnet20, {"num_classes": True}, "num_classes: is True. Remedy"),
        (zoo.mobilenet, {"num_classes": "10"}, "num_classes: is '10'. Remedy"),
        (zoo.vgg16, {"stem": "svhn"}, "stem: is 'svhn'. Remedy: use one of cifar, imagenet."),
        (zoo.mobilenet, {"stem": "deep"}, "stem: is 'deep'. Remedy: use one of cifar, imagenet."),
        (zoo.resnet18, {"stem": []}, "stem: is []. Remedy: use one of cifar, imagenet, deep."),
        (zoo.vgg16, {"pool": "avg"}, "pool: is 'avg'. Remedy: use one of average, max."),
        (zoo.resnet34, {"stem": "imagenet", "pool": None}, "pool: is None. Remedy: use one of average, max."),
        (zoo.resnet18, {"pool": "max"}, "pool: is 'max', which has no effect: the CIFAR stem has no pooling. Remedy"),
        (zoo.vgg16, {"head": "conv"}, "head: is 'conv'. Remedy: use one of mlp, linear."),
        (zoo.resnet50, {"stem": "svhn"}, "stem: is 'svhn'. Remedy: use one of cifar, imagenet, deep."),
        (zoo.resnet101, {"batch_norm": 1}, "batch_norm: is 1. Remedy: use True or False."),
        (zoo.vgg16, {"batch_norm": None}, "batch_norm: is None. Remedy: use True or False."),
        (zoo.resnet20, {"shortcut": "C"}, "shortcut: is 'C'. Remedy: use one of A, B."),
        (zoo.resnet20, {"width": 0}, "width: is 0. Remedy"),
        (zoo.resnet20, {"width": 15}, "width: is 15. Remedy: use an even number"),
    ],
)
def test_bad_arguments(function: Callable[..., nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        function(**arguments)
    assert str(caught.value).startswith(message)
