"""ONNX files of networks on whole numbers: the same numbers as the network, in onnxruntime."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_images
from rheobase.core.errors import ModelError, RecipeError, RheobaseError, StoreError
from rheobase.exchange.onnx import ONNXExport, export_onnx, to_pixels
from rheobase.exchange.onnx.firing import Memory, fire
from rheobase.exchange.onnx.forms import Call, write
from rheobase.exchange.onnx.writer import Value, Writer
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.network import IntegerNetwork
from rheobase.network.target import generic
from rheobase.neurons.integer import IntegerFire
from rheobase.signals.signal import Signal
from rheobase.zoo import digits as zoo_digits
from test_integers import RECIPES, WITHOUT, few_levels, images, mlp, whole

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")
Run = dict[str, np.ndarray[Any, Any]]


def session(model: str | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(path: Path | str, pixels: Tensor) -> Run:
    """The outputs of a file in onnxruntime, by name."""
    loaded = session(str(path))
    names = [output.name for output in loaded.get_outputs()]
    return dict(zip(names, loaded.run(None, {"pixels": pixels.numpy()}), strict=True))


def net_counts(network: IntegerNetwork, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The net number of spikes of every neuron, and the logits."""
    found: dict[str, list[Tensor]] = {}
    steps = network.timesteps

    def monitor(site: Any, signal: Signal) -> None:
        summed = (
            signal.values.sum(0) if hasattr(signal, "steps") and signal.values.dim() > len(site.shape) + 1 else None
        )
        found.setdefault(site.name, []).append((steps * signal.values).round() if summed is None else summed)

    logits = network.readouts(pictures, (steps,), monitor=monitor)[0]
    return {name: torch.cat(parts) for name, parts in found.items()}, logits


def check(network: IntegerNetwork, pictures: Tensor, path: Path) -> ONNXExport:
    """Export, and compare the logits and the counts of every site with the network's, to the bit."""
    written = export_onnx(network, path, spikes=True)
    found = run(path, to_pixels(network, pictures))
    counts, logits = net_counts(network, pictures)
    assert list(written.sites) == [site.name for site in network.sites]
    assert np.array_equal(found["logits"], logits.numpy())
    for site, output in written.sites.items():
        assert np.array_equal(found[output], counts[site].numpy()), site
    unit = network.units.logit / network.timesteps
    assert np.array_equal((found["sums"] * unit).astype(found["logits"].dtype), found["logits"])
    return written


@pytest.mark.parametrize("name", RECIPES)
def test_every_neuron(name: str, tmp_path: Path) -> None:
    written = check(whole(name), images(), tmp_path / "net.onnx")
    assert written.form == ("counts" if name == "parallel" else "steps")
    assert written.bits == 32
    floats = {"Gemm", "MatMul", "Conv", "Floor"} & written.operators.keys()
    assert not floats
    assert not written.exact_floats


@cache
def trained() -> nn.Module:
    return zoo_digits.train(zoo_digits.digits().train, epochs=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["parallel", "FTBC", "graded", "multi-threshold"])
def test_digits_have_the_same_classes_and_counts(name: str, tmp_path: Path) -> None:
    """A trained residual network, on all test images."""
    data = zoo_digits.digits()
    calibration, (pictures, labels) = data.train[0][:64], data.test
    snn = rb.convert(trained(), RECIPES[name], calibration=calibration)
    network = rb.integers(snn, calibration=calibration)
    check(network, pictures, tmp_path / "net.onnx")
    classes = run(tmp_path / "net.onnx", to_pixels(network, pictures))["sums"].argmax(1)
    assert np.array_equal(classes, network(pictures).argmax(1).numpy())
    assert float((torch.from_numpy(classes) == labels).float().mean()) > (0.9 if name == "parallel" else 0.5)


GRADED = rb.Graded(timesteps=3, magnitude=4, iterations=0)


CLOSED = rb.ParallelConversion(timesteps=32)
KINDS = [
    *((name, recipe) for name in networks.GRID if name not in WITHOUT for recipe in (GRADED, CLOSED)),
    ("MobileNetV2", GRADED),
    ("MaxPoolVGG", GRADED),
    ("MaxPoolVGG", CLOSED),
    ("MaxPoolVGG", rb.RateCoding(timesteps=3)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe"), KINDS, ids=[f"{n}-{'steps' if r is GRADED else 'counts'}" for n, r in KINDS]
)
def test_networks_of_every_kind(name: str, recipe: rb.Recipe, tmp_path: Path) -> None:
    """With 12-bit weights, so with several digits; MobileNetV2 with spikes at its linear outputs."""
    options: dict[str, Any] = {"MobileNetV2": {"sites": "all"}, "MaxPoolVGG": {"max_pool": "gate"}}.get(name, {})
    snn = rb.convert(networks.build(name), recipe, calibration=grid_images(name), **options)
    network = rb.integers(snn, generic(weights=12), calibration=grid_images(name))
    written = check(network, grid_images(name), tmp_path / "net.onnx")
    assert bool(written.exact_floats) == (name == "MaxPoolVGG" and recipe is GRADED)


class Depthwise(nn.Module):
    """ReLU6, a depthwise convolution with a dilation, and a transposed one in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(2, 6, 3, stride=2), nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6)
        self.up, self.last = nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, groups=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.stem(x))
        x = nn.functional.relu6(self.depthwise(x))
        return self.last(self.up(x).relu().mean((2, 3)))


@pytest.mark.parametrize(
    "recipe", [rb.ParallelConversion(timesteps=6), rb.RateCoding(timesteps=3)], ids=["counts", "steps"]
)
def test_clips_and_depthwise_layers(recipe: rb.Recipe, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures = 2 * torch.rand(12, 2, 9, 9, generator=torch.Generator().manual_seed(0)) - 1
    snn = rb.convert(Depthwise().requires_grad_(False), recipe, calibration=pictures)
    network = rb.integers(snn, calibration=pictures)
    assert network.units.zero[0] > 0
    check(network, pictures, tmp_path / "net.onnx")


def test_a_pixel_of_zero_for_every_channel(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (10, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    how = rb.data.Preprocessing(mean=(0.5, 0.4, 0.2), std=(0.2, 0.3, 0.25))
    mean, std = torch.tensor(how.mean), torch.tensor(how.std)
    values = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).requires_grad_(False)
    snn = rb.convert(net, rb.ParallelConversion(timesteps=300), calibration=values)  # counts beyond 8 bits
    network = rb.integers(snn, calibration=values, preprocessing=how)
    assert torch.equal(to_pixels(network, values), pixels)
    assert to_pixels(network, pixels) is pixels
    check(network, values, tmp_path / "net.onnx")


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("name", ["IF", "graded"])
def test_potentials_beyond_their_width(name: str, overflow: Any, tmp_path: Path) -> None:
    snn = few_levels() if name == "IF" else rb.convert(mlp(), RECIPES[name], calibration=images())
    chip = generic(weights=8, state=9, biases=20).replace(overflow=overflow)
    network = rb.integers(snn, chip, calibration=images())
    check(network, images(), tmp_path / "net.onnx")
    assert network.overflows > 0 or name != "IF"


def test_a_branch_on_a_coarser_grid_has_weights_of_8_bits(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.large, self.small = nn.Linear(7, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.last = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            return self.last((self.large(x) + self.small(x)).relu())

    torch.manual_seed(0)
    net = Sum().requires_grad_(False)
    net.small.weight /= 64
    snn = rb.convert(net, rb.ParallelConversion(timesteps=16), calibration=images())
    network = rb.integers(snn, calibration=images())
    largest = [float(t.abs().max()) for t in network.graph.tensors.values() if t.dim() == 2]
    assert max(largest) > 127
    assert check(network, images(), tmp_path / "net.onnx").operators["MatMulInteger"] == 4


def test_numbers_beyond_32_bits(tmp_path: Path) -> None:
    snn = rb.convert(mlp(), rb.ParallelConversion(timesteps=5000), calibration=images())
    network = rb.integers(snn, generic(weights=16, state=32), calibration=images())
    assert check(network, images(), tmp_path / "net.onnx").bits == 64


def test_the_file(tmp_path: Path) -> None:
    network = whole("parallel")
    written = export_onnx(network, tmp_path / "new" / "net.onnx")
    model = onnx.load(written.path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["form"] == "counts"
    assert json.loads(metadata["target"])["name"] == "generic 8-bit"
    assert json.loads(metadata["units"])["logit"] == network.units.logit
    assert json.loads(metadata["sites"]) == [site.name for site in network.sites]
    assert int(metadata["timesteps"]) == network.timesteps
    assert json.loads(metadata["versions"])["onnx"] == onnx.__version__
    assert [output.name for output in model.graph.output] == ["sums", "logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    pixels = to_pixels(network, images())
    assert np.array_equal(run(written.path, pixels[:1])["sums"], run(written.path, pixels)["sums"][:1])
    assert [path.name for path in written.path.parent.iterdir()] == ["net.onnx"]


# -- the firing rule and the operations, alone -------------------------------------------------------------------------


def model_of(writer: Writer, read: dict[str, Value], outputs: list[Value]) -> bytes:
    """A file with these inputs and outputs, of any shape."""
    inputs = [onnx.helper.make_tensor_value_info(name, writer.number, None) for name in read]
    found = [onnx.helper.make_tensor_value_info(value.name, writer.number, None) for value in outputs]
    model = writer.model(inputs, found, "part", {}, "0")
    return model.SerializeToString()


WITHOUT_GAPS = [(0, 1), (0, 1, 2, 3), (-1, 0, 1), (-2, -1, 0, 1), (-3, -2, -1, 0, 1, 2, 3)]
ALPHABETS = [*WITHOUT_GAPS, (0, 1, 4), (-4, -2, -1, 0, 1, 2, 4)]


@given(
    st.sampled_from(ALPHABETS),
    st.lists(st.lists(st.integers(-90, 90), min_size=6, max_size=6), min_size=1, max_size=5),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(-20, 30), st.integers(-20, 30)),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, 6, 8]),
    st.sampled_from(["saturate", "wrap"]),
    st.booleans(),
    st.booleans(),
)
def test_the_firing_rule(
    alphabet: tuple[int, ...],
    currents: list[list[int]],
    theta: tuple[int, int],
    initial: tuple[int, int],
    biases: int | None,
    bits: int | None,
    overflow: Any,
    truncates: bool,
    remembers: bool,
) -> None:
    """Two channels of three neurons, in onnxruntime and in onnx's own evaluator."""
    consecutive = alphabet[-1] - alphabet[0] == len(alphabet) - 1
    steps = len(currents)
    bias = None if biases is None else torch.arange(-3.0, 2 * steps - 3).reshape(steps, 2)
    neuron = IntegerFire(
        torch.tensor(theta).float(),
        torch.tensor(initial).float(),
        bias[0] if bias is not None and biases == 1 else bias,
        alphabet,
        fires="truncate" if truncates and consecutive else "floor",
        remembers=remembers and alphabet[0] < 0,
        bits=bits,
        overflow=overflow,
    )
    train = torch.tensor(currents).float().reshape(steps, 1, 2, 3)
    spikes, _ = neuron.run(train, neuron.init((1, 2, 3), train))
    writer = Writer(32)
    memory, read, outputs = Memory(), {}, []
    for t in range(steps):
        writer.begin("site", t)
        read[f"current{t}"] = writer.value(f"current{t}", -90, 90)
        fired, memory = fire(writer, neuron, read[f"current{t}"], memory, t, 3)
        outputs.append(fired)
        assert fired.low <= float(spikes[t].min())
        assert float(spikes[t].max()) <= fired.high
    model = model_of(writer, read, outputs)
    feed = {name: train[t].numpy().astype(np.int32) for t, name in enumerate(read)}
    expected = spikes.numpy()
    assert np.array_equal(np.stack(session(model).run(None, feed)), expected)
    evaluated = reference.ReferenceEvaluator(onnx.load_from_string(model)).run(None, feed)
    assert np.array_equal(np.stack(evaluated), expected)


def weight(*shape: int, largest: int = 127) -> Tensor:
    return torch.randint(-largest, largest + 1, shape, generator=torch.Generator().manual_seed(1)).double()


OPERATION_CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any], dict[str, Tensor]]] = {
    "strided": (
        "conv",
        (4, 7, 6),
        {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 1], "groups": 1},
        {"weight": weight(3, 4, 3, 3), "bias": weight(3)},
    ),
    "groups": (
        "conv",
        (4, 9),
        {"stride": [1], "padding": [2], "dilation": [2], "groups": 2},
        {"weight": weight(6, 2, 3)},
    ),
    "wide weights": ("linear", (5, 7), {}, {"weight": weight(6, 7, largest=40_000), "bias": weight(6)}),
    "transposed": (
        "conv_transpose",
        (4, 5, 4),
        {"stride": [2, 3], "padding": [1, 2], "output_padding": [1, 0], "dilation": [1, 2], "groups": 2},
        {"weight": weight(4, 3, 3, 2), "bias": weight(6)},
    ),
    "transposed 1-D": (
        "conv_transpose",
        (2, 5),
        {"stride": [1], "padding": [2], "dilation": [1], "groups": 1},
        {"weight": weight(2, 3, 2)},
    ),
    "affine": ("affine", (3, 4, 4), {}, {"scale": weight(3, 1, 1), "shift": weight(3, 4, 4)}),
    "windows that overlap": (
        "avg_pool",
        (2, 7, 6),
        {"kernel_size": [3, 2], "stride": [2, 1], "padding": [1, 1], "divisor_override": 1},
        {},
    ),
    "windows of a whole axis": (
        "avg_pool",
        (2, 7, 6),
        {"kernel_size": [7, 4], "stride": [7, 4], "padding": [0, 0], "divisor_override": 1},
        {},
    ),
    "nearest": ("upsample", (2, 3, 5), {"size": [7, 8], "mode": "nearest", "align_corners": None}, {}),
    "nearest-exact": (
        "upsample",
        (2, 3, 7),
        {"size": [6, 11], "mode": "nearest-exact", "align_corners": None, "scale": [2.0, 1.7]},
        {},
    ),
    "permuted": ("permute", (2, 3, 4), {"dims": [0, 3, 1, 2]}, {}),
    "slice": ("slice", (2, 9), {"dim": 2, "start": 1, "stop": 8, "step": 3}, {}),
    "border": ("pad", (2, 4, 5), {"pad": [1, -1, 2, 0, 1, 1], "mode": "constant", "value": 3.0}, {}),
    "reflected": ("pad", (2, 4, 5), {"pad": [2, 1, 1, 3], "mode": "reflect", "value": None}, {}),
    "replicated": ("pad", (2, 4, 5), {"pad": [2, 1, 1, 3], "mode": "replicate", "value": None}, {}),
    "selected": ("select", (5, 3), {"dim": 1, "shape": [2, 3]}, {"index": torch.tensor([4, 0], dtype=torch.int32)}),
    "elements": (
        "select",
        (5, 3),
        {"dim": 0, "shape": [2, 2]},
        {"index": torch.tensor([14, 0, 3, 3], dtype=torch.int32)},
    ),
    "constant": ("constant", (5, 3), {}, {"value": weight(1, 2, 2)}),
    "reshape": ("reshape", (5, 4), {"shape": [2, 10]}, {}),
}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("largest", [100, 70_000])
@pytest.mark.parametrize("name", OPERATION_CASES)
def test_an_operation(name: str, largest: int, bits: int) -> None:
    operation, shape, attributes, tensors = OPERATION_CASES[name]
    x = torch.randint(-largest, largest + 1, (3, *shape), generator=torch.Generator().manual_seed(2)).double()
    expected = OPERATIONS[operation].apply(x, **attributes, **tensors)
    writer = Writer(bits)
    writer.begin("node")
    value = writer.value("x", -largest, largest)
    node = Node("node", operation, ("x",), attributes, {}, tuple(expected.shape[1:]))
    found = write(writer, Call(node, (value,), (shape,), tensors, 1))
    assert found.low <= float(expected.min())
    assert float(expected.max()) <= found.high
    if bits == 32 and writer.largest >= 2**31 - 1:
        return  # the export then has 64 bits
    feed = {"x": x.numpy().astype(f"int{bits}")}
    (result,) = session(model_of(writer, {"x": value}, [found])).run(None, feed)
    assert np.array_equal(result, expected.numpy())


# -- bad input ---------------------------------------------------------------------------------------------------------


def altered() -> IntegerNetwork:
    network = rb.integers(rb.convert(mlp(), RECIPES["IF"], calibration=images()), calibration=images())
    name = network.graph.nodes[1].parameters["weight"]
    network.graph.put(name, network.graph.tensor(name) * 0.7)
    return network


def with_an_operation() -> IntegerNetwork:
    network = whole("IF")
    nodes = [
        Node(n.name, "unknown", n.inputs, {}, {}, n.shape) if i == 1 else n for i, n in enumerate(network.graph.nodes)
    ]
    found = network.with_graphs(network.graph, network.ann)
    found.graph = network.graph.replace(nodes=nodes)
    return found


@pytest.mark.parametrize(
    ("make", "options", "error", "said"),
    [
        (lambda: mlp(), {}, ModelError, "not a SpikingNetwork"),
        (lambda: few_levels(), {}, RecipeError, "not on whole numbers.*rb.integers"),
        (lambda: whole("IF"), {"form": "counts"}, RecipeError, 'depend on time. Remedy: use form="steps"'),
        (lambda: whole("parallel"), {"form": "steps"}, RecipeError, 'whole input. Remedy: use form="counts"'),
        (lambda: whole("IF"), {"form": "floats"}, RecipeError, "form: is 'floats'"),
        (altered, {}, RecipeError, "not whole. Remedy"),
        (with_an_operation, {}, StoreError, "is the operation unknown, which has no form.*Remedy"),
    ],
)
def test_bad_input(make: Any, options: Any, error: type[RheobaseError], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        export_onnx(make(), tmp_path / "net.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("mine")
    with pytest.raises(StoreError, match="already exists"):
        export_onnx(whole("IF"), path)
    assert path.read_text() == "mine"
    export_onnx(whole("IF"), path, overwrite=True)
    assert run(path, to_pixels(whole("IF"), images()))
    with pytest.raises(StoreError, match="cannot be written"):
        export_onnx(whole("IF"), tmp_path, overwrite=True)


def test_a_file_of_more_than_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("rheobase.exchange.onnx.export"), "LARGEST_FILE", 100)
    with pytest.raises(StoreError, match=r"more than 2 GiB.*rb\.save"):
        export_onnx(whole("IF"), tmp_path / "net.onnx")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    packages = importlib.import_module("rheobase.exchange.onnx.packages")
    monkeypatch.setattr(packages, "import_module", missing)
    with pytest.raises(ModelError, match=r"package onnx: is not installed.*rheobase\[onnx\]"):
        export_onnx(whole("IF"), tmp_path / "net.onnx")


def test_onnx_is_loaded_when_a_file_is_written() -> None:
    code = "import sys, rheobase; rheobase.exchange.export_onnx; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
