"""Calls of networks in all their spellings: activations, moves of values, resizing, products with constants, casts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rheobase as rb
from rheobase.core.errors import StoreError, TraceError
from rheobase.graph import Graph, capture
from rheobase.graph.trace.agreement import relative_difference

pytestmark = pytest.mark.slow

Function = Callable[[Tensor], Tensor]


class Around(nn.Module):
    """``function`` between a convolution, with a ReLU or not, and a linear layer."""

    def __init__(self, function: Function, relu: bool, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.relu, self.function = nn.Conv2d(shape[0], shape[0], 1), relu, function
        size = function(torch.zeros(1, *shape)).numel()
        self.last = nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y: Tensor = self.function(torch.relu(x) if self.relu else x)
        return self.last(y.flatten(1).to(self.last.weight.dtype))


def traced(
    function: Function, shape: tuple[int, ...] = (4, 6, 6), *, relu: bool = True, tolerance: float = 1e-5
) -> Graph:
    """The graph of a network with ``function``, after comparing both at several batch sizes."""
    torch.manual_seed(0)
    model, images = Around(function, relu, shape).eval(), torch.randn(5, *shape)
    found = capture(model, images)
    found.raise_if_refused()
    for n in (1, 2, 3, 5):
        images = 2 * torch.randn(n, *shape)
        with torch.no_grad():
            assert relative_difference(found.graph(images), model(images)) < tolerance
    return found.graph


def message(function: Function, *, relu: bool = False) -> str:
    """The message with which a network with ``function`` is refused."""
    torch.manual_seed(0)
    with pytest.raises(TraceError) as caught:
        capture(Around(function, relu, (4, 6, 6)).eval(), torch.randn(2, 4, 6, 6)).raise_if_refused()
    return str(caught.value)


def waves(*shape: int) -> Tensor:
    """A constant without structure."""
    return torch.sin(torch.arange(float(torch.Size(shape).numel()))).reshape(shape)


# -- activations ------------------------------------------------------------------------------------------------------


def by_mask(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0
    return x


RELUS: dict[str, Function] = {
    "clip": lambda x: torch.clip(x, 0),
    "clamp by a tensor": lambda x: torch.clamp(x, torch.tensor(0.0)),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "nn.Threshold": nn.Threshold(0, 0),
    "leaky 0": nn.LeakyReLU(0),
    "prelu 0": nn.PReLU(init=0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max": lambda x: torch.max(torch.tensor(0.0), x),
    "where": lambda x: torch.where(x > 0, x, 0),
    "where swapped": lambda x: torch.where(x <= 0, torch.zeros_like(x), x),
    "where constant first": lambda x: torch.where(torch.tensor(0.0) < x, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "masked_fill not": lambda x: x.masked_fill(~(x > 0), 0),
    "assignment": by_mask,
    "times mask": lambda x: x * (x > 0),
    "times float mask": lambda x: (x > 0).float() * x,
    "absolute value": lambda x: (x + x.abs()) / 2,
    "halves": lambda x: 0.5 * x + 0.5 * torch.abs(x),
    "absolute value first": lambda x: x.abs().add(x) * 0.5,
    "relu of relu": lambda x: F.relu(F.relu(x)),
    "relu after pooling": lambda x: F.relu(F.avg_pool2d(F.relu(x), 2)),
}
CLIPS: dict[str, Function] = {
    "clip": lambda x: torch.clip(x, 0, 0.4),
    "tensors": lambda x: torch.clamp(x, torch.tensor(0.0), torch.tensor(0.4)),
    "above then below": lambda x: x.clamp(max=0.4).clamp(min=0),
    "below then above": lambda x: F.relu(x).clamp_max(0.4),
    "minimum of maximum": lambda x: torch.minimum(torch.maximum(x, torch.tensor(0.0)), torch.tensor(0.4)),
    "relu6 of clip": lambda x: F.relu6(x.clip(0, 0.4)),
    "where": lambda x: (lambda y: torch.where(y > 0.4, 0.4, y))(F.relu(x)),
    "where of a tensor": lambda x: (lambda y: torch.where(y > 0.4, torch.full_like(y, 0.4), y))(F.relu(x)),
}


@pytest.mark.parametrize("spelling", RELUS)
def test_every_spelling_of_relu_is_one_site(spelling: str) -> None:
    (site,) = traced(RELUS[spelling], relu=False).sites
    assert site.attributes["upper"] is None


@pytest.mark.parametrize("spelling", CLIPS)
def test_every_spelling_of_a_clip_is_one_site(spelling: str) -> None:
    (site,) = traced(CLIPS[spelling], relu=False).sites
    assert site.attributes["upper"] == pytest.approx(0.4)


def test_slopes_that_are_no_binary_fractions() -> None:
    assert len(traced(lambda x: 0.7 * x + 0.7 * x.abs(), relu=False).sites) == 1


def test_bounds_by_channel_do_not_follow_a_part_of_the_channels() -> None:
    def function(x: Tensor) -> Tensor:
        clipped = torch.clamp(x, torch.zeros(4, 1, 1), waves(4, 1, 1) + 1)
        return clipped[:, :2].clamp(torch.zeros(2, 1, 1), waves(2, 1, 1) + 0.5)

    assert len(traced(function, relu=False).sites) == 2


def test_a_hard_sigmoid_is_a_clip() -> None:
    assert len(traced(F.hardsigmoid, relu=False).sites) == 1


def test_a_module_with_one_site_gives_it_its_name() -> None:
    model = nn.Sequential(
        nn.Linear(3, 3), nn.Threshold(0, 0), nn.Linear(3, 3), nn.LeakyReLU(0), nn.ReLU(), nn.Linear(3, 2)
    )
    assert [site.name for site in capture(model, torch.randn(2, 3)).graph.sites] == ["1", "3"]


BOUNDS = st.one_of(st.none(), st.integers(-8, 8).map(lambda n: n / 4))


@given(bounds=st.lists(st.tuples(BOUNDS, BOUNDS).filter(any), min_size=1, max_size=3), by_channel=st.booleans())
@settings(max_examples=15)
def test_a_chain_of_clips_is_one_site_or_refused(bounds: list[tuple[Any, Any]], by_channel: bool) -> None:
    extra = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(4, 1, 1)

    def function(x: Tensor) -> Tensor:
        for lower, upper in bounds:
            wide = by_channel and None not in (lower, upper)
            x = torch.clamp(x, torch.full((4, 1, 1), lower), upper + extra) if wide else x.clamp(lower, upper)
        return x

    low, high = (function(torch.full((4, 1, 1), end)) for end in (-1e9, 1e9))
    if bool((low >= high).any()):
        assert "constant" in message(function)
    else:
        assert len(traced(function, relu=False).sites) == 1


def test_a_clip_at_other_values_says_what_its_neurons_emit() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.Hardtanh(), nn.Linear(8, 2))
    images = torch.randn(512, 3)
    snn = rb.convert(model, rb.RateCoding(timesteps=128), calibration=images)
    assert any("1 (Hardtanh)" in note and "difference to the bound" in note for note in snn.provenance.notes)
    with torch.no_grad():
        assert float((snn(images) - model(images)).abs().mean()) < 0.02


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: F.leaky_relu(x, 0.1), ("leaky_relu", 'nonlinear="neurons"', r"relu(x) - a * relu(-x)")),
        (nn.PReLU(), ("function (PReLU)", 'nonlinear="neurons"', "fine-tune")),
        (lambda x: torch.where(x > 0, x, 0.1 * x), ("where", "leaky", "fine-tune")),
        (lambda x: torch.maximum(x, 0.1 * x), ("maximum", "leaky", "fine-tune")),
        (torch.abs, ("abs", "absolute value", r"relu(-x)")),
        (lambda x: torch.where(x > 1, x, 0), ("where", "not a ReLU or a clip", "fine-tune")),
        (lambda x: torch.maximum(x[:, :2], x[:, 2:]), ("maximum", "two activations", "b + relu(a - b)")),
        (lambda x: x.amax(1), ("amax", "largest", "max_pool")),
        (lambda x: x * F.relu6(x + 3) / 6, ("hard-swish", "ReLU")),
        (lambda x: F.hardtanh(x / 6 + 0.5, 0, 1) * x, ("hard-swish", "ReLU")),
        (lambda x: x * F.relu6(x.mean((2, 3), keepdim=True) + 3), ("gate", "without the gate")),
        (lambda x: x * F.relu(x.mean((2, 3), keepdim=True)).expand_as(x), ("gate", "without the gate")),
        (lambda x: F.normalize(x), ("linalg_vector_norm", "statistics", "batch normalisation")),
        (lambda x: x + (x.round() - x).detach(), ("round", "quantiser", "rb.QCFS")),
        (lambda x: x * F.hardtanh(x.flip(1), 0, 1), ("gate", "without the gate")),
        (lambda x: x * x.flip(1), ("multiplies two activations", "without the product")),
        (lambda x: F.dropout(x, 0.5), ("dropout", "always on", "training=self.training")),
        (lambda x: F.dropout2d(x, 0.5), ("bernoulli", "dropout", "training=self.training")),
        (lambda x: x + torch.randn_like(x), ("randn_like", "noise", "training=self.training")),
        (lambda x: torch.round(x * 4) / 4, ("round", "quantiser", "rb.QCFS")),
        (lambda x: torch.floor(x), ("floor", "quantiser", "rb.QCFS")),
        (lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255), ("fake_quantize", "rb.QCFS")),
        (lambda x: x.to(torch.int32).float(), ("rounds", "rb.QCFS")),
        (lambda x: torch.einsum("bchw,bchw->bc", x, x), ("einsum", "two activations", "fixed matrix")),
        (lambda x: x[:, torch.tensor([True, False, True, True])], ("mask", "index by numbers")),
        (lambda x: x + x[:1], ("add", "batch", "axis 0")),
        (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), ("max_unpool2d", "nn.Upsample")),
    ],
)
def test_a_refusal_names_the_call_and_a_remedy(function: Function, words: tuple[str, ...]) -> None:
    text = message(function)
    assert all(word in text for word in words), text
    assert "parts of the network" not in text  # one cause, one message


def test_a_refusal_does_not_cause_another_for_the_place_of_the_batch() -> None:
    for function in (
        lambda x: F.group_norm(x.reshape(-1, 4, 3, 3), 2).relu().view(x.shape),
        lambda x: torch.stack([x, torch.tanh(x)]).mean(0),
        lambda x: torch.tanh(x.transpose(0, 1)).transpose(0, 1).relu(),
    ):
        assert "parts of the network" not in message(function)


def test_the_remedies_for_leaky_relu_and_maxout_convert() -> None:
    traced(lambda x: F.relu(x) - 0.1 * F.relu(-x), relu=False)
    traced(lambda x: x[:, 2:] + F.relu(x[:, :2] - x[:, 2:]), relu=False)


def test_an_activation_that_the_output_does_not_depend_on_is_not_refused() -> None:
    def function(x: Tensor) -> Tensor:
        torch.sigmoid(x)
        return F.relu(x)

    traced(function, relu=False)


def test_a_mismatch_of_dtypes_is_called_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with pytest.raises(
        TraceError, match=r"weights of dtype torch.float64, but the example has dtype torch.float32.*\.to\("
    ):
        capture(model, torch.randn(2, 3))
    assert capture(model, torch.randn(2, 3, dtype=torch.float64)).graph.dtype == torch.float64


# -- casts ------------------------------------------------------------------------------------------------------------


def in_bfloat16(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.conv2d(x, waves(2, 4, 1, 1))


CASTS: dict[str, tuple[Function, float]] = {
    "float": (lambda x: x.float(), 1e-5),
    "device": (lambda x: x.to(torch.device("cpu")), 1e-5),
    "type_as": (lambda x: x.type_as(torch.zeros(1)), 1e-5),
    "double and back": (lambda x: x.double().float(), 1e-5),
    "half": (lambda x: x.half(), 1e-2),
    "autocast": (in_bfloat16, 6e-2),
}


@pytest.mark.parametrize("cast", CASTS)
def test_casts_are_left_out(cast: str) -> None:
    function, tolerance = CASTS[cast]
    graph = traced(function, tolerance=tolerance)
    assert graph.dtype == torch.float32
    assert {tensor.dtype for tensor in graph.tensors.values()} == {torch.float32}


def test_a_cast_that_rounds_is_noted() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.half()

    found = capture(nn.Sequential(model, Half()), torch.randn(2, 3))
    assert any("float16" in note.text for note in found.rewrites)


ALIASES: dict[str, Function] = {
    "arithmetic": lambda x: torch.divide(torch.multiply(torch.subtract(x, 1), 2), torch.negative(torch.tensor(3.0))),
    "addcmul": lambda x: torch.addcmul(x, x, waves(6)),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "hstack": lambda x: torch.hstack([x, torch.concat([x, x], 1)]),
    "diff": lambda x: torch.diff(x, dim=1),
    "inner": lambda x: torch.inner(x, waves(5, 6)),
    "kron": lambda x: torch.kron(x, waves(1, 1, 2, 2)),
}


@pytest.mark.parametrize("call", ALIASES)
def test_other_names_of_calls(call: str) -> None:
    traced(ALIASES[call])


# -- moves of values --------------------------------------------------------------------------------------------------


def written(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:3] = x[:, :2]
    y[:, 0, [1, 3]] = 2.0
    return y


def summed_in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :2] += x[:, 2:]
    return x


MOVES: dict[str, Function] = {
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0])),
    "list": lambda x: x[:, [2, 0, 0, 1]],
    "two lists": lambda x: x[:, [0, 1], [1, 2]],
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: torch.roll(x, (1, -2), (1, 3)),
    "roll channels": lambda x: torch.roll(x, 1, 1),
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "gather": lambda x: x.gather(1, torch.zeros(x.shape[0], 2, 6, 6, dtype=torch.long)),
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.ones(1, 2, 6, 6, dtype=torch.long), 1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "tile": lambda x: torch.tile(x, (2, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    "broadcast addition": lambda x: x + x.mean((2, 3), keepdim=True),
    "broadcast subtraction": lambda x: x.mean(1, keepdim=True) - x,
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "fold": lambda x: F.fold(F.unfold(x, (3, 2), 1, 1, 2), (6, 6), (3, 2), 1, 1, 2),
    "fold that leaves a rest": lambda x: F.fold(x.flatten(2).repeat(1, 4, 1), (13, 13), 2, stride=2),
    "windows": lambda x: x.unfold(2, 3, 2),
    "tril": torch.tril,
    "diagonal": lambda x: torch.diagonal(x, 0, 2, 3),
    "slice writes": written,
    "in-place sum": summed_in_place,
    "constants of the forward": lambda x: torch.cat([x + torch.arange(6.0), x.new_ones(x.shape[0], 1, 6, 6)], 1),
    "constants cast to the type of a value": lambda x: x + torch.arange(6).type_as(x),
    "a single number": lambda x: x.sum((1, 2, 3)).unsqueeze(1) / x[0].numel(),
    "like": lambda x: x + torch.full_like(x, 0.5) * torch.ones_like(x),
    "constant mask": lambda x: torch.where(torch.arange(6) > 2, x, 0.5),
    "masked_fill by a constant": lambda x: x.masked_fill(torch.eye(6) > 0, 0.0),
}
NORM = nn.BatchNorm2d(3).eval()
NORM.running_mean.copy_(torch.tensor([0.2, -0.1, 0.4]))  # type: ignore[union-attr]

ELSEWHERE: dict[str, Function] = {
    "a constant that makes it larger": lambda x: (x.reshape(-1, 6, 6, 1) + waves(1, 1, 1, 3)).view(len(x), -1),
    "mean of a stack": lambda x: torch.stack([x, x.flip(1), 2 * x]).mean(0),
    "sum of a stack": lambda x: torch.stack([x, x.flip(1)]).sum(0),
    "tokens in the batch": lambda x: (
        F.linear(x.permute(0, 2, 3, 1).reshape(-1, 4), waves(5, 4)).relu().view(-1, 6, 6, 5)
    ),
    "sequence first": lambda x: F.relu(F.linear(x.flatten(2).permute(2, 0, 1), waves(3, 4))).mean(0),
    "shuffle": lambda x: torch.cat(list(x.reshape(len(x) * 2, 2, 36).permute(1, 0, 2).reshape(2, -1, 2, 6, 6)), 1),
    "frames": lambda x: (
        F.max_pool2d(NORM(F.conv2d(x.reshape(-1, 1, 6, 6), waves(3, 1, 3, 3), padding=1)).relu(), 2)
        .view(-1, 4, 27)
        .mean(1)
    ),
    "frames, inner": lambda x: (
        F.avg_pool2d(F.conv_transpose2d(x.transpose(0, 1).reshape(-1, 1, 6, 6), waves(1, 2, 3, 3), stride=2), 3)
        .view(4, -1, 32)
        .sum(0)
    ),
    "windows": lambda x: (
        F.linear(x.view(-1, 4, 2, 3, 2, 3).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, 4), waves(4, 4))
        .relu()
        .view(-1, 2, 2, 36)
        .permute(0, 3, 1, 2)
    ),
    "transposed": lambda x: (x.flatten(1).t() * 2 + waves(144, 1)).t(),
    "channels first of all": lambda x: (x.permute(1, 0, 2, 3) + 2 * x.transpose(0, 1)).transpose(0, 1),
}


@pytest.mark.parametrize("move", MOVES)
def test_moves_of_values(move: str) -> None:
    graph = traced(MOVES[move])
    assert len(graph.sites) == 1
    images = torch.randn(20, 4, 6, 6)
    snn = rb.convert(graph, rb.RateCoding(timesteps=4), calibration=images)
    assert rb.energy(snn, images).rows[-1].acs > 0
    folded = rb.network.fold_thresholds(snn).double()
    torch.testing.assert_close(folded(images.double()), snn.double()(images.double()))


@pytest.mark.parametrize("call", ELSEWHERE)
def test_a_batch_that_leaves_axis_0_and_returns(call: str) -> None:
    traced(ELSEWHERE[call])


def test_moves_and_products_train_and_convert_exactly() -> None:
    def function(x: Tensor) -> Tensor:
        x = F.pixel_shuffle(torch.einsum("bchw,cd->bdhw", x, waves(4, 4)), 2).relu()
        return torch.stack([x, x.roll(1, 2)]).mean(0)[:, :, [3, 1]]

    torch.manual_seed(0)
    model, images, recipe = Around(function, True, (4, 6, 6)).eval(), torch.randn(20, 4, 6, 6), rb.QVM(levels=4)
    quantised = rb.quantise(model, recipe, calibration=images).eval()
    assert {"first.weight", "last.weight"} < {name for name, _ in quantised.named_parameters()}
    snn = rb.convert(quantised, recipe)
    with torch.no_grad():
        assert torch.equal(snn(images), quantised(images))


def test_moves_along_one_axis_are_not_written_element_by_element() -> None:
    for move, operation in (("list", "select"), ("roll channels", "select"), ("repeat", "select")):
        (node,) = (n for n in traced(MOVES[move]).nodes if n.operation == operation)
        assert node.attributes["dim"] == 1
    assert "select" not in [n.operation for n in traced(MOVES["pixel_shuffle"]).nodes]
    assert [n.operation for n in traced(ELSEWHERE["shuffle"]).nodes[3:-2]] == ["slice", "slice", "concat"]


def test_a_selection_of_channels_is_lowered(tmp_path: Any) -> None:
    pytest.importorskip("nir")
    images = torch.randn(20, 4, 6, 6)
    recipe = rb.RateCoding(timesteps=4, initial_potential=0)
    snn = rb.convert(traced(lambda x: F.conv2d(x[:, [2, 0, 1]], waves(2, 3, 3, 3)).relu()), recipe, calibration=images)
    rb.exchange.export_nir(snn, tmp_path / "net.nir", reset="subtract")
    assert torch.equal(rb.exchange.import_nir(tmp_path / "net.nir")(images), snn(images))
    snn = rb.convert(traced(MOVES["flip"]), recipe, calibration=images)
    with pytest.raises(StoreError, match=r"moves values to other pixels.*Remedy"):
        rb.exchange.export_nir(snn, tmp_path / "flip.nir", reset="subtract")


SHUFFLES: list[Function] = [
    lambda x: x.flip(0) if x.dim() == 1 else x.flip(-1).flip(-1),
    lambda x: x * 0.5 + 0.25,
    lambda x: x.relu(),
    lambda x: x + x,
]


@given(data=st.data())
@settings(max_examples=15)
def test_permuted_merged_and_back(data: st.DataObject) -> None:
    """Any permutation, a merge of neighbouring axes, elementwise calls, and the way back."""
    order = data.draw(st.permutations(range(4)))
    merged = data.draw(st.integers(0, 2))
    calls = data.draw(st.lists(st.sampled_from(SHUFFLES), min_size=1, max_size=3))

    def function(x: Tensor) -> Tensor:
        x = x.permute(order)
        before = x.shape
        x = x.flatten(merged, merged + 1)
        for call in calls:
            x = call(x)
        x = x.reshape(before)
        return x.permute([order.index(i) for i in range(4)])

    traced(function, (3, 4, 2))


# -- resizing ---------------------------------------------------------------------------------------------------------


@given(
    mode=st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic"]),
    factors=st.tuples(st.floats(0.4, 2.5), st.floats(0.4, 2.5)),
    by=st.sampled_from(["factor", "size", "recomputed"]),
    align=st.booleans(),
    antialias=st.booleans(),
)
@settings(max_examples=20)
def test_resizing_of_every_kind(mode: str, factors: tuple[float, float], by: str, align: bool, antialias: bool) -> None:
    smooth = mode.startswith("bi")
    size = {"size": [int(7 * factors[0]), int(6 * factors[1])]} if by == "size" else {"scale_factor": factors}

    def function(x: Tensor) -> Tensor:
        return F.interpolate(
            x,
            **size,  # type: ignore[arg-type]
            mode=mode,
            align_corners=align if smooth else None,
            antialias=antialias and smooth,
            recompute_scale_factor=True if by == "recomputed" else None,
        )

    assert [n.operation for n in traced(function, (2, 7, 6)).nodes].count("upsample") == 1


@pytest.mark.parametrize(("mode", "axes"), [("linear", 1), ("trilinear", 3), ("nearest", 3), ("nearest-exact", 1)])
def test_resizing_with_other_numbers_of_axes(mode: str, axes: int) -> None:
    shapes = {1: (4, 36), 3: (2, 2, 6, 6)}
    traced(lambda x: F.interpolate(x.reshape(len(x), *shapes[axes]), scale_factor=1.7, mode=mode))


def test_the_factor_counts_and_not_the_size_alone() -> None:
    graph = traced(lambda x: F.interpolate(x, scale_factor=1.7), (2, 7, 7))
    (node,) = (n for n in graph.nodes if n.operation == "upsample")
    assert node.attributes["scale"] == [1.7, 1.7]
    x = torch.randn(1, 2, 7, 7)
    assert not torch.equal(F.interpolate(x, scale_factor=1.7), F.interpolate(x, size=(11, 11)))


# -- products with constants ------------------------------------------------------------------------------------------

PRODUCTS: dict[str, Function] = {
    "left": lambda x: waves(3, 4) @ x.flatten(2),
    "left of maps": lambda x: torch.matmul(waves(5, 6), x),
    "right": lambda x: x @ waves(6, 5),
    "vector": lambda x: x @ waves(6),
    "by channel": lambda x: x @ waves(4, 6, 5),
    "by channel from the left": lambda x: waves(4, 2, 6) @ x,
    "repeated value": lambda x: x[:, :1] @ waves(5, 6, 3),
    "repeated constant": lambda x: x @ waves(1, 6, 3),
    "bmm": lambda x: torch.bmm(x.flatten(2), waves(1, 36, 3).expand(len(x), -1, -1)),
    "addmm": lambda x: torch.addmm(waves(3), x.flatten(1), waves(144, 3), alpha=0.5, beta=2),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, :2, 0], x.flatten(2), waves(1, 36, 2).expand(len(x), -1, -1)),
    "tensordot": lambda x: torch.tensordot(x, waves(4, 3), dims=([1], [0])),
    "cumsum": lambda x: x.cumsum(1) + x.cumsum(-1),
    "einsum of three": lambda x: torch.einsum("bchw,cd,hk->bdkw", x, waves(4, 3), waves(6, 2)),
    "einsum with dots": lambda x: torch.einsum("...hw,wk", x, waves(6, 2)),
    "einsum of one": lambda x: torch.einsum("bchw->bwc", x),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_with_constants(product: str) -> None:
    graph = traced(PRODUCTS[product])
    images = torch.randn(20, 4, 6, 6)
    snn = rb.convert(graph, rb.RateCoding(timesteps=2), calibration=images)
    torch.testing.assert_close(torch.cat([snn(part) for part in images.split(7)]), snn(images))


LETTERS = {"c": 4, "h": 3, "w": 2, "k": 5, "l": 2}


@given(data=st.data())
@settings(max_examples=20)
def test_einsum_with_one_constant(data: st.DataObject) -> None:
    weight = data.draw(st.permutations("chwkl"))[: data.draw(st.integers(1, 4))]
    known = list(dict.fromkeys(["c", "h", "w", *weight]))
    output = data.draw(st.permutations(known))[: data.draw(st.integers(1, len(known)))]
    constant = waves(*(LETTERS[c] for c in weight))
    terms = [("bchw", None), ("".join(weight), constant)]
    swapped = data.draw(st.booleans())
    terms = terms[::-1] if swapped else terms
    equation = f"{terms[0][0]},{terms[1][0]}->b{''.join(output)}"
    traced(lambda x: torch.einsum(equation, *(x if t is None else t for _, t in terms)), (4, 3, 2))
