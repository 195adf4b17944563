"""ONNX files: what is read, and that it computes what the file does; what is refused, in a sentence."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from command_line import Run, assert_refused, runner
from rheobase.core.errors import DataError, ModelError
from rheobase.exchange.onnx import import_onnx, input_shape
from rheobase.zoo.digits import DigitsResNet

onnx = pytest.importorskip("onnx")
if missing := [name for name in ("onnx2torch", "torchvision", "onnxruntime") if find_spec(name) is None]:
    pytest.skip(f"needs {', '.join(missing)}", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's exporter that needs no package

make, to_tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
FLOAT, FLOAT16, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8
OPSETS = range(6, onnx.defs.onnx_opset_version() + 1)
RANDOM = np.random.default_rng(0)
WEIGHT = 0.2 * RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32)
MATRIX = RANDOM.standard_normal((256, 5)).astype(np.float32)
CONV = make("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
RELU = make("Relu", ["c"], ["r"])
HEAD = [make("GlobalAveragePool", ["r"], ["g"]), make("Flatten", ["g"], ["y"])]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def write(
    folder: Path,
    nodes: Sequence[Any],
    constants: Mapping[str, Any] | None = None,
    *,
    inputs: Mapping[str, Sequence[Any]] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 13,
    kind: int = FLOAT,
    domain: str | None = None,
) -> Path:
    """A file of a few nodes, with the input x [1, 3, 8, 8] and the output y."""
    describe = onnx.helper.make_tensor_value_info
    given = {"w": WEIGHT, **(constants or {})}
    read = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        list(nodes),
        "graph",
        [describe(name, kind, shape) for name, shape in (inputs or {"x": [1, 3, 8, 8]}).items()],
        [describe(name, FLOAT, None) for name in outputs],
        [to_tensor(np.asarray(value), name) for name, value in given.items() if name in read],
    )
    domains = [onnx.helper.make_opsetid(domain, 1)] if domain else []
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset), *domains], ir_version=8)
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def export(net: nn.Module, path: Path, shape: Sequence[int], *, batch: int = 1, **options: Any) -> Path:
    torch.onnx.export(net, torch.rand(batch, *shape), str(path), dynamo=False, input_names=["x"], **options)
    return path


def of_file(path: Path, images: Tensor) -> Tensor:
    """The output of a file for each image, by onnxruntime, which the import uses for other inputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return torch.cat([torch.from_numpy(session.run(None, {name: image[None].numpy()})[0]) for image in images])


def assert_imported(path: Path, images: Tensor | None = None) -> nn.Module:
    """The imported network gives the file's output for a batch of other inputs than the import compared."""
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) if images is None else images
    net = import_onnx(path)
    with torch.no_grad():
        torch.testing.assert_close(net(images), of_file(path, images), atol=1e-5, rtol=1e-4)
    return net


# --- networks that PyTorch exports ---


class Inverted(nn.Module):
    """A block of MobileNetV2."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), Inverted(8, 8, 1), Inverted(8, 16, 2))
        self.drop, self.classes = nn.Dropout(0.2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.layers(x), 1)
        return self.classes(self.drop(x.reshape(x.shape[0], -1)))


class Shuffled(nn.Module):
    """Shapes that are computed from shapes: a channel shuffle, padding, crops, halves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classes = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = F.pad(x.view(batch, -1, height, width), (1, 2, 1, 2))[:, :, 1:-2, 1:-2]
        first, second = x.chunk(2, 1)
        return self.classes(torch.cat([second, first], 1).view(x.size(0), -1)).softmax(1)


def resnet() -> nn.Module:
    return DigitsResNet()


def trained(make_net: Any) -> nn.Module:
    """A network with running statistics, as after training."""
    torch.manual_seed(0)
    net = make_net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


BATCH = {"x": {0: "batch"}}
SIZES = {"x": {0: "batch", 2: "height", 3: "width"}}


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "opset"), [(None, 11), (None, 20), (BATCH, 17), (SIZES, 18)])
@pytest.mark.parametrize(("make_net", "shape"), [(Mobile, (3, 16, 16)), (Shuffled, (3, 16, 16)), (resnet, (1, 8, 8))])
def test_an_exported_network_converts_like_the_original(
    tmp_path: Path, make_net: Any, shape: Any, axes: Any, opset: int
) -> None:
    net, images = trained(make_net), torch.rand(24, *shape)
    for name, folds in (("folded", True), ("plain", False)):
        training = torch.onnx.TrainingMode.EVAL if folds else torch.onnx.TrainingMode.PRESERVE
        path = export(
            net, tmp_path / f"{name}.onnx", shape, dynamic_axes=axes, opset_version=opset, training=training,
            do_constant_folding=folds,
        )  # fmt: skip
        imported = import_onnx(path, images)
        assert next(imported.parameters()).requires_grad
        with torch.no_grad():
            torch.testing.assert_close(imported(images), net(images), atol=1e-5, rtol=1e-4)
        assert (input_shape(path) is None) == (axes is not None and 2 in axes["x"])
    recipe = rb.RateCoding(timesteps=8)
    found, expected = (rb.convert(module, recipe, calibration=images) for module in (imported, net))
    assert [site.shape for site in found.graph.sites] == [site.shape for site in expected.graph.sites]
    torch.testing.assert_close(found(images), expected(images), atol=1e-4, rtol=1e-3)


def test_batch_normalisation_that_was_not_folded_converts_bit_for_bit(tmp_path: Path) -> None:
    net, images = trained(resnet), torch.rand(24, 1, 8, 8)
    preserve = torch.onnx.TrainingMode.PRESERVE
    path = export(net, tmp_path / "net.onnx", (1, 8, 8), training=preserve, do_constant_folding=False)
    imported = import_onnx(path)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in imported.modules()) == 6
    for recipe in (rb.RateCoding(timesteps=4), rb.RateCoding(timesteps=16)):
        found, expected = (rb.convert(module, recipe, calibration=images) for module in (imported, net))
        assert torch.equal(found(images), expected(images))


def test_an_imported_network_is_quantised_compared_copied_and_saved(tmp_path: Path) -> None:
    net, images = trained(Mobile), torch.rand(24, 3, 16, 16)
    imported = import_onnx(export(net, tmp_path / "net.onnx", (3, 16, 16)))
    recipe = rb.Pascal(levels=4)
    quantised = rb.quantise(copy.deepcopy(imported), recipe, calibration=images)
    assert {name for name, _ in imported.named_parameters()} < {name for name, _ in quantised.named_parameters()}
    snn = rb.convert(quantised, recipe, calibration=images)
    rb.save(snn, tmp_path / "snn")
    assert torch.equal(rb.load(tmp_path / "snn")(images), snn(images))
    others = torch.rand(10, 3, 16, 16), torch.arange(10) % 5
    rb.compare(imported, {"rate": rb.RateCoding(timesteps=4)}, images, others, [4])


def test_names_of_modules_follow_those_of_the_exporter(tmp_path: Path) -> None:
    imported = import_onnx(export(trained(resnet), tmp_path / "net.onnx", (1, 8, 8)))
    names = [site.name for site in rb.inspect(imported, torch.rand(2, 1, 8, 8)).sites]
    assert names[:3] == ["Relu", "block1_Relu", "block1_Relu_1"]


# --- operators ---


@pytest.mark.parametrize("opset", OPSETS)
def test_a_clip_from_0_to_6_is_relu6(tmp_path: Path, opset: int) -> None:
    bounds = {"low": np.float32(0), "high": np.float32(6)}
    if opset < 11:
        clips = [[make("Clip", ["c"], ["r"], min=0.0, max=6.0)]]
    else:
        constants = [make("Constant", [], [name], value=to_tensor(value)) for name, value in bounds.items()]
        clip = make("Clip", ["c", "low", "high"], ["r"])
        clips = [[clip], [*constants, clip]]
    for nodes in clips:
        path = write(tmp_path, [*nodes[:-1], CONV, nodes[-1], *HEAD], {} if len(nodes) > 1 else bounds, opset=opset)
        net = import_onnx(path)
        assert isinstance(net.get_submodule("Clip"), nn.ReLU6)
        (site,) = rb.inspect(net, torch.rand(2, 3, 8, 8)).sites
        assert site.upper == 6


@pytest.mark.parametrize(
    ("nodes", "upper"),
    [
        ([make("Clip", ["c", "", "high"], ["m"]), make("Relu", ["m"], ["r"])], 6),
        ([make("Max", ["c", "low"], ["m"]), make("Min", ["high", "m"], ["r"])], 6),
        ([make("Clip", ["c", "low"], ["r"])], None),
        ([make("Clip", ["c", "low", "largest"], ["r"])], None),
    ],
)
def test_other_spellings_of_a_clip(tmp_path: Path, nodes: Any, upper: float | None) -> None:
    bounds = {"low": np.float32(0), "high": np.float32(6), "largest": np.finfo(np.float32).max}
    net = assert_imported(write(tmp_path, [CONV, *nodes, *HEAD], bounds))
    (site,) = rb.inspect(net, torch.rand(2, 3, 8, 8)).sites
    assert site.upper == upper


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(tmp_path: Path, kind: str, stride: int) -> None:
    conv = make("Conv", ["x", "w"], ["c"], auto_pad=kind, strides=[stride, stride])
    assert_imported(write(tmp_path, [conv, RELU, *HEAD]))
    pool = make("MaxPool", ["r"], ["m"], auto_pad=kind, strides=[stride, stride], kernel_shape=[2, 2])
    assert_imported(write(tmp_path, [CONV, RELU, pool, make("Flatten", ["m"], ["y"])]))


@pytest.mark.parametrize("opset", [11, 19])
@pytest.mark.parametrize("rounds_up", [0, 1])
@pytest.mark.parametrize("counts_padding", [0, 1])
@pytest.mark.parametrize("pad", [0, 1])
def test_average_pooling(tmp_path: Path, opset: int, rounds_up: int, counts_padding: int, pad: int) -> None:
    options = {"ceil_mode": rounds_up, "count_include_pad": counts_padding}
    pool = make("AveragePool", ["r"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[pad] * 4, **options)
    flat = make("Flatten", ["p"], ["y"])
    assert_imported(write(tmp_path, [CONV, RELU, pool, flat], opset=opset))


@pytest.mark.parametrize(
    ("opset", "node"),
    [
        (13, make("ReduceMean", ["r"], ["y"], axes=[2, 3], keepdims=0)),
        (13, make("ReduceMean", ["r"], ["y"], axes=[-1, -2], keepdims=0)),
        (18, make("ReduceMean", ["r", "axes"], ["y"], keepdims=0)),
        (21, make("ReduceSum", ["r", "axes"], ["y"], keepdims=0)),
    ],
)
def test_means_over_pixels(tmp_path: Path, opset: int, node: Any) -> None:
    assert_imported(write(tmp_path, [CONV, RELU, node], {"axes": np.array([-2, -1])}, opset=opset))


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("shape", [[1, 256], [1, -1], [-1, 256], [0, -1]])
def test_a_reshape_with_a_batch_of_one_takes_any_batch(tmp_path: Path, shape: list[int], batch: int | str) -> None:
    nodes = [make("Reshape", ["r", "s"], ["f"]), make("MatMul", ["f", "m"], ["p"]), make("Add", ["b", "p"], ["y"])]
    constants = {"s": np.array(shape), "m": MATRIX, "b": MATRIX[0]}
    net = assert_imported(write(tmp_path, [CONV, RELU, *nodes], constants, inputs={"x": [batch, 3, 8, 8]}))
    assert any(isinstance(module, nn.Linear) and module.bias is not None for module in net.modules())


@pytest.mark.parametrize(
    "gemm",
    [
        make("Gemm", ["f", "m", "row"], ["p"]),
        make("Gemm", ["f", "t", "b"], ["p"], transB=1, alpha=2.0, beta=0.5),
        make("Gemm", ["f", "m"], ["p"]),
    ],
)
@pytest.mark.parametrize("opset", [7, 11, 13])
def test_linear_layers_before_a_softmax(tmp_path: Path, gemm: Any, opset: int) -> None:
    if opset == 7 and len(gemm.input) == 2:
        pytest.skip("the bias is required before operator set 11")
    constants = {"m": MATRIX, "t": MATRIX.T.copy(), "row": MATRIX[:1], "b": MATRIX[0]}
    nodes = [CONV, RELU, make("Flatten", ["r"], ["f"]), gemm, make("Softmax", ["p"], ["y"], axis=1)]
    net = assert_imported(write(tmp_path, nodes, constants, opset=opset))
    (linear,) = [module for module in net.modules() if isinstance(module, nn.Linear)]
    assert linear.weight.requires_grad


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 21])
def test_batch_normalisation(tmp_path: Path, opset: int) -> None:
    constants = {name: 0.5 + RANDOM.random(4).astype(np.float32) for name in ("s", "b", "m", "v")}
    norm = make("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"])
    assert_imported(write(tmp_path, [CONV, norm, make("Relu", ["n"], ["r"]), *HEAD], constants, opset=opset))


AXES = np.array([2, 3])
OTHERS: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "identity and dropout": (
        [CONV, RELU, make("Identity", ["r"], ["i"]), make("Dropout", ["i"], ["d"]), make("Flatten", ["d"], ["f"]),
         make("Dropout", ["f"], ["y"])], {}, 13),
    "sum and concatenation": (
        [CONV, RELU, make("Conv", ["x", "w"], ["c2"], pads=[1] * 4), make("Sum", ["r", "c2"], ["s"]),
         make("Add", ["s", "r"], ["a"]), make("Concat", ["a", "r"], ["k"], axis=1), make("Flatten", ["k"], ["y"])],
        {}, 13),
    "squeeze": ([CONV, RELU, HEAD[0], make("Squeeze", ["g", "a"], ["y"])], {"a": AXES}, 13),
    "squeeze by attribute": ([CONV, RELU, HEAD[0], make("Squeeze", ["g"], ["y"], axes=[2, 3])], {}, 11),
    "shape of a part": (
        [CONV, RELU, make("Shape", ["r"], ["s"]), make("Gather", ["s", "zero"], ["n"]),
         make("Unsqueeze", ["n", "axis"], ["u"]), make("Concat", ["u", "rest"], ["t"], axis=0),
         make("Reshape", ["r", "t"], ["y"])], {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}, 13),
    "padding": (
        [make("Pad", ["x", "p", "", "a"], ["q"]), make("Conv", ["q", "w"], ["c"]), RELU, *HEAD],
        {"p": np.array([1, 2, 0, 1]), "a": AXES}, 18),
    "padding by mirrors": (
        [make("Pad", ["x"], ["q"], mode="reflect", pads=[0, 0, 1, 1, 0, 0, 1, 1]), make("Conv", ["q", "w"], ["c"]),
         RELU, *HEAD], {}, 9),
    "normalised input": (
        [make("Sub", ["x", "m"], ["a"]), make("Div", ["a", "d"], ["q"]), make("Conv", ["q", "w"], ["c"]), RELU, *HEAD],
        {"m": np.ones((1, 3, 1, 1), np.float32), "d": np.float32(2)}, 13),
    "upsampling": (
        [CONV, RELU, make("Resize", ["r", "", "k"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
                          nearest_mode="floor")], {"k": np.array([1, 1, 2, 2], np.float32)}, 13),
    "slices and halves": (
        [CONV, RELU, make("Slice", ["r", "one", "end", "three"], ["z"]), make("Split", ["z"], ["h", "i"], axis=1),
         make("Sub", ["h", "i"], ["y"])],
        {"one": np.array([1]), "end": np.array([np.iinfo(np.int64).max]), "three": np.array([3])}, 13),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_operators(tmp_path: Path, kind: str) -> None:
    nodes, constants, opset = OTHERS[kind]
    net = assert_imported(write(tmp_path, nodes, constants, opset=opset))
    assert rb.inspect(net, torch.rand(2, 3, 8, 8)).convertible


def test_weights_in_another_file_and_as_inputs(tmp_path: Path) -> None:
    path = write(tmp_path, [CONV, RELU, *HEAD])
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", FLOAT, WEIGHT.shape))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_imported(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="keeps its weights in another file"):
        import_onnx(path)
    assert input_shape(path) == (3, 8, 8)


def test_several_outputs_are_chosen_by_position(tmp_path: Path) -> None:
    path = write(tmp_path, [CONV, RELU, *HEAD, make("Flatten", ["r"], ["z"])], outputs=["y", "z"])
    net, images = import_onnx(path), torch.rand(8, 3, 8, 8)
    assert [tuple(value.shape) for value in net(images)] == [(8, 4), (8, 256)]
    assert rb.convert(net, rb.RateCoding(timesteps=4), calibration=images, output=0)(images).shape == (8, 4)


def test_the_example_decides_the_size(tmp_path: Path) -> None:
    path = write(tmp_path, [CONV, RELU, *HEAD], inputs={"x": ["batch", 3, "height", "width"]})
    assert input_shape(path) is None
    with pytest.raises(DataError, match=r"--input-shape.*--data"):
        import_onnx(path)
    assert import_onnx(path, torch.rand(1, 3, 12, 10))(torch.rand(5, 3, 12, 10)).shape == (5, 4)
    with pytest.raises(DataError, match="has 2 axes"):
        import_onnx(path, torch.rand(1, 3))
    fixed = write(tmp_path, [CONV, RELU, make("Flatten", ["r"], ["f"]), make("Gemm", ["f", "m"], ["y"])], {"m": MATRIX})
    with pytest.raises(ModelError, match="cannot be run"):
        import_onnx(fixed, torch.rand(1, 3, 9, 9))


# --- refusals ---

BRANCH = onnx.helper.make_graph(
    [make("Relu", ["x"], ["o"])], "branch", [], [onnx.helper.make_tensor_value_info("o", FLOAT, None)]
)
HALF = np.ones(3, np.float16)
REFUSED: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any], str]] = {
    "several inputs": ([make("Add", ["x", "z"], ["y"])], {}, {"inputs": {"x": [1, 3], "z": [1, 3]}}, "has 2 inputs"),
    "half precision input": ([make("Relu", ["x"], ["y"])], {}, {"kind": FLOAT16}, "is float16, not float32"),
    "whole numbers": ([make("Cast", ["x"], ["y"], to=FLOAT)], {}, {"kind": UINT8}, "is uint8"),
    "half precision weights": (
        [make("Cast", ["half"], ["z"], to=FLOAT), make("Add", ["x", "z"], ["y"])], {"half": HALF},
        {"inputs": {"x": [1, 3]}}, "weight 'half': is float16"),
    "another program's operator": (
        [make("Magic", ["x"], ["y"], domain="com.acme", name="trick")], {}, {"domain": "com.acme"},
        r"node 'trick' \(com.acme.Magic\)"),
    "quantised": (
        [make("QuantizeLinear", ["x", "s", "z"], ["q"], name="levels"),
         make("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"s": np.float32(0.1), "z": np.uint8(0)}, {}, r"'levels' \(QuantizeLinear\).*before its quantisation"),
    "control flow": (
        [make("If", ["k"], ["y"], name="choice", then_branch=BRANCH, else_branch=BRANCH)], {"k": np.array(True)}, {},
        r"node 'choice' \(If\): control flow"),
    "an operator of no set": ([make("Nonsense", ["x"], ["y"])], {}, {}, "Nonsense"),
    "an operator that onnx2torch lacks": (
        [CONV, make("Gelu", ["c"], ["y"], name="act")], {}, {"opset": 20}, r"\(Gelu\): onnx2torch does not convert"),
    "a form that onnx2torch lacks": (
        [make("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 1, 1])], {}, {},
        r"'AveragePool' \(AveragePool\): onnx2torch does not convert"),
    "a newer operator set": ([make("Relu", ["x"], ["y"])], {}, {"opset": 999}, "uses operator set 999"),
    "training": (
        [CONV, make("BatchNormalization", ["c", "b", "b", "b", "b"], ["y", "m", "v"], training_mode=1)],
        {"b": np.ones(4, np.float32)}, {"opset": 15}, "training mode"),
    "another value in PyTorch": (
        [CONV, make("Resize", ["c", "", "k"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
                    nearest_mode="ceil")], {"k": np.array([1, 1, 2, 2], np.float32)}, {},
        "node 'Resize': differs from onnxruntime"),
    "a sum over the batch": (
        [CONV, make("ReduceSum", ["c", "a"], ["y"])], {"a": np.array([0])}, {}, "output 'y'"),
    "softmax over the batch": ([make("Softmax", ["x"], ["y"], axis=0)], {}, {}, "depends on the other inputs"),
    "arithmetic with the batch size": (
        [make("Shape", ["x"], ["s"]), make("Cast", ["s"], ["f"], to=FLOAT), make("Mul", ["x", "f"], ["y"])], {},
        {"inputs": {"x": ["batch", 2]}}, "computes with the size of the batch"),
    "no input": ([make("Identity", ["w"], ["y"])], {}, {}, "does not depend on the input"),
    "weights that are not finite": ([CONV, RELU, *HEAD], {"w": WEIGHT * np.nan}, {}, "NaN"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_place(tmp_path: Path, kind: str) -> None:
    nodes, constants, options, message = REFUSED[kind]
    path = write(tmp_path, nodes, constants, **options)
    with pytest.raises(ModelError, match=message) as refused:
        import_onnx(path)
    assert refused.value.remedy
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no ONNX file", bytes(300), None])
def test_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    path = write(tmp_path, [CONV, RELU, *HEAD])
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(ModelError, match=r"is empty|not an ONNX file|holds no network"):
        import_onnx(path)
    path.unlink()
    with pytest.raises(ModelError, match="is not a file"):
        import_onnx(path)


def test_without_onnxruntime_the_evaluator_of_onnx_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, [CONV, RELU, *HEAD])
    expected = of_file(path, torch.ones(1, 3, 8, 8))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    torch.testing.assert_close(import_onnx(path)(torch.ones(1, 3, 8, 8)), expected)


@pytest.mark.parametrize("package", ["onnx", "onnx2torch"])
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    path = write(tmp_path, [CONV, RELU, *HEAD])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"package {package}: is not installed.*rheobase\[onnx\]"):
        import_onnx(path)


def test_import_loads_no_optional_package() -> None:
    code = "import sys, rheobase as rb; rb.exchange.import_onnx, rb.exchange.onnx.is_onnx('a'); "
    code += "assert not {'onnx', 'onnx2torch', 'onnxruntime', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the command line ---


def digits(folder: Path) -> Path:
    return export(trained(resnet), folder / "digits.onnx", (1, 8, 8))


def test_inspect_takes_the_size_of_the_file(tmp_path: Path, run: Run) -> None:
    result = run("inspect", digits(tmp_path), "--json")
    assert result.code == 0
    assert len(json.loads(result.out)["sites"]) == 5
    path = write(tmp_path, [CONV, RELU, *HEAD], inputs={"x": ["batch", 3, "height", "width"]})
    assert_refused(run("inspect", path), "--input-shape: is missing")
    assert run("inspect", path, "--input-shape", "3,8,8").code == 0


def test_inspect_expands_the_home_folder(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    digits(tmp_path)
    assert run("inspect", "~/digits.onnx").code == 0
    assert_refused(run("inspect", "~/other.onnx"), "is not a file")


@pytest.mark.parametrize("option", [["--checkpoint", "net.pt"], ["--model-option", "depth=20"]])
def test_weights_have_no_effect_on_a_file_with_weights(tmp_path: Path, run: Run, option: list[str]) -> None:
    for command in (["inspect"], ["train", "--data", "rheobase.zoo.digits:digits_train", "--out", tmp_path / "out"]):
        result = run(command[0], digits(tmp_path), *command[1:], *option)
        assert_refused(result, option[0], "has no effect", "digits.onnx")


@pytest.mark.slow
def test_convert_compare_and_train_take_a_file(tmp_path: Path, run: Run) -> None:
    path, data = digits(tmp_path), ["--data", "rheobase.zoo.digits:digits_train"]
    test = ["--test", "rheobase.zoo.digits:digits_test"]
    assert run("convert", path, *data, "--out", tmp_path / "snn", "--timesteps", 2).code == 0
    assert run("inspect", tmp_path / "snn").code == 0
    assert run("compare", path, *data, *test, "--out", tmp_path / "report", "--timesteps", "2").code == 0
    train = ["train", path, *data, "--out", tmp_path / "trained", "--epochs", 1, "--option", "levels=2"]
    assert run(*train).code == 0
    export(trained(resnet), path, (1, 8, 8), opset_version=13)  # another file of the same name
    assert_refused(run(*train), "checkpoint")
