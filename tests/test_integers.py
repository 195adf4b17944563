"""Networks on whole numbers: against a slow reference in Python's integers, and against themselves."""

from __future__ import annotations

import copy
import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_images
from rheobase.core.errors import RecipeError, StoreError
from rheobase.network.target import TARGETS, Target, generic
from rheobase.neurons.firing import FiringRule
from rheobase.neurons.integer import IntegerCount, IntegerFire
from rheobase.signals.signal import SpikeTrain, TimeSeries

RECIPES = {
    "IF": rb.RateCoding(timesteps=4),
    "FTBC": rb.FTBC(timesteps=3, batch_size=8, iterations=1),
    "graded": rb.Graded(timesteps=3, magnitude=2, iterations=0),
    "SNM": rb.SNM(timesteps=4),
    "light": rb.SNNCalibration(timesteps=4),
    "advanced": rb.SNNCalibration(timesteps=4, pipeline="advanced"),
    "multi-threshold": rb.MultiThreshold(timesteps=2, magnitude=4),
    "parallel": rb.ParallelConversion(timesteps=5),
}


@cache
def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
    return net.requires_grad_(False)


@cache
def images() -> Tensor:
    return torch.rand(24, 7, generator=torch.Generator().manual_seed(0))


@cache
def whole(name: str, **options: Any) -> rb.network.IntegerNetwork:
    snn = rb.convert(mlp(), RECIPES[name], calibration=images())
    return rb.integers(snn, options.pop("target", "generic"), calibration=images(), **options)


def numbers(tensor: Tensor) -> Any:
    """As Python's integers, which never round."""
    values = tensor.double()
    assert bool((values == values.round()).all())
    return values.long().tolist()


def fire(neuron: IntegerFire, channel: int, currents: list[int]) -> list[int]:
    """Integrate, fire, subtract."""
    theta, v = numbers(neuron.threshold)[channel], numbers(neuron.initial)[channel]
    alphabet, net, sent = neuron.alphabet.values, 0, []
    for t, current in enumerate(currents):
        bias = 0
        if neuron.bias is not None:
            biases = numbers(neuron.bias)
            bias = (biases[t] if neuron.bias.dim() == 2 else biases)[channel]
        u = v + current - bias
        if neuron.fires == "truncate":
            k = max(alphabet[0], min(alphabet[-1], abs(u) // theta * (1 if u > 0 else -1)))
        else:  # the nearest to u/θ - 1/2, the larger one of two
            k = max(alphabet, key=lambda k: (-abs(2 * u - theta - 2 * theta * k), k))
        if neuron.remembers and k < -net:
            k = min(a for a in alphabet if a >= -net)
        v, net = u - theta * k, net + k
        sent.append(k)
    return sent


def by_hand(network: rb.network.IntegerNetwork, image: Tensor) -> tuple[list[list[list[int]]], list[int]]:
    """Spikes [site][step][neuron] and summed logits of a multilayer perceptron, in Python's integers."""
    pixels = [round(float(x) / network.units.pixel[0]) for x in image.double()]
    trains, steps = [pixels] * network.timesteps, network.timesteps
    spikes = []
    layers = [node for node in network.graph.nodes if node.operation == "linear"]
    for node, neuron in itertools.zip_longest(layers, network.neurons):
        weight, bias = (numbers(network.graph.tensor(node.parameters[name])) for name in ("weight", "bias"))
        currents = [
            [sum(w * x for w, x in zip(row, step, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
            for step in trains
        ]
        if neuron is None:
            return spikes, [sum(step[c] for step in currents) for c in range(len(weight))]
        outputs = []
        for c in range(len(weight)):
            own = [step[c] for step in currents]
            if isinstance(neuron, IntegerFire):
                outputs.append(fire(neuron, c, own))
            else:
                total = sum(own) + numbers(neuron.initial)[c]
                count = max(neuron.lower, min(neuron.upper, total // numbers(neuron.threshold)[c]))
                outputs.append([int(t < count) for t in range(steps)])
        trains = [list(step) for step in zip(*outputs, strict=True)]
        spikes.append(trains)
    raise AssertionError


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", RECIPES)
def test_against_pythons_integers(name: str, bits: int) -> None:
    snn = rb.convert(mlp(), RECIPES[name], calibration=images())
    network = rb.integers(snn, generic(weights=bits, state=20), calibration=images())
    largest = 2 ** (bits - 1) - 1
    for node in network.graph.nodes:
        if node.operation == "linear":
            assert 0 < float(network.graph.tensor(node.parameters["weight"]).abs().max()) <= largest
    network.execution = "steps"
    found: list[Tensor] = []
    logits = network.readouts(images(), (network.timesteps,), monitor=lambda _, train: found.append(train.values))[0]
    for i, image in enumerate(images()):
        spikes, total = by_hand(network, image)
        for site, expected in zip(found, spikes, strict=True):
            assert numbers(site[:, i]) == expected
        expected = torch.tensor(total).double() * (network.units.logit / network.timesteps)
        assert torch.equal(logits[i], expected.float())


@pytest.mark.parametrize("name", RECIPES)
def test_any_execution_batch_dtype_and_order_gives_the_same_bits(name: str) -> None:
    network = whole(name)
    expected = network(images())
    assert torch.equal(torch.cat([network(part) for part in images().split(5)]), expected)
    *_, (t, streamed) = network.stream(images())
    assert t == network.timesteps
    assert torch.equal(streamed, expected)
    assert torch.equal(copy.deepcopy(network).double()(images().double()).float(), expected)
    if name == "parallel":
        assert network.execution_mode == "counts"
        network.execution = "steps"
        assert torch.equal(network(images()), expected)
        network.execution = "auto"
    permuted = network.graph.replace()  # the inputs of every layer in another order
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    first, second = (node for node in permuted.nodes if node.operation == "linear" and node.name != permuted.output)
    for argument in ("weight", "bias"):
        permuted.put(first.parameters[argument], permuted.tensor(first.parameters[argument])[order])
    permuted.put(second.parameters["weight"], permuted.tensor(second.parameters["weight"])[:, order])
    other = network.with_graphs(permuted, network.ann)
    neuron = network.neurons[0]
    buffers = {n: b if b is None or b.dim() == 0 else b[..., order] for n, b in neuron._buffers.items()}
    other.neurons[0] = type(neuron)(**neuron.config(), **buffers)
    assert torch.equal(other(images()), expected)


@pytest.mark.parametrize("name", RECIPES)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    network = whole(name)
    rb.save(network, tmp_path / "whole")
    loaded = rb.load(tmp_path / "whole")
    assert isinstance(loaded, rb.network.IntegerNetwork)
    assert loaded.units == network.units
    assert torch.equal(loaded(images()), network(images()))
    assert rb.diagnose(loaded, images()).to_json() == rb.diagnose(network, images()).to_json()
    stored = load_file(tmp_path / "whole" / "tensors.safetensors")
    weights = [node.parameters["weight"] for node in network.graph.nodes if "weight" in node.parameters]
    assert {stored[f"graph.{weight}"].dtype for weight in weights} == {torch.int8}


@pytest.mark.parametrize("name", RECIPES)
def test_rounding_is_a_part_of_the_diagnosis(name: str) -> None:
    """What the errors of a layer's weights and biases add to the activation, on the spikes that it receives."""
    snn = rb.convert(mlp(), RECIPES[name], calibration=images())
    network = rb.integers(snn, generic(weights=4), calibration=images())
    found = rb.diagnose(network, images())
    trains, _ = network.record(images())
    layers = [node for node in network.graph.nodes if node.operation == "linear"]
    received = [network.pixels(images()), trains[found.rows[0].site].float().mean(0)]
    for row, layer, x, neuron in zip(found.rows, layers, received, network.neurons, strict=False):
        weight, bias = (layer.parameters[argument] for argument in ("weight", "bias"))
        unit = neuron.spike_value / neuron.threshold
        currents = [(x @ g.tensor(weight).T + g.tensor(bias)) * unit for g in (network.graph, network.unrounded)]
        expected = currents[0].relu() - currents[1].relu()
        assert row.terms["rounding"].size == pytest.approx(float(expected.abs().mean()), rel=1e-3, abs=1e-6)
        assert sum(term.mean for term in row.terms.values()) == pytest.approx(row.error.mean, abs=1e-6)
        emitted = trains[row.site].float().mean(0) * neuron.spike_value
        activation = dict(zip([r.site for r in found.rows], activations(), strict=True))[row.site]
        assert row.error.size == pytest.approx(float((emitted - activation).abs().mean()), abs=1e-6)
    exact = rb.diagnose(rb.integers(snn, generic(weights=16, state=32), calibration=images()), images())
    for coarse, fine in zip(found.rows, exact.rows, strict=True):
        assert fine.terms["rounding"].size < coarse.terms["rounding"].size / 100
    assert "rounding" in str(found)
    assert "rounding" not in str(rb.diagnose(snn, images()))


def activations() -> list[Tensor]:
    """Of the sites of the analog network."""
    first = mlp()[:2](images())
    return [first, mlp()[2:4](first)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [rb.Graded(timesteps=8, magnitude=4, iterations=0), rb.ParallelConversion(timesteps=32)]
)
@pytest.mark.parametrize("name", networks.GRID)
def test_networks_of_every_kind(name: str, recipe: rb.Recipe) -> None:
    """Each becomes whole numbers with nearly its answers, or a sentence says why not."""
    snn = rb.convert(networks.build(name), recipe, calibration=grid_images(name))
    if name in WITHOUT:
        with pytest.raises(RecipeError, match=WITHOUT[name]):
            rb.integers(snn, calibration=grid_images(name))
        return
    network = rb.integers(snn, generic(weights=12, state=32), calibration=grid_images(name))
    reference, found = snn(grid_images(name)), network(grid_images(name))
    assert float((found - reference).norm() / reference.norm()) < 0.15
    network.execution = "steps"
    assert torch.equal(network(grid_images(name)), found)


WITHOUT = dict.fromkeys(("MobileNetV2", "SplitPermuteNet"), 'reads the output of .*sites="all"')
"""Networks with weights on linear outputs."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_threshold_that_must_be_exceeded_is_a_potential_of_one_less(name: str) -> None:
    reached, exceeded = whole(name), whole(name, fires_when="exceeded")
    assert "exceeded" in str(exceeded.provenance.notes)
    assert all(torch.equal(a, b) for a, b in zip(*(n.graph.tensors.values() for n in (reached, exceeded)), strict=True))
    for first, second in zip(reached.neurons, exceeded.neurons, strict=True):
        assert torch.equal(second.threshold, first.threshold)
        assert torch.equal(second.initial, first.initial - 1)


def test_learned_rounding_is_nearer_than_the_nearest() -> None:
    snn = rb.convert(mlp(), rb.ParallelConversion(timesteps=64), calibration=images())
    errors = {}
    for rounding in ("nearest", "learned"):
        network = rb.integers(snn, generic(weights=3), calibration=images(), rounding=rounding)
        errors[rounding] = float((network(images()) - snn(images())).norm())
        weights = [network.graph.tensor(n.parameters["weight"]) for n in network.graph.nodes if n.operation == "linear"]
        assert all(float(weight.abs().max()) <= 3 for weight in weights)
    assert errors["learned"] < errors["nearest"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [rb.Graded(timesteps=4, magnitude=4), rb.ParallelConversion(timesteps=8), rb.SNM()])
@pytest.mark.parametrize("name", [name for name in networks.GRID if name not in WITHOUT])
def test_learned_rounding_of_networks_of_every_kind(name: str, recipe: rb.Recipe) -> None:
    """On the images that it is fitted to."""
    bits = 8 if name == "VGG" else 6  # it has weights of up to 90 thresholds
    snn = rb.convert(networks.build(name), recipe, calibration=grid_images(name))
    errors = []
    for rounding in ("nearest", "learned"):
        network = rb.integers(snn, generic(weights=bits), calibration=grid_images(name), rounding=rounding)
        errors.append(float((network(grid_images(name)) - snn(grid_images(name))).norm()))
    assert errors[1] < errors[0]


def test_pixels() -> None:
    """uint8 images, and what preprocessing made of them, are the same to the network."""
    pixels = torch.randint(0, 256, (10, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.5, 0.4, 0.2]), torch.tensor([0.2, 0.3, 0.25])
    values = (pixels / 255 - mean[:, None, None]) / std[:, None, None]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).requires_grad_(False)
    snn = rb.convert(net, rb.RateCoding(timesteps=4), calibration=values)
    how = rb.data.Preprocessing(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    network = rb.integers(snn, calibration=values, preprocessing=how)
    zeros = torch.tensor(network.units.zero)
    assert torch.equal(network.pixels(values), (pixels.long() - zeros[:, None, None]).float())
    assert torch.equal(network(pixels), network(values))
    assert float((network(values) - snn(values)).norm() / snn(values).norm()) < 0.1


def test_preprocessing_that_is_not_that_of_the_images() -> None:
    snn = rb.convert(mlp(), RECIPES["IF"], calibration=images())
    other = rb.data.Preprocessing(mean=(0.5,), std=(0.1,))
    with pytest.raises(rb.core.errors.DataError, match="not made of pixels"):
        rb.integers(snn, calibration=images(), preprocessing=other)
    snn.provenance.calibration["preprocessing"] = other.model_dump(mode="json")  # of arrays, not of these
    assert rb.integers(snn, calibration=images()).units.zero == (0,)


@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=8),
    st.integers(1, 30),
    st.sampled_from([4, 5, 6]),
    st.sampled_from(["saturate", "wrap"]),
)
def test_a_potential_stays_within_its_width(currents: list[int], theta: int, bits: int, overflow: Any) -> None:
    neuron = IntegerFire(torch.tensor([float(theta)]), torch.tensor([0.0]), bits=bits, overflow=overflow)
    train = torch.tensor(currents).float().reshape(-1, 1, 1)
    spikes, (end,) = neuron.run(train, neuron.init((1, 1), train))
    v, count, lowest, highest = 0, 0, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for t, current in enumerate(currents):
        u = v + current
        inside = max(lowest, min(highest, u)) if overflow == "saturate" else (u - lowest) % 2**bits + lowest
        count += inside != u
        k = int(inside >= theta)
        v = inside - theta * k
        assert float(spikes[t]) == k
    assert float(end) == v
    assert neuron.overflows == count


@given(st.lists(st.integers(-400, 400), min_size=1, max_size=6), st.integers(1, 60), st.integers(-30, 60))
def test_a_count_is_the_floor_of_the_sum(currents: list[int], theta: int, initial: int) -> None:
    steps = len(currents)
    neuron = IntegerCount(torch.tensor([float(theta)]), torch.tensor([float(initial)]), steps, 0, steps)
    train = neuron.spike_train(TimeSeries(torch.tensor(currents).float().reshape(-1, 1, 1)), steps)
    assert isinstance(train, SpikeTrain)
    assert float(train.values.sum()) == max(0, min(steps, (sum(currents) + initial) // theta))


def tiny_threshold(divisor: float) -> rb.SpikingNetwork:
    """In channel 3 of the first site the largest weight of one pixel unit is ``divisor`` thresholds."""
    snn = rb.convert(mlp(), rb.Graded(timesteps=4, magnitude=4, iterations=0), calibration=images())
    first = next(node for node in snn.graph.nodes if node.operation == "linear")
    theta = snn.neurons[0].threshold.clone()
    theta[3] = snn.graph.tensor(first.parameters["weight"])[3].abs().max() * images().max() / 255 / divisor
    snn.neurons[0].set(threshold=theta)
    return snn


@pytest.mark.parametrize("divisor", [1, 150, 250, 500])
def test_a_channel_that_is_nearly_silent_has_a_coarser_grid(divisor: float) -> None:
    """Its threshold is 1, its weights are multiples of a power of two, and the rest is as exact as ever."""
    found = rb.integers(tiny_threshold(divisor), calibration=images())
    assert int(found.neurons[0].threshold[3]) == max(1, 127 // divisor)
    weight = next(node for node in found.graph.nodes if node.operation == "linear").parameters["weight"]
    row = found.graph.tensor(weight)[3]
    step = 2 ** max(0, math.ceil(math.log2(divisor / 127.49)))
    assert torch.equal(row % step, torch.zeros_like(row))
    assert int(row.abs().max()) <= 127 * step
    spikes, logits = found.record(images()[:3])
    for i in range(3):
        expected, sums = by_hand(found, images()[i])
        assert [numbers(train[:, i]) for train in spikes.values()] == expected
        assert numbers(logits[i]) == sums


def test_a_grid_that_is_too_coarse_is_refused() -> None:
    """Graded neurons, −4..4 in four steps, emit at most 16: a grid of 8 is too coarse."""
    with pytest.raises(RecipeError, match="cannot hold channel 3 in 8-bit weights"):
        rb.integers(tiny_threshold(600), calibration=images())


def few_levels() -> rb.SpikingNetwork:
    """Thresholds below the largest activations."""
    recipe = rb.RateCoding(timesteps=16, threshold="percentile", percentile=50.0)
    return rb.convert(mlp(), recipe, calibration=images())


def broken() -> rb.SpikingNetwork:
    """NaN among the weights."""
    snn = rb.convert(mlp(), RECIPES["IF"], calibration=images())
    name = snn.graph.nodes[-1].parameters["weight"]
    snn.graph.put(name, torch.full_like(snn.graph.tensor(name), torch.nan))
    return snn


def test_overflows_are_counted_and_reported() -> None:
    network = rb.integers(few_levels(), generic(weights=8, state=9, biases=20), calibration=images())
    (note,) = (note for note in network.provenance.notes if "potentials beyond 9 bits" in note)
    assert "(first at " in note
    assert network.overflows == 0
    network(images())
    assert network.overflows > 0


def test_branches_meet_on_the_finest_grid() -> None:
    """A shortcut with a small weight keeps its precision where the target has shifts."""

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
    with_shifts = rb.integers(snn, generic(weights=5), calibration=images())
    without = rb.integers(snn, generic(weights=5).replace(shifts=False), calibration=images())
    weights = {
        n.name: with_shifts.graph.tensor(n.parameters["weight"]) for n in with_shifts.graph.nodes if n.parameters
    }
    large, small = (next(w for name, w in weights.items() if word in name) for word in ("large", "small"))
    assert float(small.abs().max()) <= 15
    assert float(large.abs().max()) > 15
    assert bool((large % 2 == 0).all())
    assert float(without.neurons[1].threshold.max()) < float(with_shifts.neurons[1].threshold.max())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rb.integers(whole("IF"), calibration=images()), "already in whole numbers"),
        (lambda: rb.integers(mlp(), calibration=images()), "not a SpikingNetwork"),
        (lambda: whole("graded", target="speck"), "speck has no negative spikes"),
        (lambda: whole("parallel", target="loihi2"), "wait for their whole input"),
        (lambda: whole("FTBC", target="xylo"), "a bias for each step"),
        (lambda: whole("IF", target="abacus"), "target: is 'abacus'"),
        (lambda: rb.evaluate(whole("parallel"), images(), (2,)), "its count is for T = 5"),
        (lambda: rb.network.for_inference(whole("parallel")), "is on whole numbers"),
        (lambda: whole("IF", target=3), "target: is 3"),
        (lambda: generic(weights=1), "weights"),
        (
            lambda: whole("FTBC", target=generic(weights=8, biases=3)),
            "a bias of .* at a step, which 3 bits cannot hold",
        ),
        (lambda: whole("IF", preprocessing="imagenet"), "preprocessing: is a str"),
        (lambda: rb.integers(broken(), calibration=images()), "holds NaN or infinite values"),
        (lambda: whole("IF", rounding="up"), "rounding"),
        (lambda: whole("IF", fires_when="often"), "fires_when: is 'often'"),
        (
            lambda: rb.integers(rb.convert(mlp(), rb.TPP(timesteps=4), calibration=images()), calibration=images()),
            "without a response",
        ),
        (
            lambda: rb.integers(rb.convert(mlp(), rb.SRP(timesteps=4), calibration=images()), calibration=images()),
            "phases of Silence",
        ),
        (lambda: rb.integers(few_levels(), generic(weights=2), calibration=images()), "cannot hold channel"),
    ],
)
def test_bad_input(make: Any, said: str) -> None:
    with pytest.raises(rb.RheobaseError, match=said):
        make()


def test_linear_outputs_have_to_fire() -> None:
    net, pictures = networks.build("MobileNetV2"), grid_images("MobileNetV2")
    recipe = rb.Graded(timesteps=2, magnitude=4, iterations=0)
    snn = rb.convert(net, recipe, calibration=pictures)
    with pytest.raises(RecipeError, match=r'reads the output of features.1.conv.1: values.*sites="all"'):
        rb.integers(snn, calibration=pictures)
    snn = rb.convert(net, recipe, calibration=pictures, sites="all")
    network = rb.integers(snn, generic(weights=12), calibration=pictures)
    assert float((network(pictures) - snn(pictures)).norm() / snn(pictures).norm()) < 0.2


def test_weights_altered_afterwards(tmp_path: Path) -> None:
    network = rb.integers(rb.convert(mlp(), RECIPES["IF"], calibration=images()), calibration=images())
    name = network.graph.nodes[1].parameters["weight"]
    network.graph.put(name, network.graph.tensor(name) * 0.7)
    rb.save(network, tmp_path / "altered")
    with pytest.raises(StoreError, match="not whole"):
        rb.load(tmp_path / "altered")


def test_a_constant_bias_is_the_layers() -> None:
    """One bias has one width, that of the target."""
    snn = rb.convert(mlp(), rb.RTS(timesteps=8), calibration=images())
    assert all(neuron.bias is not None for neuron in snn.neurons)
    network = rb.integers(snn, generic(weights=8, biases=9), calibration=images())
    assert all(neuron.bias is None for neuron in network.neurons)
    graph = network.graph
    biases = [graph.tensor(node.parameters["bias"]) for node in graph.nodes if "bias" in node.parameters]
    assert all(float(bias.abs().max()) <= 255 for bias in biases)
    assert float((network(images()) - snn(images())).norm() / snn(images()).norm()) < 0.1


def test_profiles() -> None:
    assert TARGETS["speck"].scale == "layer"
    assert Target.model_validate(TARGETS["xylo"].model_dump()) == TARGETS["xylo"]
    network = whole("IF", target="speck")
    thresholds = [neuron.threshold for neuron in network.neurons]
    assert all(len(set(one.tolist())) == 1 for one in thresholds)
    assert FiringRule(network.neurons[0].alphabet.values).consecutive


def test_whole_numbers_change_no_work() -> None:
    """A neuron that counts its net spikes has two updates a step, on whole numbers too."""
    for name in ("graded", "IF"):
        snn = rb.convert(mlp(), RECIPES[name], calibration=images())
        network = whole(name)
        for site in snn.sites:
            assert network.neuron_work(site.name, 3, 3) == snn.neuron_work(site.name, 3, 3)
            assert network.neuron(site.name).capacity(3) == snn.neuron(site.name).capacity(3)
