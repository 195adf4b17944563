"""Nodes on numbers: exact in time at every step, in every kind of network, listed, counted, refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rheobase as rb
from command_line import runner
from number_cases import NUMBER_CASES
from rheobase.core.errors import ModelError, RecipeError, RheobaseError, TraceError
from rheobase.graph import Graph, Node, capture
from rheobase.graph.interpreter import run
from rheobase.graph.operations import OPERATIONS, NodeContext, OnNumbers
from rheobase.graph.rewrites.pieces import break_points
from rheobase.network.simulation import Simulation
from rheobase.signals import Constant, TimeSeries
from rheobase.zoo import vit
from rheobase.zoo.digits import digits

# -- one node ---------------------------------------------------------------------------------------------------------


def simulated(case: str, dtype: torch.dtype = torch.float64) -> tuple[Node, Simulation]:
    """A node of a case, and a simulation that contains nothing else."""
    operation, shapes, attributes, parameters = NUMBER_CASES[case]
    names = tuple(f"x{i}" for i in range(len(shapes)))
    tensors = {f"node.{name}": tensor.to(dtype) for name, tensor in parameters.items()}
    node = Node("node", operation, names, attributes, {name: f"node.{name}" for name in parameters}, (1,), "node")
    inputs = [Node(name, "input", shape=shape) for name, shape in zip(names, shapes, strict=True)]
    graph = Graph([*inputs, node], "node", tensors)
    return node, Simulation(cast(Any, SimpleNamespace(graph=graph, overwriting=frozenset(), reads_means=False)))


@settings(max_examples=15)
@given(
    case=st.sampled_from(sorted(NUMBER_CASES)),
    pieces=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    constant=st.integers(-1, 2),
    seed=st.integers(0, 2**31),
)
def test_the_time_mean_is_exact_after_every_step(case: str, pieces: list[int], constant: int, seed: int) -> None:
    """Mean of the first t outputs = f(mean of the first t inputs), for all t, in float64; in pieces, to the bit."""
    draws = torch.Generator().manual_seed(seed)
    steps, shapes = sum(pieces), NUMBER_CASES[case][1]
    series = [torch.randn(steps, 2, *shape, generator=draws, dtype=torch.float64) for shape in shapes]
    signals: list[Any] = [Constant(x[0]) if i == constant else TimeSeries(x) for i, x in enumerate(series)]
    if not any(isinstance(signal, TimeSeries) for signal in signals):
        return
    node, simulation = simulated(case)
    given = simulation.advance(steps)(node, *signals).values
    operation = OPERATIONS[node.operation]
    arguments = {**node.attributes, **{a: simulation.network.graph.tensor(n) for a, n in node.parameters.items()}}
    for t in range(1, steps + 1):
        means = [signal.mean() if isinstance(signal, Constant) else signal.values[:t].mean(0) for signal in signals]
        expected = operation.apply(*means, **arguments)
        if case not in ("floor", "threshold", "choice"):  # these jump, where a mean is rounded
            torch.testing.assert_close(given[:t].mean(0), expected, rtol=1e-12, atol=1e-12)
    node, simulation = simulated(case)
    parts, start = [], 0
    for piece in pieces:
        cut = [TimeSeries(s.values[start : start + piece]) if isinstance(s, TimeSeries) else s for s in signals]
        parts.append(simulation.advance(piece)(node, *cut).values)
        start += piece
    assert torch.equal(torch.cat(parts), given)


@pytest.mark.parametrize("operation", ["elementwise", "pairwise", "reduction"])
def test_only_known_functions_are_called(operation: str) -> None:
    """A file may name any: none is looked up in torch that is not in the list."""
    x = torch.ones(2, 3)
    options: dict[str, Any] = {"elementwise": {"arguments": {}}, "reduction": {"dim": [1], "keepdim": False}}
    inputs = (x, x) if operation == "pairwise" else (x,)
    with pytest.raises(ModelError, match=r"is 'zeros_'.*use "):
        OPERATIONS[operation].apply(*inputs, function="zeros_", **options.get(operation, {}))


def test_small_constants_survive_between_nodes_on_numbers() -> None:
    """(a − a) / ((b − b) + 1e-5) is 0: a guard is not lost beside larger values at single steps, in float32."""

    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.last = nn.Linear(3, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            return self.last(x.abs().square() / (1e5 * x.square().square() + 1e-5))

    network = capture(Guarded().eval(), torch.rand(2, 3), nonlinear="numbers").graph
    simulation = Simulation(cast(Any, SimpleNamespace(graph=network, overwriting=frozenset(), reads_means=False)))
    nodes = {node.name: node for node in network.nodes}
    values: dict[str, Any] = {"fc": TimeSeries(torch.tensor([3.0, -3.0, 0.0]).reshape(3, 1, 1).expand(3, 1, 4))}
    plan = [(node, ()) for node in network.nodes[2:-1]]
    run(network, plan, values, simulation.advance(3))
    mean = torch.tensor([3.0, 0.0, 0.0])
    expected = mean.square() / (1e5 * mean**4 + 1e-5)
    found = values[next(name for name, node in nodes.items() if node.attributes.get("function") == "div")]
    torch.testing.assert_close(found.means[:, 0, 0], expected)
    torch.testing.assert_close(found.values.cumsum(0)[:, 0, 0] / torch.arange(1, 4), expected)


def test_a_square_by_hand() -> None:
    """Inputs 1, 3, 2: means 1, 2, 2; t f(mean) = 1, 8, 12."""
    node, simulation = simulated("square")
    series = TimeSeries(torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64).reshape(3, 1, 1))
    assert simulation.advance(3)(node, series).values.flatten().tolist() == [1.0, 7.0, 4.0]


def test_trains_of_different_lengths_meet_by_their_means() -> None:
    node, simulation = simulated("larger")
    long, short = torch.randn(4, 2, 5).double(), torch.randn(2, 2, 5).double()
    met = simulation.advance(4)(node, TimeSeries(long), TimeSeries(short))
    torch.testing.assert_close(met.mean(), torch.maximum(long.mean(0), short.mean(0)))
    assert isinstance(met, Constant)


@pytest.mark.parametrize(
    ("case", "work"),
    [
        ("silu", 12),
        ("gate", 24),
        ("scores", 2 * 5 * 3 * 4),
        ("attention", 2 * 5 * 4 * (3 + 6 + 3)),
        ("softmax", 36),
        ("layer_norm", 5 * 24),
        ("largest", 24),
    ],
)
def test_work_by_hand(case: str, work: int) -> None:
    name, shapes, attributes, parameters = NUMBER_CASES[case]
    operation = cast(OnNumbers, OPERATIONS[name])
    inputs = [torch.zeros(1, *shape) for shape in shapes]
    shape = tuple(operation.apply(*inputs, **attributes, **parameters).shape[1:])
    node = Node("node", name, tuple("abc"[: len(shapes)]), attributes, {}, shape)
    assert operation.work(NodeContext(node, tuple(shapes), parameters)) == work


# -- networks ---------------------------------------------------------------------------------------------------------


class Lambda(nn.Module):
    """Convolution, a function, mean, classifier."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(channels, 5)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.conv(x)).mean((2, 3)))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Gated(nn.Module):
    """MobileNetV3 in small: hard-swish, squeeze and excitation with a ReLU and a hard sigmoid, and a ReLU stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.expand, self.depthwise = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project, self.fc = nn.Conv2d(12, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        out = F.hardswish(self.depthwise(F.hardswish(self.expand(x))))
        gate = F.hardsigmoid(self.up(F.relu(self.down(out.mean((2, 3), keepdim=True)))))
        return self.fc((x + self.project(out * gate)).mean((2, 3)))


class Encoder(nn.Module):
    """PyTorch's own transformer on patches, its batch at axis 0 or 1, with or without returned weights."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.patches, self.batch_first = nn.Conv2d(3, 8, 4, 4), batch_first
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, "gelu", batch_first=batch_first, norm_first=True)
        self.encoder, self.fc = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if self.batch_first:
            return self.fc(self.encoder(tokens).mean(1))
        return self.fc(self.encoder(tokens.transpose(0, 1)).mean(0))


class ReturnsWeights(nn.Module):
    """nn.MultiheadAttention with need_weights=True: products of [B heads, N, C] and a softmax between."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.attention(tokens, tokens, tokens)[0].mean(1))


class Windows(nn.Module):
    """Attention within windows that are merged with the batch, as in Swin and MobileViT."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.norm = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 24), nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        batch, width, height, _ = x.shape
        windows = x.reshape(batch, width, height // 4, 4, height // 4, 4).permute(0, 2, 4, 3, 5, 1)
        tokens = self.norm(windows.reshape(-1, 16, width))
        q, k, v = self.qkv(tokens).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 16, width)
        return self.fc((tokens + mixed).reshape(batch, -1, width).mean(1))


class LearnedQuery(nn.Module):
    """Attention of a learned token to those of the image, in place of a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.kv, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 16), nn.Linear(8, 5)
        self.query = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        k, v = self.kv(tokens).chunk(2, -1)
        return self.fc(F.scaled_dot_product_attention(self.query.expand(len(x), -1, -1), k, v).squeeze(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "learned query": LearnedQuery,
    "windows": Windows,
    "gated": Gated,
    "vit": lambda: vit(5, width=12, depth=2, image=16),
    "encoder": Encoder,
    "encoder, batch second": lambda: Encoder(batch_first=False),
    "attention with weights": ReturnsWeights,
    "group norm": lambda: Lambda(nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU())),
    "instance norm": lambda: Lambda(nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 8, 1))),
    "leaky": lambda: Lambda(nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 1), nn.PReLU(8))),
    "normalised": lambda: Lambda(lambda x: F.normalize(x, dim=1)),
    "glu": lambda: Lambda(lambda x: F.glu(x, 1), 4),
    "rms": lambda: Lambda(lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)),
    "gelu by hand": lambda: Lambda(lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
    "elu by hand": lambda: Lambda(lambda x: torch.where(x > 0, x, torch.exp(x) - 1)),
    "swish by hand": lambda: Lambda(lambda x: x * F.relu6(x + 3) / 6),
    "maxout": lambda: Lambda(lambda x: torch.maximum(x[:, :4], x[:, 4:]), 4),
    "softmax pooling": lambda: Lambda(lambda x: x * F.softmax(x.flatten(2), 2).view_as(x)),
    "deviation": lambda: Lambda(lambda x: x / (1 + x.std(1, keepdim=True)) - x.amax(1, keepdim=True)),
    "powers": lambda: Lambda(lambda x: 2**x + 1 / (1 + x.square())),
}


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for parameter in network.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            parameter.data += 0.2 * torch.randn_like(parameter)
    return network


IMAGES = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def converted(name: str, recipe: rb.Recipe | None = None, sites: str = "all") -> tuple[nn.Module, rb.SpikingNetwork]:
    network = network_of(name)
    recipe = recipe or rb.Graded(timesteps=4)
    return network, rb.convert(network, recipe, calibration=IMAGES, nonlinear="numbers", sites=cast(Any, sites))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_convert_and_stream(name: str, tmp_path: Path) -> None:
    """The analog network is exact; the spiking one streams, converges, and is the same in pieces and after loading."""
    network, snn = converted(name)
    with torch.no_grad():
        exact = network(IMAGES)
    torch.testing.assert_close(snn.ann(IMAGES), exact, rtol=1e-4, atol=1e-5)
    assert snn.streams
    found = snn(IMAGES[:6])
    *_, (t, streamed) = snn.stream(IMAGES[:6])
    assert t == 4
    torch.testing.assert_close(streamed, found, rtol=1e-5, atol=1e-6)
    assert torch.equal(snn(IMAGES[2:3]), found[2:3])  # whatever the batch
    long = rb.convert(network, rb.Graded(timesteps=64), calibration=IMAGES, nonlinear="numbers", sites="all")
    error = float((long(IMAGES) - exact).norm() / exact.norm())
    assert error < 0.05
    again = rb.load(rb.save(snn, tmp_path / "network"))
    assert torch.equal(again(IMAGES[:6]), found)
    assert any("computed on numbers" in note for note in snn.provenance.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated", "vit"])
@pytest.mark.parametrize("method", sorted(rb.methods.METHODS))
def test_every_method_converts_or_says_why_not(name: str, method: str) -> None:
    recipe = rb.methods.METHODS[method]
    options = {"timesteps": 4} if "timesteps" in inspect.signature(recipe).parameters else {}
    refused = None
    try:
        _, snn = converted(name, recipe(**options))
    except RheobaseError as error:
        refused = error
    if refused is not None:
        assert refused.remedy
        return
    logits = snn(IMAGES[:4])
    assert bool(logits.isfinite().all())
    if snn.execution_mode == "counts":  # the closed form is the simulation of waiting neurons
        snn.execution = "steps"
        torch.testing.assert_close(snn(IMAGES[:4]), logits, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_waiting_neurons_read_the_function_of_the_mean() -> None:
    """One evaluation for all steps: the logarithm of a silent first step does not matter, and energy counts it once."""
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Function(lambda x: torch.log(x + 1e-9)), nn.Linear(8, 8))
    network = nn.Sequential(network, nn.ReLU(), nn.Linear(8, 5)).eval()
    images = torch.rand(40, 6)
    snn = rb.convert(network, rb.ParallelConversion(timesteps=8), calibration=images, nonlinear="numbers")
    closed = snn(images)
    snn.execution = "steps"
    torch.testing.assert_close(snn(images), closed, rtol=1e-4, atol=1e-4)
    energy = rb.energy(snn, images)
    assert energy.numbers == energy.ann_numbers + 4 * 8 - 8  # a sum, a quotient and two operations of a difference


@pytest.mark.slow
def test_attention_reads_spikes_on_request() -> None:
    _, snn = converted("vit", sites="products")
    by_name = {node.name: node for node in snn.graph.nodes}

    def source(name: str) -> Node:
        node = by_name[name]
        while node.operation in ("reshape", "permute", "select", "slice", "affine"):
            node = by_name[node.inputs[0]]
        return node

    read = [source(name) for node in snn.graph.nodes if node.operation == "attention" for name in node.inputs]
    assert read
    assert {node.operation for node in read} == {"site"}
    weighted = [node for node in snn.graph.nodes if node.operation == "linear"]
    assert {source(node.inputs[0]).operation for node in weighted[:-1]} == {"site"}
    with pytest.raises(RecipeError, match="no product reads a linear output"):
        converted("gated", sites="products")


def tokens(x: Tensor) -> Tensor:
    """[N, B, C], the batch at axis 1."""
    return x.flatten(2).permute(2, 0, 1)


class Masked(ReturnsWeights):
    """nn.MultiheadAttention with a mask and need_weights=True: baddbmm of the mask and [B heads, N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1)
        return self.fc(self.attention(x, x, x, attn_mask=mask)[0].mean(1))


class Scaled(ReturnsWeights):
    """Scores by baddbmm with a factor, as in Stable Diffusion and BLOOM."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q = x.unflatten(2, (2, 4)).transpose(1, 2).flatten(0, 1)
        bias = torch.linspace(0, 1, x.shape[1] ** 2).view(1, x.shape[1], x.shape[1])
        scores = torch.baddbmm(bias, q, q.transpose(1, 2), beta=0.5, alpha=0.3).softmax(-1)
        return self.fc(torch.bmm(scores, q).unflatten(0, (-1, 2)).transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize(
    "network",
    [
        Masked,
        Scaled,
        lambda: Lambda(lambda x: torch.where(x.relu() <= 0, -1.0, x)),
        lambda: Lambda(lambda x: torch.where(~(x.relu() >= 0), x, x.exp())),
        lambda: Lambda(lambda x: x - x.max(1, keepdim=True).values),
        lambda: Lambda(lambda x: x.sin() * (x > 0)),
        lambda: Lambda(lambda x: (x.relu() <= 0).float() * x.mean(1, keepdim=True).sin()),
    ],
)
def test_spellings_are_exact(network: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = network().eval()
    found = capture(module, IMAGES[:2], nonlinear="numbers")
    found.raise_if_refused()
    with torch.no_grad():
        torch.testing.assert_close(found.graph(IMAGES), module(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda w: F.normalize(w, dim=-1),
        lambda w: w - w.amax(2, keepdim=True),
        lambda w: w + w.amin(1).unsqueeze(1),
        lambda w: w / (w.std(-1, keepdim=True) + 1),
        lambda w: w * w.var((1, 2), keepdim=True),
        lambda w: w - w.logsumexp(-1, keepdim=True),
        lambda w: w / (torch.linalg.vector_norm(w, 3, dim=(1, 2), keepdim=True) + 1),
    ],
)
def test_reductions_of_windows_that_are_merged_with_the_batch(function: Callable[[Tensor], Tensor]) -> None:
    """Of each window alone: the batch is part of axis 0 in [B 16, 16, 8], and in the result of the reduction."""

    def of_windows(x: Tensor) -> Tensor:
        windows = x.flatten(2).transpose(1, 2).reshape(-1, 16, 8)
        return function(windows).reshape(len(x), 16, 16, 8).permute(0, 3, 1, 2)

    module = Lambda(of_windows).eval()
    found = capture(module, IMAGES[:2], nonlinear="numbers")
    found.raise_if_refused()
    with torch.no_grad():
        torch.testing.assert_close(found.graph(IMAGES), module(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: x + x.max(1, keepdim=True).indices, "index of the largest"),
        (lambda x: x.sin() * (x.mean(1, keepdim=True) > 0), "comparison of another shape"),
        (lambda x: F.glu(tokens(x), -1).permute(1, 2, 0).unsqueeze(3), "batch is part of axis 1"),
        (lambda x: tokens(x).max(2)[0].t()[:, None, :, None], "batch is part of axis 1"),
    ],
)
def test_spellings_that_are_refused(function: Callable[[Tensor], Tensor], said: str) -> None:
    with torch.no_grad():
        channels = function(torch.zeros(2, 8, 16, 16)).shape[1]
    found = capture(Lambda(function, channels).eval(), IMAGES[:2], nonlinear="numbers")
    assert said in str(found.refusals[0])


def test_a_norm_that_is_divided_by_remains_a_number() -> None:
    """F.normalize divides by max(norm, 1e-12): silent neurons in its place would give 1e12 times the input."""
    found = capture(network_of("normalised"), IMAGES[:2], nonlinear="numbers").graph
    assert not found.sites
    assert [node.attributes["function"] for node in found.nodes if node.operation == "elementwise"] == ["clamp_min"]


# -- functions by neurons ---------------------------------------------------------------------------------------------


@given(
    function=st.sampled_from([F.silu, F.gelu, torch.tanh, torch.exp, torch.sin]),
    spread=st.floats(0.1, 4),
    pieces=st.integers(4, 16),
)
def test_break_points_beat_equal_ones(function: Callable[[Tensor], Tensor], spread: float, pieces: int) -> None:
    """From the least to the largest argument; the squared error is at most 1.1 times that of equal pieces."""
    x = spread * torch.randn(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = break_points(function, x, pieces)
    assert points[0] == x.min()
    assert torch.isclose(points[-1], x.max())
    assert bool((points.diff() > 0).all())

    def error(points: Tensor) -> float:
        at = torch.bucketize(x, points[1:-1])
        slopes = function(points).diff() / points.diff()
        return float((function(points)[at] + slopes[at] * (x - points[at]) - function(x)).square().mean())

    assert error(points) <= 1.1 * error(torch.linspace(float(x.min()), float(x.max()), pieces + 1).double()) + 1e-12


@pytest.mark.slow
def test_functions_by_neurons(tmp_path: Path) -> None:
    """Straight pieces, whose stated error is that of the analog network; a leaky ReLU is exact; spikes everywhere."""
    torch.manual_seed(0)
    body = nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(8 * 144, 5)
    network = nn.Sequential(*body).eval()
    snn = rb.convert(network, rb.Graded(timesteps=64), calibration=IMAGES, nonlinear="neurons")
    assert [site.name for site in snn.sites] == [*(f"1.piece{i}" for i in range(8)), "3.positive", "3.negative"]
    (stated,) = [note for note in snn.provenance.notes if "8 straight pieces" in note]
    error = float(stated.split("differ from it by ")[1].split()[0])
    assert 0 < error < 0.05
    with torch.no_grad():
        exact, pieces = network(IMAGES), snn.ann(IMAGES)
    assert 0 < float((pieces - exact).norm() / exact.norm()) < 0.05
    assert float((snn(IMAGES) - pieces).norm() / exact.norm()) < 0.05
    assert rb.energy(snn, IMAGES[:4]).numbers == 0
    assert torch.equal(rb.load(rb.save(snn, tmp_path / "network"))(IMAGES[:4]), snn(IMAGES[:4]))
    with torch.no_grad():
        leaky = nn.Sequential(body[0], body[3], body[4], nn.Linear(8 * 196, 5)).eval()
        found = rb.convert(leaky, rb.Graded(), calibration=IMAGES, nonlinear="neurons")
        torch.testing.assert_close(found.ann(IMAGES), leaky(IMAGES), rtol=1e-4, atol=1e-5)


def test_functions_of_several_variables_have_no_neurons() -> None:
    with pytest.raises(TraceError, match=r"layer_norm: combines several values.*nonlinear=\"numbers\""):
        rb.convert(network_of("vit"), rb.Graded(), calibration=IMAGES, nonlinear="neurons")


# -- what is chosen ---------------------------------------------------------------------------------------------------


def test_refused_as_before_without_the_choice() -> None:
    network = network_of("vit")
    found = capture(network, IMAGES[:2])
    assert any("gelu" in str(note) for note in found.refusals)
    with pytest.raises(TraceError, match="layer_norm"):
        rb.convert(network, rb.Graded(timesteps=2), calibration=IMAGES)


def test_allowed_in_some_modules_only() -> None:
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
    network = nn.Sequential(first, nn.SiLU(), second, nn.GELU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    found = capture(network.eval(), IMAGES[:2], nonlinear=["1"])
    assert [note.where for note in found.refusals] == ["3 (GELU)"]
    assert [node.name for node in found.graph.nodes if node.operation == "elementwise"] == ["1"]
    assert not capture(network, IMAGES[:2], nonlinear=("1", "3")).refusals


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ("number", "nonlinear: is 'number'"),
        (["9"], "'9' is no module"),
        ([], r"is \[\]"),
        (3, "is 3"),
        ([1], r"is \[1\]"),
    ],
)
def test_wrong_choices(chosen: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        rb.convert(network_of("gated"), rb.Graded(), calibration=IMAGES, nonlinear=chosen)


def test_a_network_without_activations_needs_sites() -> None:
    with pytest.raises(RecipeError, match="has no activation that can be quantised"):
        rb.quantise(network_of("vit"), rb.Pascal(levels=4), calibration=IMAGES, nonlinear="numbers")
    with pytest.raises(RecipeError, match=r"sites: is 'activations', but the network has none.*use \"all\""):
        converted("vit", sites="activations")


class OverTheBatch(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.function = nn.Linear(4, 5), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(F.relu(self.fc(x)))


def attend(x: Tensor, mask: Tensor) -> Tensor:
    tokens = x.unsqueeze(2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens, mask).flatten(1)


nothing_for_the_first = torch.ones(5, 5).tril(-1).bool()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: F.softmax(x, 0) * 2 + x, "images of the batch"),
        (lambda x: x - x.amax(0), "batch"),
        (lambda x: F.dropout(x, 0.5), "draws random numbers"),
        (lambda x: x.topk(2)[0], "topk"),
        (lambda x: x.sort()[0], "sort"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch"),
        (lambda x: F.layer_norm(x, x.shape), "batch"),
        (lambda x: x @ x.T, "batch"),
        (lambda x: attend(x, nothing_for_the_first), "nothing to attend to"),
    ],
)
def test_what_stays_refused(function: Callable[[Tensor], Tensor], said: str) -> None:
    network = OverTheBatch(function).eval()
    with pytest.raises(TraceError, match=said):
        rb.convert(network, rb.Graded(), calibration=torch.rand(20, 4), nonlinear="numbers")


def test_recurrent_layers_stay_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.rnn(x)[0][:, -1]))

    found = capture(Recurrent().eval(), torch.rand(2, 3, 4), nonlinear="numbers")
    assert "time axis" in str(found.refusals[0])


def test_a_function_that_is_infinite_on_a_mean_is_named() -> None:
    """A silent neuron has the time-mean 0 at the first steps, of which the logarithm is infinite."""

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Function(torch.log), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    with torch.no_grad():
        network[0].weight.abs_()
    recipe = rb.RateCoding(timesteps=1, initial_potential=0)
    assert bool(network(0.1 + IMAGES).isfinite().all())
    with pytest.raises(ModelError, match=r"computes log, which is NaN or infinite.*bound its input"):
        rb.convert(network, recipe, calibration=0.1 + IMAGES, nonlinear="numbers")


# -- what is counted and handed on ------------------------------------------------------------------------------------


def test_energy_of_a_gate_by_hand() -> None:
    """ReLU neurons, a gate of two of their sums, a linear layer; T = 2."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.a(x)) * F.relu(self.b(x)))

    torch.manual_seed(0)
    images = torch.rand(16, 6)
    snn = rb.convert(Product(), rb.Graded(timesteps=2), calibration=images, nonlinear="numbers", sites="all")
    energy = rb.energy(snn, images)
    assert energy.ann_numbers == 4  # products
    # at each step 4 products, 2 × 4 quotients sum / t (the sums are additions of spikes), and 2 × 4 for differences
    assert energy.numbers == 2 * (4 + 8 + 8)
    assert 0 < energy.on_spikes < 1
    assert "on numbers" in str(energy.table())
    assert energy.to_json()["numbers"] == 40


@pytest.mark.slow
def test_reports_know_nodes_on_numbers() -> None:
    _, snn = converted("gated")
    assert rb.latency(snn).final == 4
    diagnosis = rb.diagnose(snn, IMAGES[:8])
    assert all(abs(sum(t.mean for t in row.terms.values()) - row.error.mean) < 1e-4 for row in diagnosis.rows)
    assert rb.evaluate(snn, (IMAGES, torch.zeros(24, dtype=torch.long))).images == 24


def test_no_word_for_them_elsewhere(tmp_path: Path) -> None:
    _, snn = converted("gated", rb.RateCoding(timesteps=4, initial_potential=0), "activations")
    with pytest.raises(RheobaseError, match=r"computes on numbers \(hardswish\)"):
        rb.exchange.export_nir(snn, tmp_path / "network.nir", reset="subtract")
    _, snn = converted("gated")
    with pytest.raises(RheobaseError, match="computes mul, a function of several values, which has no form in whole"):
        rb.integers(snn, calibration=IMAGES)


def test_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runner(capsys)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.SiLU(), nn.Linear(16, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    data = ["--data", "rheobase.zoo.digits:digits_train"]
    shape = ["--input-shape", "1,8,8"]
    assert run("inspect", "mine:net", *shape).code == 1
    listed = run("inspect", "mine:net", *shape, "--nonlinear", "numbers", "--sites", "all", "--json").document
    assert listed["on_numbers"] == {"silu": 1}
    run("convert", "mine:net", *data, "--method", "Graded", "--out", "net", "--nonlinear", "2", "--sites", "all")
    tested = run("evaluate", "net", "--data", "rheobase.zoo.digits:digits_test", "--json").document
    assert tested["evaluation"]["rows"][-1]["agreement"] > 0.9


@pytest.mark.slow
def test_a_comparison_and_a_training_on_digits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    data = digits()
    trained = rb.train(network, data.train, rb.Training(epochs=15, learning_rate=0.1)).model
    recipes, folder = [rb.Graded(), rb.ParallelConversion()], tmp_path / "compared"
    found = rb.compare(trained, recipes, data.train, data.test, (4, 8), nonlinear="numbers", folder=folder)
    assert all(cell.test.accuracy > 0.8 for cell in found.cells)
    page = (folder / "report.html").read_text()
    assert "other operations without neurons" in page
    assert "nonlinear=" in page
    quantised = rb.quantise(trained, rb.QVM(levels=4), calibration=data.train, nonlinear="numbers")
    tuned = rb.train(quantised, data.train, rb.Training(epochs=2, learning_rate=0.01)).model
    snn = rb.convert(tuned, rb.QVM(levels=4), calibration=data.train)
    assert rb.evaluate(snn, data.test).rows[0].accuracy > 0.8
