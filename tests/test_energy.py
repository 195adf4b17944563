"""Operations against plain loops, numbers worked by hand, another library and the papers' tables."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_graph, grid_images, grid_snn
from rheobase.core.errors import RecipeError
from rheobase.graph import Graph, capture
from rheobase.graph.synapses import WorkCounter
from rheobase.measure._energy import spikes_per_image
from tables import unpadded


def column_of(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], i: int) -> Tensor:
    x = torch.zeros(1, *shape)
    x.flatten()[i] = 1
    return function(x)


def slow_reach(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """Outputs that each input reaches: where the response to it alone is not zero."""
    size = int(torch.tensor(shape).prod())
    return torch.tensor([int((column_of(function, shape, i) != 0).sum()) for i in range(size)]).reshape(shape)


class Before(nn.Module):
    """A site, then affine operations without bias."""

    def __init__(self, after: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.relu(x))


def work_of(after: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Graph, WorkCounter]:
    graph = capture(Before(after).eval(), torch.rand(2, *shape)).graph
    return graph, WorkCounter(graph, spiking=True)


def reach_of(counter: WorkCounter) -> Tensor:
    (source,) = counter.sources
    return sum(work.reach[source] for work in counter.work.values() if source in work.reach)  # type: ignore[return-value]


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(3, 4, 3, padding=1), (3, 5, 5)),
    "stride": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 6, 5)),
    "groups": (nn.Conv2d(4, 6, 3, padding=2, groups=2), (4, 4, 4)),
    "dilation": (nn.Conv2d(2, 3, 3, dilation=2, padding=1), (2, 7, 6)),
    "same": (nn.Conv2d(2, 3, 3, padding="same"), (2, 4, 4)),
    "1d": (nn.Conv1d(2, 3, 4, stride=3, padding=2), (2, 9)),
    "3d": (nn.Conv3d(1, 2, 2, padding=1), (1, 3, 3, 2)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3, 3)),
    "linear": (nn.Linear(7, 5), (7,)),
    "linear of many": (nn.Linear(4, 5), (3, 4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_spike_reaches_what_responds_to_it(name: str) -> None:
    layer, shape = LAYERS[name]
    with torch.no_grad():
        layer.bias.zero_()  # type: ignore[union-attr, operator]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weight[weight.abs() < 0.05] = 0  # pruned
    _, counter = work_of(layer, shape)
    assert torch.equal(reach_of(counter), slow_reach(layer, shape).double())


POOLS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "overlapping": (lambda x: F.avg_pool2d(x, 3, 2, 1), (2, 6, 5)),
    "ceil": (lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True), (2, 5, 5)),
    "1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), (2, 7)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (2, 5, 7)),
    "mean": (lambda x: x.mean((2, 3)), (2, 3, 3)),
    "bilinear": (lambda x: F.interpolate(x, size=(7, 5), mode="bilinear", align_corners=True), (1, 4, 3)),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), (1, 2, 3)),
    "routing": (lambda x: F.pad(x[:, :, ::2].transpose(1, 2), (1, 0), "constant", 0.0).flatten(1), (2, 4, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_pooled_spikes_enter_every_window(name: str) -> None:
    pool, shape = POOLS[name]
    _, counter = work_of(pool, shape)
    assert torch.equal(reach_of(counter), slow_reach(pool, shape).double())
    assert all(work.macs == work.acs == 0 for work in counter.work.values())


def test_pooling_then_weights_is_the_product() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    _, counter = work_of(lambda x: conv(F.avg_pool2d(x, 2)), (2, 6, 6))
    windows = slow_reach(conv, (2, 3, 3)).double()
    assert torch.equal(reach_of(counter), windows.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_shortcut_is_one_addition_for_each_spike() -> None:
    conv = nn.Conv2d(2, 2, 1, bias=False)
    _, counter = work_of(lambda x: conv(x) + x, (2, 3, 3))
    assert torch.equal(reach_of(counter), torch.full((2, 3, 3), 3.0, dtype=torch.float64))


# --- by hand --------------------------------------------------------------------------------------


def small(bias: bool = True) -> nn.Module:
    """Two sites of four and three neurons with known weights."""
    first, second, last = nn.Linear(2, 4), nn.Linear(4, 3), nn.Linear(3, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0.5, 0.5], [-1, -1]]))
        second.weight.copy_(torch.tensor([[1.0, 0, 0, 1], [0, 0, 0.75, 1], [0, 0, 0, 1]]))
        for layer in (first, second, last):
            layer.bias.zero_()
    return nn.Sequential(first, rb.QCFS(4, 1.0), second, rb.QCFS(4, 1.0), last).eval()


@pytest.mark.slow
def test_worked_by_hand() -> None:
    # image (1, 0.25), T = 4, θ = 1: currents 1, ¼, 0.625, -1.25; counts 4, 1, 3 (0.625·4 + ½ = 3), 0
    # second: means 1, 0.75·0.75 = 0.5625, 0: counts 4, 2 (2.25 + ½), 0
    snn = rb.convert(small(), rb.Pascal(), example=torch.rand(4, 2))
    found = rb.energy(snn, torch.tensor([[1.0, 0.25]]))
    one, two, readout = found.rows
    assert (one.spikes, two.spikes, readout.spikes) == (8, 6, 0)
    # six weights of the first layer are not zero, once; neuron 1 reaches one output, 2 none, 3 one, 4 three
    assert (one.macs, one.acs) == (6, 0)
    assert (two.macs, two.acs) == (0, 4 * 1 + 1 * 0 + 3 * 1)
    assert (readout.macs, readout.acs) == (0, 6 * 2)
    # stages: 4 + 3 + 4 potential updates, 4 + 3 of the counter = 5·4 − 2
    assert (one.updates, two.updates) == (4 * 18, 3 * 18)
    assert (one.comparisons, two.comparisons) == (4 * 11, 3 * 11)
    assert (one.ann_macs, two.ann_macs, readout.ann_macs) == (6, 5, 6)
    assert one.picojoules == pytest.approx(4.6 * 6 + 0.9 * 72)
    assert found.picojoules == pytest.approx(4.6 * 6 + 0.9 * (7 + 12 + 126))
    assert found.ann_picojoules == pytest.approx(4.6 * 17)
    assert found.ratio == pytest.approx(found.picojoules / found.ann_picojoules)
    assert found.ann_macs_padded == 8 + 12 + 6
    assert found.spike_rate == pytest.approx(14 / 7)
    int8 = rb.energy(snn, torch.tensor([[1.0, 0.25]]), costs="int8-45nm")
    assert int8.picojoules == pytest.approx(0.23 * 6 + 0.03 * (7 + 12 + 126))
    own = rb.measure.Costs(name="mine", mac=2, ac=1, update=0.5, comparison=0.25)
    priced = rb.energy(snn, torch.tensor([[1.0, 0.25]]), costs=own)
    assert priced.picojoules == pytest.approx(2 * 6 + 19 + 0.5 * 126 + 0.25 * 77)
    assert any("comparisons" in text for text in found.not_counted)
    assert not any("comparisons" in text for text in priced.not_counted)


def test_a_value_between_two_weights_multiplies_at_every_step() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    snn = rb.convert(net, rb.RateCoding(timesteps=6), calibration=torch.rand(8, 3))
    found = rb.energy(snn, torch.rand(8, 3))
    assert [row.macs for row in found.rows] == [12, 6 * 10, 0]
    assert found.rows[1].acs == pytest.approx(2 * found.rows[0].spikes)
    assert [row.ann_macs for row in found.rows] == [12, 8 + 10, 10]


# --- on whole networks ----------------------------------------------------------------------------


@pytest.mark.slow
@given(rate=st.floats(0, 4), name=st.sampled_from(["MLP", "DenseNet", "PreActResNet"]))
@settings(max_examples=10)
def test_energy_is_linear_in_the_spikes(rate: float, name: str) -> None:
    snn = grid_snn(name)
    none, some, all_ = (rb.energy(snn, spike_rate=r) for r in (0.0, rate, 4.0))
    for a, b, c in zip(none.rows, some.rows, all_.rows, strict=True):
        assert b.acs == pytest.approx(a.acs + rate / 4 * (c.acs - a.acs))
        assert a.macs == b.macs == c.macs


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.GRID)
def test_the_analog_network_is_counted_as_others_count_it(name: str) -> None:
    """Products of every weight with every place that it sees, by hooks on the user's modules."""
    net, images = networks.build(name), grid_images(name)[:1]
    found = [0]

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        if isinstance(module, nn.ConvTranspose2d):
            found[0] += inputs[0][0, 0].numel() * weight.numel()
        else:
            found[0] += output.numel() * weight[0].numel()

    for module in net.modules():
        if isinstance(module, networks.WEIGHTED):
            module.register_forward_hook(count)
    with torch.no_grad():
        net(images)
    work = WorkCounter(grid_graph(name), spiking=False).work
    assert sum(done.padded for done in work.values()) == found[0]
    for node in grid_graph(name).nodes:
        if work[node.name].padded:  # without the zeros of padding
            assert 0 < work[node.name].macs <= work[node.name].padded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["QCFSResNet", "UNet"])
def test_both_executions_count_the_same(name: str) -> None:
    images = grid_images(name)
    recipe = rb.QVM(levels=4) if name != "QCFSResNet" else rb.QVM()
    net = networks.build(name)
    net = rb.quantise(net, recipe, calibration=images) if name != "QCFSResNet" else net
    snn = rb.convert(net, recipe, calibration=images)
    found = {}
    for execution in ("steps", "counts"):
        snn.execution = execution  # type: ignore[assignment]
        found[execution] = rb.energy(snn, images)
    for one, other in zip(found["steps"].rows, found["counts"].rows, strict=True):
        assert one.spikes == pytest.approx(other.spikes, rel=2e-3)  # a sum may round across an edge
        assert one.acs == pytest.approx(other.acs, rel=2e-3)


def test_gates_pass_one_spike_a_window() -> None:
    images = grid_images("VGG")
    snn = rb.convert(networks.build("MaxPoolVGG"), rb.RateCoding(timesteps=4), calibration=images, max_pool="gate")
    counter = WorkCounter(snn.graph, spiking=True)
    gates = [node for node in snn.graph.nodes if node.operation == "max_pool"]
    assert {node.name for node in gates} < set(counter.sources)
    seen, spikes = spikes_per_image(snn, images, 4, counter.sources)
    assert seen == len(images)
    for gate in gates:
        (before,) = gate.inputs
        arrived, passed = float(spikes[before].magnitude.sum()), float(spikes[gate.name].magnitude.sum())
        assert 0.25 * arrived <= passed + 1e-9
        assert passed < arrived
    found = rb.energy(snn, images)
    last = float(spikes[gates[-1].name].magnitude.sum())
    assert found.rows[-1].acs == pytest.approx(last * networks.CLASSES)
    assert any("max-pooling" in text for text in found.not_counted)


def test_it_does_not_depend_on_batches() -> None:
    snn, images = grid_snn("MobileNetV2"), grid_images("MobileNetV2")
    whole = rb.energy(snn, images)
    parts = rb.energy(snn, [images[:3], (images[3:], torch.zeros(len(images) - 3))])
    assert whole.images == parts.images == len(images)
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert one.acs == pytest.approx(other.acs, rel=1e-12)


class Plain(nn.Module):
    """A spiking network in plain PyTorch: 0/1 spikes, θ in the weights after them, the image's current once."""

    def __init__(self, snn: rb.SpikingNetwork, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers, self.steps = copy.deepcopy(layers), snn.timesteps
        neurons = [snn.neuron(site.name) for site in snn.sites]
        self.theta = [float(neuron.amplitude) for neuron in neurons]
        self.start = [
            float(neuron.initial_potential) * theta for neuron, theta in zip(neurons, self.theta, strict=True)
        ]
        for layer, theta in zip(self.layers[1:], self.theta, strict=True):
            layer.weight.data *= theta  # type: ignore[operator, union-attr]

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        current = self.layers[0](x)
        v: list[Tensor | float] = list(self.start)
        total = torch.zeros(())
        for _ in range(self.steps):
            x = current
            for i, theta in enumerate(self.theta):
                v[i] = v[i] + (x if i == 0 else self.layers[i](x))
                x = (v[i] >= theta).float()
                v[i] = v[i] - theta * x
            total = total + self.layers[-1](x.flatten(1))
        return total / self.steps


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(2, 6, 3, padding=1),
                nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2),
                nn.Conv2d(8, 4, 3, dilation=2, padding=1),
                nn.Linear(16, 3),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.layers)[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x.flatten(1))


@pytest.mark.crosscheck
def test_against_neurobench() -> None:
    """NeuroBench 2 counts the synaptic operations of a plain simulation by hooks on its layers."""
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel

    net, images = Convolutions().eval(), torch.rand(16, 2, 8, 8) + 0.01
    snn = rb.convert(net, rb.RateCoding(timesteps=5, granularity="layer"), calibration=images)
    plain = Plain(snn, net.layers)
    torch.testing.assert_close(plain(images), snn(images))
    model = TorchModel(plain)
    model.register_hooks()
    counted = SynapticOperations()(model, model(images), (images, None))
    found = rb.energy(snn, images)
    assert found.acs == counted["Effective_ACs"] > 0
    assert found.macs == counted["Effective_MACs"] > 0


def test_against_a_plain_simulation() -> None:
    """The same without NeuroBench: what arrives at each layer, counted by its response to ones."""
    net, images = Convolutions().eval(), torch.rand(16, 2, 8, 8) + 0.01
    snn = rb.convert(net, rb.RateCoding(timesteps=5, granularity="layer"), calibration=images)
    plain = Plain(snn, net.layers)
    counted = [0.0] * 4

    def count(i: int, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        ones = copy.deepcopy(layer)
        ones._forward_pre_hooks.clear()
        ones.weight.data.fill_(1)  # type: ignore[union-attr, operator]
        ones.bias.data.zero_()  # type: ignore[union-attr, operator]
        counted[i] += float(ones((inputs[0] != 0).float()).sum()) / len(images)

    for i, layer in enumerate(plain.layers):
        layer.register_forward_pre_hook(partial(count, i))
    plain(images)
    found = rb.energy(snn, images)
    assert [row.macs for row in found.rows] == [pytest.approx(counted[0]), 0, 0, 0]
    assert [row.acs for row in found.rows] == [0, *(pytest.approx(n) for n in counted[1:])]


# --- graded spikes ---------------------------------------------------------------------------------


@cache
def small_net() -> Graph:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    return capture(net.eval(), torch.rand(2, 3)).graph


def graded(net: nn.Module, images: Tensor, magnitude: int, timesteps: int = 3, **how: object) -> rb.SpikingNetwork:
    recipe = rb.Recipe(
        name="graded",
        timesteps=timesteps,
        neuron=rb.methods.GradedNeuron(magnitude=magnitude),
        calibration=(rb.passes.Thresholds(method="max"),),
    )
    return rb.convert(net, recipe, calibration=images, **how)  # type: ignore[arg-type]


def counted(snn: rb.SpikingNetwork, images: Tensor) -> dict[str, Tensor]:
    """What each neuron emits at each step, [T, B, C], as whole numbers."""
    found: dict[str, Tensor] = {}
    snn.readouts(
        images,
        (snn.timesteps,),
        monitor=lambda site, emitted: found.update({site.name: emitted.values / snn.neuron(site.name).amplitude}),
    )
    return {name: k.round() for name, k in found.items()}


def test_graded_spikes_are_additions_or_products() -> None:
    images = torch.rand(7, 3)
    snn = graded(small_net(), images, magnitude=3)
    k = counted(snn, images)
    magnitude = {name: float(values.abs().sum()) / 7 for name, values in k.items()}
    events = {name: float((values != 0).sum()) / 7 for name, values in k.items()}
    first, second = magnitude
    assert events[first] < magnitude[first]  # else this test sees no graded spike
    costs = rb.measure.Costs(name="mine", mac=100.0, ac=1.0, product=10.0, update=0.0)
    added, multiplied = (rb.energy(snn, images, costs=costs, graded_spikes=how) for how in ("additions", "products"))
    assert [row.acs for row in added.rows] == pytest.approx([0, 5 * magnitude[first], 4 * magnitude[second]])
    assert [row.products for row in multiplied.rows] == pytest.approx([0, 5 * events[first], 4 * events[second]])
    assert added.products == multiplied.acs == 0
    assert added.macs == multiplied.macs == 18
    assert multiplied.picojoules == pytest.approx(1800 + 10 * multiplied.products)
    assert added.ann_picojoules == multiplied.ann_picojoules
    assert (added.spikes, added.events) == (multiplied.spikes, multiplied.events)
    written = json.loads(json.dumps(multiplied.to_json()))
    assert written["graded_spikes"] == "products"
    assert written["alphabet"] == {"values": [-3, -2, -1, 0, 1, 2, 3], "bits": pytest.approx(2.807, abs=1e-3)}


@given(timesteps=st.integers(1, 5), magnitude=st.integers(1, 5))
@settings(max_examples=10)
def test_products_are_at_most_the_additions_and_equal_for_ternary_spikes(timesteps: int, magnitude: int) -> None:
    images = torch.rand(5, 3)
    snn = graded(small_net(), images, magnitude, timesteps)
    added, multiplied = (rb.energy(snn, images, graded_spikes=how) for how in ("additions", "products"))
    assert multiplied.acs + multiplied.products <= added.acs
    if magnitude == 1:
        assert added.rows == multiplied.rows


def test_binary_spikes_are_counted_alike() -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    added, multiplied = (rb.energy(snn, images, graded_spikes=how) for how in ("additions", "products"))
    assert added.rows == multiplied.rows
    assert "Alphabet {0, 1} (1 bit a spike). Not counted" in multiplied.summary()


def test_only_the_sites_with_graded_spikes_multiply() -> None:
    images = torch.rand(5, 3)
    snn = graded(small_net(), images, magnitude=4)
    theta = snn.neurons[0].threshold
    assert isinstance(theta, Tensor)
    snn.neurons[0] = rb.neurons.IntegrateFire(theta, torch.tensor(0.5))
    snn.plan()
    rows = rb.energy(snn, images, graded_spikes="products").rows
    assert rows[1].acs > 0 == rows[1].products
    assert rows[2].products > 0 == rows[2].acs
    assert [str(row.alphabet) for row in rows] == ["{0, 1}", "{-4..4}", "None"]
    assert str(snn.alphabet) == "{-4..4}"


def test_a_gate_passes_the_alphabet_of_its_input() -> None:
    images = torch.rand(6, 1, 6, 6)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)).eval()
    snn = graded(net, images, magnitude=3, max_pool="gate")
    (_, readout) = rb.energy(snn, images, graded_spikes="products").rows
    assert readout.products > 0 == readout.acs


def test_the_price_of_a_product() -> None:
    assert rb.measure.Costs(name="mine", mac=2.0, ac=0.5).product == 2.0
    images = torch.rand(5, 3)
    snn = graded(small_net(), images, magnitude=4)
    bound = rb.energy(snn, images, costs="int8-45nm", graded_spikes="products")
    assert "at the price of a MAC, an upper bound, because int8-45nm has none" in bound.summary()
    assert "a spike of magnitude k is counted as one multiplication" in bound.summary()
    assert "| products |" in unpadded(str(bound))
    chip = rb.measure.Costs(name="chip", mac=2.0, ac=0.5, product=0.7)
    assert "upper bound" not in rb.energy(snn, images, costs=chip, graded_spikes="products").summary()
    assert "as k additions" in rb.energy(snn, images).summary()


def test_work_of_a_graded_neuron() -> None:
    one = torch.tensor(1.0)
    assert rb.neurons.IntegrateFire(one, one / 2).updates(None, 4) == 4
    assert rb.neurons.IntegrateFire(one, one / 2).comparisons(None, 4) == 4
    remembering = rb.neurons.Graded(one, one / 2, magnitude=4)
    assert remembering.updates(None, 4) == 8  # its potential, and its net number of spikes
    assert remembering.comparisons(None, 4) == 4 * (4 + 1)  # one of nine numbers, and not below what was sent
    free = rb.neurons.Graded(one, one / 2, magnitude=1, nonnegative=False)
    assert (free.updates(None, 4), free.comparisons(None, 4)) == (4, 8)


def test_a_spike_rate_of_graded_spikes() -> None:
    images = torch.rand(5, 3)
    snn = graded(small_net(), images, magnitude=4, timesteps=2)
    assert rb.energy(snn, spike_rate=8).spikes == 8 * 11
    with pytest.raises(RecipeError, match=r"spike_rate: is 9.*from 0 to m T = 8"):
        rb.energy(snn, spike_rate=9)
    with pytest.raises(RecipeError, match="does not determine the number of events"):
        rb.energy(snn, spike_rate=1, graded_spikes="products")
    with pytest.raises(RecipeError, match="graded_spikes"):
        rb.energy(snn, images, graded_spikes="shifts")  # type: ignore[arg-type]


# --- tables and bad input -------------------------------------------------------------------------


def test_table_and_json() -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    found = rb.energy(snn, images)
    written = json.loads(json.dumps(found.to_json()))
    assert written["picojoules"] == found.picojoules
    assert written["costs"]["mac"] == 4.6
    table = str(found).splitlines()
    assert len(table) == 2 + len(found.rows) + 1 + 2
    assert all(line.count("|") == table[0].count("|") for line in table[:-2])
    assert "Not counted: moving spikes" in table[-1]


def test_bad_input() -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    with pytest.raises(RecipeError, match="images and spike_rate: are both"):
        rb.energy(snn)
    with pytest.raises(RecipeError, match="are both given"):
        rb.energy(snn, images, spike_rate=0.75)
    for rate in (-1.0, 5.0, float("nan")):
        with pytest.raises(RecipeError, match="spike_rate: is"):
            rb.energy(snn, spike_rate=rate)
    with pytest.raises(RecipeError, match=r"'fp16' is unknown.*use fp32-45nm, int8-45nm"):
        rb.energy(snn, images, costs="fp16")
    with pytest.raises(RecipeError, match="costs: mac: input should be greater than or equal to 0"):
        rb.measure.Costs(name="mine", mac=-1, ac=1)
    with pytest.raises(RecipeError, match="costs: unknown field 'adds'"):
        rb.measure.Costs(name="mine", mac=1, ac=1, adds=1)
