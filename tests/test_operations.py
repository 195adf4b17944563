"""Operations: every built-in one against the contract, one from outside, and channels that are not axis 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from number_cases import NUMBER_CASES
from rheobase.core.errors import ModelError, RecipeError, StoreError, TraceError
from rheobase.graph import capture, fold_batch_norm
from rheobase.graph.operations import OPERATIONS, NodeContext, Operation, Scaled, Synapses, Value, Words
from rheobase.graph.operations.weighted import Weighted
from rheobase.graph.synapses import WorkCounter
from rheobase.testing import check_operation

pytestmark = pytest.mark.usefixtures("own_parts")


def tensors(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if "running_var" in found:
        found["running_var"] = found["running_var"].abs() + 0.5
    if found.get("weight", torch.ones(1)).dim() > 1:
        found["weight"][..., 0] = 0  # a weight that is zero makes no synapse
    return found


CONV = {"stride": [2, 1], "padding": [1, 0], "dilation": [1, 2], "groups": 2}
PAD = {"pad": [1, 2, 0, 1, 1, 1], "mode": "constant", "value": 0.0}
POOL = {"kernel_size": [3, 2], "stride": [2, 2], "padding": [1, 1]}
PLACED = {**CONV, "output_padding": [1, 0]}
CASES: dict[str, tuple[str, list[tuple[int, ...]], dict[str, Any], dict[str, Tensor]]] = {
    "conv 1d": (
        "conv",
        [(2, 7)],
        {"stride": [3], "padding": [2], "dilation": [1], "groups": 1},
        tensors(weight=(3, 2, 3)),
    ),
    "conv 2d": ("conv", [(4, 5, 6)], CONV, tensors(weight=(6, 2, 3, 2), bias=(6,))),
    "conv 3d": (
        "conv",
        [(2, 3, 3, 3)],
        {"stride": [1] * 3, "padding": [1] * 3, "dilation": [1] * 3, "groups": 1},
        tensors(weight=(2, 2, 2, 2, 2)),
    ),
    "conv_transpose": ("conv_transpose", [(4, 3, 4)], PLACED, tensors(weight=(4, 3, 3, 2), bias=(6,))),
    "linear": ("linear", [(5,)], {}, tensors(weight=(3, 5), bias=(3,))),
    "linear of tokens": ("linear", [(4, 5)], {}, tensors(weight=(3, 5), bias=(3,))),
    "affine": ("affine", [(3, 2, 2)], {}, tensors(scale=(3, 1, 1), shift=(3, 1, 1))),
    "affine shift": ("affine", [(3, 2)], {}, tensors(shift=(2,))),
    "affine that broadcasts": ("affine", [(3, 1)], {}, tensors(scale=(3, 4))),
    "batch_norm": (
        "batch_norm",
        [(3, 4, 2)],
        {"eps": 1e-5},
        tensors(weight=(3,), bias=(3,), running_mean=(3,), running_var=(3,)),
    ),
    "add": ("add", [(2, 3), (2, 3), (2, 3)], {}, {}),
    "concat channels": ("concat", [(2, 3, 2), (4, 3, 2)], {"dim": 1}, {}),
    "concat space": ("concat", [(2, 3, 2), (2, 1, 2)], {"dim": 2}, {}),
    "outputs": ("outputs", [(3,), (4,)], {"structure": '{"list": [{"tensor": [3]}, {"tensor": [2, 2]}]}'}, {}),
    "constant": ("constant", [(4,)], {}, tensors(value=(1, 2, 3))),
    "avg_pool 1d": ("avg_pool", [(2, 7)], {"kernel_size": [3], "stride": [2], "padding": [1]}, {}),
    "avg_pool": ("avg_pool", [(2, 6, 5)], {**POOL, "ceil_mode": True, "count_include_pad": False}, {}),
    "avg_pool 3d": (
        "avg_pool",
        [(1, 3, 3, 2)],
        {"kernel_size": [2] * 3, "stride": [1] * 3, "padding": [0] * 3, "divisor_override": 1},
        {},
    ),
    "adaptive_avg_pool": ("adaptive_avg_pool", [(2, 5, 7)], {"output_size": [3, 2]}, {}),
    "mean of space": ("mean", [(3, 2, 4)], {"dim": [2, 3], "keepdim": False}, {}),
    "mean of tokens": ("mean", [(4, 3)], {"dim": [1], "keepdim": False}, {}),
    "mean that keeps": ("mean", [(3, 2, 4)], {"dim": [-1], "keepdim": True}, {}),
    "max_pool": ("max_pool", [(2, 5, 5)], {**POOL, "dilation": [1, 1], "ceil_mode": False}, {}),
    "flatten": ("reshape", [(3, 2, 2)], {"shape": [12]}, {}),
    "split channels": ("reshape", [(6, 2, 2)], {"shape": [2, 3, 2, 2]}, {}),
    "merge space": ("reshape", [(3, 2, 4)], {"shape": [3, 8]}, {}),
    "split tokens": ("reshape", [(2, 6)], {"shape": [2, 3, 2]}, {}),
    "add an axis": ("reshape", [(3, 4)], {"shape": [1, 3, 4]}, {}),
    "permute": ("permute", [(2, 3, 4)], {"dims": [0, 3, 1, 2]}, {}),
    "slice channels": ("slice", [(6, 3)], {"dim": 1, "start": 1, "stop": 6, "step": 2}, {}),
    "slice space": ("slice", [(2, 4, 3)], {"dim": 3, "start": 0, "stop": 2, "step": 1}, {}),
    "pad": ("pad", [(2, 3, 3)], PAD, {}),
    "pad by ones": ("pad", [(2, 3, 3)], {**PAD, "value": 1.0}, {}),
    "pad by the border": ("pad", [(2, 3, 3)], {"pad": [1, 1, 2, 0], "mode": "reflect", "value": None}, {}),
    "select channels": (
        "select",
        [(4, 2, 3)],
        {"dim": 1, "shape": [5, 2, 3]},
        {"index": torch.tensor([2, 0, 0, 3, 1], dtype=torch.int32)},
    ),
    "select space": (
        "select",
        [(2, 4, 3)],
        {"dim": 2, "shape": [2, 3, 3]},
        {"index": torch.tensor([3, 1, 0], dtype=torch.int32)},
    ),
    "select elements": (
        "select",
        [(4, 2), (3,)],
        {"dim": 0, "shape": [2, 3]},
        {"index": torch.tensor([9, 0, 5, 5, 8, 1], dtype=torch.int32)},
    ),
    "pixel shuffle": (
        "select",
        [(4, 2, 2)],
        {"dim": 0, "shape": [1, 4, 4]},
        {"index": torch.pixel_shuffle(torch.arange(16.0).reshape(4, 2, 2), 2).flatten().int()},
    ),
    **NUMBER_CASES,
    "lookup": (
        "lookup",
        [(2, 3)],
        {"function": "silu", "first": -2, "per_threshold": 3},
        {"table": torch.tensor([[-9.0, -7.0, 0.0, 8.0], [-1.0, 0.0, 2.0, 4.0]])[:, None]}
        | {"gain": torch.tensor(2.0**15), "threshold": torch.tensor([[1.0], [2.0]])},
    ),
    "upsample": ("upsample", [(2, 3, 2)], {"size": [6, 4], "mode": "nearest", "align_corners": None}, {}),
    "bilinear": ("upsample", [(1, 4, 3)], {"size": [7, 5], "mode": "bilinear", "align_corners": True}, {}),
    **{
        f"upsample {mode} {scale} {antialias}": (
            "upsample",
            [(2, *shape)],
            {"size": size, "mode": mode, "align_corners": align, "scale": scale, "antialias": antialias},
            {},
        )
        for mode, shape, size, align, scale, antialias in (
            ("nearest", (7,), [11], None, [1.7], False),
            ("nearest-exact", (4, 3), [7, 5], None, None, False),
            ("linear", (5,), [8], False, [1.7], False),
            ("bilinear", (5, 4), [3, 3], False, [0.6, 0.8], True),
            ("bicubic", (4, 5), [6, 8], False, [1.7, 1.7], False),
            ("bicubic", (6, 5), [3, 4], False, None, True),
        )
    },
}


def test_every_operation_has_a_case() -> None:
    assert {case[0] for case in CASES.values()} == set(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_built_in_operations_keep_the_contract(case: str) -> None:
    name, shapes, attributes, parameters = CASES[case]
    check_operation(name, shapes, attributes=attributes, parameters=parameters)


# -- an operation from outside ----------------------------------------------------------------------------------------


@torch.library.custom_op("rheobase_tests::shuffle", mutates_args=())
def shuffle(x: Tensor, groups: int) -> Tensor:
    """ShuffleNet's channel shuffle as one call: [B, g c, ...] -> [B, c g, ...]."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2).contiguous()


@shuffle.register_fake
def _(x: Tensor, groups: int) -> Tensor:
    return torch.empty_like(x)


class Shuffle(Operation):
    """Channel shuffle."""

    name = "shuffle"
    traced_from = ("rheobase_tests::shuffle",)
    makes_new_memory = True

    def apply(self, x: Tensor, *, groups: int) -> Tensor:
        return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2).contiguous()

    def order(self, attributes: Mapping[str, Any], channels: int) -> Tensor:
        return torch.arange(channels).reshape(attributes["groups"], -1).T.flatten()

    def synapses(self, at: NodeContext) -> Synapses:
        return "route"

    def scale_inputs(self, at: NodeContext, factors: Sequence[Tensor | None]) -> Scaled:
        (factor,) = factors
        assert factor is not None
        varies = factor.dim() and factor.shape[0] > 1
        return {}, factor[self.order(at.attributes, len(factor))] if varies else factor

    def lower(self, words: Words, node: rb.graph.Node) -> Value:
        return words.mapped(node).select(self.order(node.attributes, node.shape[0]))


class Plain(Operation):
    """The same with no more than a class needs."""

    name = "shuffle"
    traced_from = ("rheobase_tests::shuffle",)

    def apply(self, x: Tensor, *, groups: int) -> Tensor:
        return Shuffle().apply(x, groups=groups)


class ByShuffle(nn.Module):
    """Two sites with a shuffle between; by the custom call, or by a reshape, a transposition and a reshape."""

    def __init__(self, custom: bool = True) -> None:
        super().__init__()
        self.custom = custom
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, groups=2)
        self.last = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = shuffle(x, 2) if self.custom else x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
        return self.last(torch.relu(self.second(x)).mean((2, 3)))


def pair(recipe: rb.Recipe) -> tuple[rb.SpikingNetwork, rb.SpikingNetwork, Tensor]:
    """The network with the custom call, that with built-in operations, and images."""
    images = torch.randn(20, 3, 6, 6)
    networks = []
    for custom in (True, False):
        torch.manual_seed(1)
        networks.append(rb.convert(ByShuffle(custom).eval(), recipe, calibration=images))
    return networks[0], networks[1], images


def test_an_operation_from_outside_keeps_the_contract() -> None:
    rb.register(Shuffle)
    for shapes in ([(6,)], [(4, 2, 3)]):
        check_operation(Shuffle, shapes, attributes={"groups": 2}, function=lambda x: shuffle(x, 2))


@pytest.mark.slow
def test_an_operation_from_outside_gives_the_right_numbers(tmp_path: Path) -> None:
    rb.register(Shuffle)
    own, built_in, images = pair(rb.RateCoding(timesteps=4))
    assert "shuffle" in [node.operation for node in own.graph.nodes]
    assert torch.equal(own(images), built_in(images))
    assert torch.equal(torch.cat([own(part) for part in images.split(7)]), own(images))
    labels = torch.arange(20) % 5
    found, expected = (rb.evaluate(network, (images, labels), timesteps=(2, 4)) for network in (own, built_in))
    assert found == expected
    assert rb.energy(own, images) == rb.energy(built_in, images)
    assert rb.diagnose(own, images) == rb.diagnose(built_in, images)
    assert rb.latency(own) == rb.latency(built_in)
    folded, reference = rb.network.fold_thresholds(own), rb.network.fold_thresholds(built_in)
    assert not any("in_old_units" in node.name for node in folded.graph.nodes)
    assert torch.equal(folded(images), reference(images))
    assert torch.equal(rb.load(rb.save(own, tmp_path / "net"))(images), own(images))
    closed, other, _ = pair(rb.ParallelConversion(timesteps=4))
    assert torch.equal(rb.for_inference(closed)(images), rb.for_inference(other)(images))


def test_an_operation_from_outside_trains_and_is_exact() -> None:
    rb.register(Shuffle)
    images = torch.randn(20, 3, 6, 6)
    quantised = rb.quantise(ByShuffle().eval(), rb.QVM(levels=4), calibration=images).eval()
    snn = rb.convert(quantised, rb.QVM(levels=4)).double()
    torch.testing.assert_close(snn(images.double()), quantised.double()(images.double()))


@pytest.mark.slow
def test_an_operation_from_outside_is_lowered(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    rb.register(Shuffle)
    own, built_in, images = pair(rb.RateCoding(timesteps=4, initial_potential=0))
    for name, network in (("own", own), ("built_in", built_in)):
        rb.exchange.export_nir(network, tmp_path / name, reset="subtract")
    assert torch.equal(rb.exchange.import_nir(tmp_path / "own")(images), own(images))
    import nir

    one, other = (nir.read(tmp_path / name).nodes for name in ("own", "built_in"))
    shuffles = [next(node for key, node in nodes.items() if key.endswith("_map")) for nodes in (one, other)]
    assert (shuffles[0].weight == shuffles[1].weight).all()


def test_what_an_operation_does_not_define_is_refused_by_its_name(tmp_path: Path) -> None:
    rb.register(Plain)
    own, built_in, images = pair(rb.RateCoding(timesteps=4, initial_potential=0))
    check_operation(Plain, [(4, 2)], attributes={"groups": 2})
    assert torch.equal(own(images), built_in(images))
    with pytest.raises(ModelError, match=r"operation shuffle.*Plain\.synapses"):
        rb.energy(own, images)
    folded = rb.network.fold_thresholds(own)  # the factor becomes an affine node before it
    torch.testing.assert_close(folded.double()(images.double()), own.double()(images.double()))
    pytest.importorskip("nir")
    with pytest.raises(StoreError, match="is the operation shuffle, for which NIR has no node"):
        rb.exchange.export_nir(own, tmp_path / "net.nir", reset="subtract")


@pytest.mark.slow
def test_without_the_class_the_call_and_the_file_are_refused(tmp_path: Path) -> None:
    rb.register(Shuffle)
    own, _, images = pair(rb.RateCoding(timesteps=4))
    folder = rb.save(own, tmp_path / "net")
    del OPERATIONS["shuffle"]
    with pytest.raises(TraceError, match=r"shuffle: is not a supported.*rb\.register"):
        rb.convert(ByShuffle(), rb.RateCoding(), calibration=images)
    with pytest.raises(StoreError, match=r"unknown operation 'shuffle'.*import the module that registers it"):
        rb.load(folder)


class Whitening(Weighted):
    """A weighted layer from outside: batch normalisation is folded into it."""

    name = "whitening"
    traced_from = ("rheobase_tests::whitening",)

    def apply(self, x: Tensor, *, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.products(x, weight, bias)

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None, **_: Any) -> Tensor:
        value = (x.unsqueeze(1) * weight.reshape(1, *weight.shape, *(1,) * (x.dim() - 2))).sum(2)
        return value if bias is None else value + bias.reshape(-1, *(1,) * (x.dim() - 2))

    def along_inputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        return factor

    def along_outputs(self, at: NodeContext, factor: Tensor) -> Tensor:
        return factor.unsqueeze(-1)


@torch.library.custom_op("rheobase_tests::whitening", mutates_args=())
def whitening(x: Tensor, weight: Tensor) -> Tensor:
    return Whitening().apply(x, weight=weight)


@whitening.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])


@pytest.mark.slow
def test_a_weighted_layer_from_outside() -> None:
    rb.register(Whitening)
    weight = torch.randn(5, 3)
    check_operation(Whitening, [(3, 2, 2)], parameters={"weight": weight, "bias": torch.randn(5)})
    check_operation(Whitening, [(3, 4)], parameters={"weight": weight}, function=lambda x: whitening(x, weight))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.norm, self.last = nn.Parameter(weight), nn.BatchNorm2d(5), nn.Linear(20, 2)
            self.norm.running_mean.normal_()  # type: ignore[union-attr]

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.norm(whitening(x, self.weight))).flatten(1))

    model, images = Network().eval(), torch.randn(20, 3, 2, 2)
    graph, notes = fold_batch_norm(capture(model, images).graph)
    assert notes == []
    assert not any(node.operation in ("batch_norm", "affine") for node in graph.nodes)
    torch.testing.assert_close(graph(images), model(images).detach())
    recipe = rb.QVM(levels=4)
    quantised = rb.quantise(model, recipe, calibration=images)
    assert "weight" in dict(quantised.named_parameters())
    assert rb.energy(rb.convert(quantised, recipe), images).rows[0].macs == 5 * 3 * 4


def variant(base: type[Operation], **members: Any) -> type[Operation]:
    return type("Variant", (base,), members)


class NeedsArguments(Plain):
    name = "needs_arguments"

    def __init__(self, size: int) -> None:
        self.size = size


class Refuses(Plain):
    name = "refuses"

    def __init__(self) -> None:
        raise RecipeError.typed("is a str", where="size")


class NoApply(Operation):
    name = "no_apply"
    traced_from = ("mylib::call",)


@pytest.mark.parametrize(
    ("operation", "word"),
    [
        (NoApply, "NoApply: does not define apply"),
        (variant(Plain, name=""), "Variant: has no name"),
        (variant(Plain, name="conv"), "'conv' is taken by rheobase"),
        (variant(Plain, name="site"), "'site' is taken by the graph"),
        (variant(Plain, name="other", traced_from=()), r"Variant\.traced_from: is empty"),
        (variant(Plain, name="other", traced_from="relu"), r"Variant\.traced_from: is .relu."),
        (variant(Plain, name="other", traced_from=("conv2d",)), "'conv2d' is taken by .*Conv"),
        (variant(Plain, name="other", traced_from=("relu",)), "'relu' is taken by the tracer"),
        (variant(Plain, name="other", affine=False), "is not affine"),
        (NeedsArguments, "without arguments"),
        (Refuses, r"^size: is a str"),  # an error of the library is not wrapped, though it is a TypeError
    ],
)
def test_operations_that_cannot_be_registered(operation: type[Operation], word: str) -> None:
    before = dict(OPERATIONS)
    with pytest.raises(RecipeError, match=word):
        rb.register(operation)
    assert before == OPERATIONS


def test_registering_again_replaces() -> None:
    for _ in range(2):
        assert rb.register(Shuffle) is Shuffle
    with pytest.raises(RecipeError, match=r"'shuffle' is taken by test_operations\.Shuffle"):
        rb.register(Plain)


# -- the check finds what is wrong ------------------------------------------------------------------------------------


def shuffled(x: Tensor, groups: int) -> Tensor:
    return Shuffle().apply(x, groups=groups)


@pytest.mark.parametrize(
    ("member", "broken", "word"),
    [
        ("scale_inputs", lambda _, at, p: ({}, p[0]), r"moves the factors \[\[4, 1\]\] of its inputs wrongly"),
        ("to_inputs", lambda _, at, value: value, r"moves an offset \[4, 1\] to input 0 wrongly"),
        ("scale_output", lambda _, at, f, o: {}, r"takes a factor or offset \[\] of its output wrongly"),
        ("channel_axis", lambda _, at, axes: 2, "channels to axis 2"),
        ("channel_axis", lambda _, at, axes: 4, "channels at axis 4"),
        ("entries", lambda _, x, groups: shuffled(2 * x, groups), "synapses at input 0"),
        ("apply", lambda _, x, groups: 0.5 * shuffled(x, groups), "declares synapses 'route'"),
        ("apply", lambda _, x, groups: shuffled(x, groups).square(), "is not affine"),
        ("apply", lambda _, x, groups: shuffled(x, groups) - x.mean(0), "another value in a batch of 1"),
        ("apply", lambda _, x, groups: x[:, : x.shape[1]], "memory of an input"),
        ("apply", lambda _, x, groups: shuffled(x.mul_(2), groups), "changes its inputs"),
        ("apply", lambda _, x, groups: shuffled(x, groups).sum(0), "for a batch of 2"),
    ],
)
def test_a_broken_contract_is_found(member: str, broken: Any, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {member: broken}
    if "declares" in word:
        members["entries"] = lambda _, x, groups: shuffled(x, groups)
    operation = variant(Shuffle, **members)
    monkeypatch.setitem(OPERATIONS, "shuffle", operation())
    with pytest.raises(AssertionError, match=word):
        check_operation(operation, [(4, 3)], attributes={"groups": 2})


def test_a_function_that_is_traced_to_something_else_is_found() -> None:
    rb.register(Shuffle)
    with pytest.raises(AssertionError, match="function is traced to"):
        check_operation(Shuffle, [(4, 3)], attributes={"groups": 2}, function=lambda x: x + 1)


def test_only_registered_operations_are_checked() -> None:
    for operation in (Shuffle, "shuffle"):
        with pytest.raises(RecipeError, match=r"shuffle: is not a registered operation.*rb\.register"):
            check_operation(operation, [(4, 3)], attributes={"groups": 2})


# -- channels that are not axis 1 -------------------------------------------------------------------------------------


class TokenMLP(nn.Module):
    """Two linear layers for each token [B, N, C] with a residual, then the mean over tokens."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.embed, self.mix, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.activation = activation or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.embed(x))
        x = self.activation(x + self.mix(x))
        return self.last(x.mean(1))


TOKENS = 4


def token_images() -> Tensor:
    return torch.randn(24, TOKENS, 5, generator=torch.Generator().manual_seed(3))


TOKEN_RECIPES: dict[str, rb.Recipe] = {
    "IF": rb.RateCoding(timesteps=4, granularity="channel"),
    "IF by layer": rb.RateCoding(timesteps=4),
    "parallel": rb.ParallelConversion(timesteps=4, errors=False),
    "Pascal": rb.Pascal(levels=4, granularity="channel"),
    "QVM": rb.QVM(levels=4, granularity="channel"),
    "SNNCalibration": rb.SNNCalibration(timesteps=4),
}


def token_network(name: str) -> tuple[nn.Module, rb.SpikingNetwork]:
    torch.manual_seed(0)
    recipe, model = TOKEN_RECIPES[name], TokenMLP().eval()
    if recipe.activation is not None:
        model = rb.quantise(model, recipe, calibration=token_images()).eval()
    return model, rb.convert(model, recipe, calibration=token_images())


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKEN_RECIPES)
def test_tokens_have_a_threshold_for_each_channel(name: str, tmp_path: Path) -> None:
    images = token_images()
    model, snn = token_network(name)
    assert [site.shape for site in snn.sites] == [(6, TOKENS), (6, TOKENS)]
    if name != "IF by layer":
        assert [tuple(neuron.threshold.shape) for neuron in snn.neurons] == [(6,), (6,)]  # type: ignore[union-attr]
    with torch.no_grad():
        assert torch.equal(snn.ann(images), model(images))
    assert torch.equal(torch.cat([snn(part) for part in images.split(7)]), snn(images))
    assert torch.equal(rb.load(rb.save(snn, tmp_path / "net"))(images), snn(images))
    # a spike of the first site reaches 6 weights and the sum, one of the second 3
    energy, spikes = rb.energy(snn, images), rb.energy(snn, images).rows
    assert spikes[0].macs == TOKENS * 5 * 6
    assert (spikes[1].acs, spikes[2].acs) == (pytest.approx(7 * spikes[0].spikes), pytest.approx(3 * spikes[1].spikes))
    assert energy.rows[0].neurons == 6 * TOKENS
    for row in rb.diagnose(snn, images).rows:
        assert row.channels == 6
        assert sum(term.mean for term in row.terms.values()) == pytest.approx(row.error.mean, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKEN_RECIPES)
def test_factors_of_tokens_move_into_the_weights(name: str) -> None:
    snn, images = token_network(name)[1].double(), token_images().double()
    folded = rb.network.fold_thresholds(snn)
    torch.testing.assert_close(folded(images), snn(images), rtol=1e-12, atol=1e-12)
    made = [node for node in folded.graph.nodes if node not in snn.graph.nodes and node.operation == "affine"]
    assert [node.inputs for node in made] == [("activation.channels_back",)]  # on the shortcut, which has no weights
    if snn.execution_mode == "counts":
        torch.testing.assert_close(rb.for_inference(snn)(images), snn(images))


def test_thresholds_of_tokens_are_those_of_their_channels() -> None:
    """The largest activation of each channel, over images and tokens."""
    images, model = token_images()[:4], TokenMLP().eval()  # so few that none is held out
    snn = rb.convert(model, rb.RateCoding(timesteps=4, threshold="max", granularity="channel"), calibration=images)
    with torch.no_grad():
        largest = torch.relu(model.embed(images)).amax((0, 1))
    assert torch.equal(snn.neurons[0].threshold, torch.where(largest > 0, largest, torch.inf))  # type: ignore[arg-type]


def test_tokens_have_no_nir_node_and_are_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * TOKENS, 3)).eval()
    snn = rb.convert(model, rb.RateCoding(timesteps=4, initial_potential=0), calibration=token_images())
    with pytest.raises(StoreError, match=r"0 \(Linear\): is a linear layer over one of several axes"):
        rb.exchange.export_nir(snn, tmp_path / "net.nir", reset="subtract")


@pytest.mark.slow
def test_the_notes_say_which_sites_were_permuted() -> None:
    found = capture(TokenMLP().eval(), token_images())
    (note,) = found.rewrites
    assert "activation (ReLU): has its channels at axis 2" in str(note)
    assert not capture(nn.Sequential(nn.Linear(5, 4), nn.ReLU()), torch.rand(4, 5)).rewrites


def test_a_threshold_trained_for_each_channel_says_where_they_are() -> None:
    graph = capture(TokenMLP(rb.QCFS(4, torch.full((TOKENS,), 2.0))).eval(), token_images()).graph
    assert [site.shape for site in graph.sites] == [(TOKENS, 6), (TOKENS, 6)]


def attention_free(x: Tensor) -> Tensor:
    """Patches of a convolution as tokens, and back."""
    return x.flatten(2).transpose(1, 2)


CHANNELS: dict[str, tuple[nn.Module, tuple[int, ...], int | None]] = {
    "conv": (nn.Conv1d(3, 4, 1), (3, 5), 1),
    "linear": (nn.Linear(3, 4), (3,), 1),
    "linear of tokens": (nn.Linear(3, 4), (5, 3), 2),
    "batch norm after tokens": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5)), (5, 3), 1),
    "flatten": (nn.Sequential(nn.Linear(3, 4), nn.Flatten()), (5, 3), 1),
    "flatten space": (nn.Flatten(2), (3, 4, 4), 1),
    "heads": (nn.Sequential(nn.Linear(3, 4), nn.Unflatten(2, (2, 2))), (5, 3), 2),
    "unsqueezed": (nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 5))), (5, 3), 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANNELS)
def test_where_the_channels_are(name: str) -> None:
    module, shape, axis = CHANNELS[name]
    model = nn.Sequential(module, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    images = torch.randn(4, *shape)
    expected = model(images).detach()
    graph = capture(model, images).graph
    torch.testing.assert_close(graph(images), expected)
    (site,) = graph.sites
    before = torch.Size(module(images).shape[1:])
    assert site.shape[0] == before[axis - 1]
    assert len([node for node in graph.nodes if node.operation == "permute"]) == (0 if axis == 1 else 2)


FUNCTIONS: dict[str, tuple[Any, int]] = {
    "permute": (lambda x: x.permute(0, 2, 3, 1), 3),
    "patches": (attention_free, 2),
    "and back": (lambda x: attention_free(x).transpose(1, 2), 1),
    "mean": (lambda x: x.permute(0, 2, 3, 1).mean(1), 2),
    "mean of channels": (lambda x: x.mean(1), 1),
    "one token": (lambda x: attention_free(x)[:, 0], 1),
    "concat": (lambda x: torch.cat([attention_free(x), torch.zeros(x.shape[0], 1, x.shape[1])], 1), 2),
    "add": (lambda x: attention_free(x) + F.avg_pool2d(x, 3, 1, 1).flatten(2).transpose(1, 2), 2),
    "scaled": (lambda x: 2 * attention_free(x), 2),
    "every other": (lambda x: attention_free(x)[:, ::2], 2),
    "padded": (lambda x: F.pad(attention_free(x), (0, 0, 1, 0)), 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_channels_follow_the_values(name: str) -> None:
    function, axis = FUNCTIONS[name]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 5, 1), nn.LazyLinear(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(function(self.first(x))).flatten(1))

    model, images = Network().eval(), torch.randn(4, 3, 4, 4)
    expected = model(images).detach()
    graph = capture(model, images).graph
    torch.testing.assert_close(graph(images), expected)
    (site,) = graph.sites
    moved = [node for node in graph.nodes if node.name.startswith(f"{site.name}.channels")]
    assert len(moved) == (0 if axis == 1 else 2)
    if moved:
        assert moved[0].attributes["dims"][1] == axis


def test_operations_work_is_counted_between_permuted_sites() -> None:
    """One spike of a token's channel reaches the 6 channels of the same token."""
    snn = rb.convert(TokenMLP().eval(), rb.RateCoding(timesteps=2), calibration=token_images())
    work = WorkCounter(snn.graph, spiking=True).work
    reach = work["mix"].reach["activation"]
    assert torch.equal(reach, torch.full((6, TOKENS), 6.0, dtype=torch.float64))
