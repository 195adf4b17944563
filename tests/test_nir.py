"""NIR files, there and back, and against a plain reading of NIR's definitions."""

from __future__ import annotations

import copy
import json
from functools import cache
from itertools import pairwise
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
from command_line import assert_refused, runner
from conftest import grid_images, grid_snn, spike_counts
from rheobase.core.errors import StoreError
from rheobase.methods import METHODS, Recipe
from rheobase.neurons import IntegrateFire
from rheobase.neurons.integer import IntegerFire

nir = pytest.importorskip("nir")

import nir_reference  # noqa: E402

WITHOUT_NODE = {"UNet": "up1 .*conv_transpose", "Conv3dNet": "conv1 .*convolution in 3 dimensions"}
WRITABLE = [name for name in networks.GRID if name not in WITHOUT_NODE]


def holds_every_spike(path: Path, written: Any, snn: rb.SpikingNetwork, images: Tensor) -> None:
    """The file, run by NIR's definitions, has the counts of the network at every neuron, and its logits."""
    expected, logits = spike_counts(snn, images)
    found, mean = nir_reference.run(nir.read(path), images, snn.timesteps)
    for site, count in expected.items():
        assert torch.equal(found[written.sites[site]], count.double()), site
    torch.testing.assert_close(mean, logits, rtol=1e-9, atol=1e-9)


@cache
def plain_snn(name: str) -> rb.SpikingNetwork:
    """A network of the grid in float64 without initial potential: what NIR can say, but for the reset."""
    snn = copy.deepcopy(grid_snn(name)).double()
    for neuron in snn.neurons:
        neuron.initial_potential = torch.tensor(0.0, dtype=torch.float64)
    return snn


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.GRID)
def test_folding_and_export_keep_every_spike(name: str, tmp_path: Path) -> None:
    """The network, the folded one, and the NIR graph of either by its definition: the same count at every neuron."""
    snn, images = plain_snn(name), grid_images(name, 4).double()
    folded = rb.network.fold_thresholds(snn)
    (expected, logits), (found, again) = spike_counts(snn, images), spike_counts(folded, images)
    assert sum(int(count.sum()) for count in expected.values()) > 100
    for site, count in expected.items():
        assert torch.equal(count, found[site]), site
    torch.testing.assert_close(again, logits, rtol=1e-12, atol=1e-12)
    if name in WITHOUT_NODE:
        with pytest.raises(StoreError, match=WITHOUT_NODE[name]):
            rb.exchange.export_nir(folded, tmp_path / "net.nir", approximate=True, reset="subtract")
        assert list(tmp_path.iterdir()) == []
        return
    for network in (snn, folded):
        written = rb.exchange.export_nir(network, tmp_path / "net.nir", reset="subtract", overwrite=True)
        assert written.exact
        if network is folded:
            nodes = nir.read(tmp_path / "net.nir").nodes
            assert all(np.all(nodes[node].v_threshold == 1) for node in written.sites.values())
        holds_every_spike(tmp_path / "net.nir", written, snn, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITABLE)
def test_approximated_networks_come_back_whole(name: str, tmp_path: Path) -> None:
    snn, images = grid_snn(name), grid_images(name)
    with pytest.raises(StoreError, match=r"resets by subtraction.*initial potential"):
        rb.exchange.export_nir(snn, tmp_path / "net.nir")
    written = rb.exchange.export_nir(snn, tmp_path / "net.nir", approximate=True)
    assert {loss.site for loss in written.losses} == {site.name for site in snn.sites}
    again = rb.exchange.import_nir(tmp_path / "net.nir")
    assert torch.equal(again(images), snn(images))
    assert torch.equal(again.ann(images), snn.ann(images))
    assert (again.recipe, again.timesteps, again.provenance) == (snn.recipe, snn.timesteps, snn.provenance)


def converted(method: str) -> tuple[rb.SpikingNetwork, Tensor]:
    images = grid_images("MLP")
    if METHODS[method]().activation is not None:
        recipe = METHODS[method](**({"mean_timesteps": 4} if method == "QAC" else {"levels": 4}))
        quantised = rb.quantise(networks.build("MLP"), recipe, calibration=images).eval()
        return rb.convert(quantised, recipe, calibration=images), images
    options: dict[str, Any] = {
        "FTBC": {"batch_size": 8, "iterations": 1, "updates": 2},
        "DAParallel": {"batch_size": 8},
    }
    options = options.get(method, {})
    return rb.convert(networks.build("MLP"), METHODS[method](timesteps=4, **options), calibration=images), images


EXACT = {"RTS", "SNNCalibration", "RMP"}  # by default; RateCoding with initial_potential=0 too


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str, tmp_path: Path) -> None:
    """Exact where only the reset is in question, else refused, and whole again from an approximation."""
    snn, images = converted(method)
    with pytest.raises(StoreError, match=f"{snn.sites[0].name}: .*Remedy: .*approximate=True"):
        rb.exchange.export_nir(snn, tmp_path / "net.nir")
    if method in EXACT:
        assert rb.exchange.export_nir(snn, tmp_path / "exact.nir", reset="subtract").exact
    else:
        with pytest.raises(StoreError, match=r"initial potential|bias for each step|NIR has no node"):
            rb.exchange.export_nir(snn, tmp_path / "net.nir", reset="subtract")
    assert not (tmp_path / "net.nir").exists()
    assert not rb.exchange.export_nir(snn, tmp_path / "net.nir", approximate=True).exact
    assert torch.equal(rb.exchange.import_nir(tmp_path / "net.nir")(images), snn(images))


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(EXACT - {"RMP"}))
def test_constant_currents_are_in_the_layer_before(method: str, tmp_path: Path) -> None:
    """Also where two branches meet, of which one has weights to take them."""
    images = grid_images("QCFSResNet", 4)
    snn = rb.convert(networks.build("QCFSResNet"), METHODS[method](timesteps=4), calibration=grid_images("QCFSResNet"))
    snn, images = snn.double(), images.double()
    assert all(isinstance(neuron, IntegrateFire) and neuron.bias is not None for neuron in snn.neurons)
    written = rb.exchange.export_nir(snn, tmp_path / "net.nir", reset="subtract")
    holds_every_spike(tmp_path / "net.nir", written, snn, images)


@pytest.mark.slow
def test_an_approximation_is_near(tmp_path: Path) -> None:
    """V0 = θ/2 as a current of θ/(2T): another network, and closer to the analog one than without it."""
    snn, images = grid_snn("VGG", 8), grid_images("VGG").double()
    rb.exchange.export_nir(snn, tmp_path / "near.nir", approximate=True)
    rb.exchange.export_nir(plain_snn("VGG"), tmp_path / "far.nir", reset="subtract")
    with torch.no_grad():
        ann = snn.ann(grid_images("VGG")).double()
    near, far = (nir_reference.run(nir.read(tmp_path / f), images, 8)[1] for f in ("near.nir", "far.nir"))
    assert float((near - ann).norm()) < 0.9 * float((far - ann).norm())


def test_numbers_by_hand(tmp_path: Path) -> None:
    """linear → θ = 2 → mean over 2x2 → linear: bias − constant bias, weights θ/4."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(1, 1))
    with torch.no_grad():
        for tensor, value in zip(net.parameters(), (3.0, 0.5, 7.0, -1.0), strict=True):
            tensor.fill_(value)
    snn = rb.convert(net, rb.RateCoding(timesteps=2, threshold="max"), calibration=torch.rand(8, 1, 2, 2))
    snn.neurons[0] = IntegrateFire(torch.tensor(2.0), torch.tensor(0.0), torch.tensor([0.25]))
    written = rb.exchange.export_nir(snn, tmp_path / "net.nir", reset="subtract")
    graph = nir.read(tmp_path / "net.nir")
    kinds = [type(graph.nodes[target]).__name__ for _, target in graph.edges]
    assert kinds == ["Conv2d", "IF", "SumPool2d", "Flatten", "Affine", "Output"]
    nodes = {type(node).__name__: node for node in graph.nodes.values()}
    assert (nodes["Conv2d"].weight.item(), nodes["Conv2d"].bias.item()) == (3.0, 0.25)
    assert nodes["IF"].v_threshold.tolist() == [[[2.0, 2.0], [2.0, 2.0]]]
    assert (nodes["Affine"].weight.item(), nodes["Affine"].bias.item()) == (3.5, -1.0)
    metadata = graph.nodes[written.sites["1"]].metadata
    assert {key: str(np.asarray(value).astype(str)) for key, value in metadata.items()} == {
        "site": "1",
        "reset": "subtract",
    }


def test_the_same_weights_twice(tmp_path: Path) -> None:
    """x + x, and a layer that is called twice, each time with other factors around it."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            x = torch.relu(self.second(x + x))
            x = torch.relu(self.second(x))
            return self.out(x)

    images = torch.randn(32, 6)
    snn = rb.convert(Twice(), rb.RateCoding(timesteps=4, initial_potential=0), calibration=images).double()
    written = rb.exchange.export_nir(snn, tmp_path / "net.nir", reset="subtract")
    holds_every_spike(tmp_path / "net.nir", written, snn, images.double())


# -- whole numbers ---------------------------------------------------------------------------------------------

FIRES: dict[Any, Any] = {"reached": torch.ge, "exceeded": torch.gt}
WHOLE_RECIPES = {"RateCoding": rb.RateCoding(timesteps=5, initial_potential=0), "RTS": rb.RTS(timesteps=5)}


@cache
def whole(recipe: str, fires_when: Any, name: str = "MLP", **options: Any) -> rb.network.IntegerNetwork:
    images = grid_images(name)
    options = {"target": "generic", **options}
    snn = rb.convert(networks.build(name), WHOLE_RECIPES[recipe], calibration=images)
    return rb.integers(snn, calibration=images, fires_when=fires_when, **options)


def in_pythons_integers(graph: Any, pixels: list[int], steps: int, exceeded: bool) -> tuple[dict[str, Any], list[int]]:
    """A chain of Flatten, Affine and IF nodes, with reset by subtraction: spikes [T][neuron], and the summed output."""

    def integers(array: Any) -> Any:
        assert np.all(array == np.round(array))
        return np.asarray(array).astype(np.int64).tolist()  # of Python's integers, which neither round nor overflow

    after = dict(graph.edges)
    chain = ["input"]
    while chain[-1] != "output":
        chain.append(after[chain[-1]])
    potentials: dict[str, list[int]] = {}
    spikes: dict[str, Any] = {}
    total: list[int] = []
    for _ in range(steps):
        x = pixels
        for name in chain[1:-1]:
            node = graph.nodes[name]
            if isinstance(node, nir.Flatten):  # pixels are given flat
                continue
            if isinstance(node, nir.Affine):
                rows = zip(integers(node.weight), integers(node.bias), strict=True)
                x = [sum(w * value for w, value in zip(row, x, strict=True)) + bias for row, bias in rows]
                continue
            assert isinstance(node, nir.IF)
            theta = integers(node.v_threshold)
            v = [a + b for a, b in zip(potentials.get(name, [0] * len(x)), x, strict=True)]
            x = [int(a > b if exceeded else a >= b) for a, b in zip(v, theta, strict=True)]
            potentials[name] = [a - b * z for a, b, z in zip(v, theta, x, strict=True)]
            spikes.setdefault(name, []).append(x)
        total = [a + b for a, b in zip(total or [0] * len(x), x, strict=True)]
    return spikes, total


@pytest.mark.parametrize("fires_when", FIRES)
@pytest.mark.parametrize("recipe", WHOLE_RECIPES)
def test_whole_numbers_against_pythons_integers(recipe: str, fires_when: Any, tmp_path: Path) -> None:
    network, images = whole(recipe, fires_when), grid_images("MLP")
    written = rb.exchange.export_nir(network, tmp_path / "net.nir", reset="subtract", fires_when=fires_when)
    assert written.exact
    graph = nir.read(tmp_path / "net.nir")
    weights = [node.weight for node in graph.nodes.values() if isinstance(node, nir.Affine)]
    assert all(np.all(weight == np.round(weight)) and 0 < np.abs(weight).max() <= 127 for weight in weights)
    spikes, logits = network.record(images)
    assert sum(int(train.sum()) for train in spikes.values()) > 100
    mean = network(images)
    for i, pixels in enumerate(network.pixels(images).flatten(1).long().tolist()):
        found, total = in_pythons_integers(graph, pixels, network.timesteps, fires_when == "exceeded")
        for site, train in spikes.items():
            assert train[:, i].tolist() == found[written.sites[site]]
        assert logits[i].tolist() == total
        unit = network.units.logit / network.timesteps
        assert torch.equal(mean[i], (torch.tensor(total).double() * unit).float())


def test_when_a_neuron_fires_matters(tmp_path: Path) -> None:
    """Whole potentials reach θ: read by a simulator of the other kind, the spikes differ."""
    network, images = whole("RateCoding", "reached", target=rb.network.generic(weights=5)), grid_images("MLP")
    rb.exchange.export_nir(network, tmp_path / "net.nir", reset="subtract", fires_when="reached")
    graph, spikes = nir.read(tmp_path / "net.nir"), list(network.record(images)[0].values())
    pixels = network.pixels(images)
    right, wrong = (nir_reference.simulate(graph, pixels, 5, FIRES[name])[0] for name in FIRES)
    assert all(torch.equal(a, b.double()) for a, b in zip(right.values(), spikes, strict=True))
    assert not all(torch.equal(a, b.double()) for a, b in zip(wrong.values(), spikes, strict=True))


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12), st.integers(1, 9), st.sampled_from(list(FIRES)))
def test_a_neuron_started_at_minus_one_fires_when_its_threshold_is_exceeded(
    currents: list[int], theta: int, fires_when: str
) -> None:
    """By NIR's IF in Python's integers, from 0, with reset by subtraction."""
    start = -1.0 if fires_when == "exceeded" else 0.0
    neuron = IntegerFire(torch.tensor([float(theta)]), torch.tensor([start]))
    train = torch.tensor(currents).float().reshape(-1, 1, 1)
    spikes = neuron.run(train, neuron.init((1, 1), train))[0].flatten().tolist()
    v, expected = 0, []
    for current in currents:
        v += current
        expected.append(int(v > theta if fires_when == "exceeded" else v >= theta))
        v -= theta * expected[-1]
    assert spikes == expected


@pytest.mark.slow
@pytest.mark.parametrize("fires_when", FIRES)
@pytest.mark.parametrize("recipe", WHOLE_RECIPES)
@pytest.mark.parametrize("name", ["VGG", "OptionAResNet", "ReusedReluResNet", "Inception", "Conv1dNet"])
def test_whole_numbers_by_nirs_definition(name: str, recipe: str, fires_when: Any, tmp_path: Path) -> None:
    """Every neuron, every step; and back, bit for bit."""
    network, images = whole(recipe, fires_when, name), grid_images(name, 4)
    written = rb.exchange.export_nir(network, tmp_path / "net.nir", reset="subtract", fires_when=fires_when)
    spikes, logits = network.record(images)
    graph = nir.read(tmp_path / "net.nir")
    found, total = nir_reference.simulate(graph, network.pixels(images), network.timesteps, FIRES[fires_when])
    for site, train in spikes.items():
        assert torch.equal(found[written.sites[site]], train.double()), site
    assert torch.equal(total, logits.double())
    holds_the_same(rb.exchange.import_nir(tmp_path / "net.nir"), network, images)


def holds_the_same(again: rb.SpikingNetwork, network: rb.network.IntegerNetwork, images: Tensor) -> None:
    """All numbers, bit for bit."""
    assert isinstance(again, rb.network.IntegerNetwork)
    assert again.units == network.units
    assert (again.recipe, again.timesteps, again.provenance) == (network.recipe, network.timesteps, network.provenance)
    assert again.graph.tensors.keys() == network.graph.tensors.keys()
    for name, tensor in network.graph.tensors.items():
        assert again.graph.tensors[name].dtype == tensor.dtype
        assert torch.equal(again.graph.tensors[name], tensor), name
    for ours, theirs in zip(network.neurons, again.neurons, strict=True):
        assert ours.config() == theirs.config()
        buffers = dict(theirs.named_buffers())
        assert all(torch.equal(buffers[name], value) for name, value in ours.named_buffers())
    assert torch.equal(again(images), network(images))


def test_units_are_in_the_metadata(tmp_path: Path) -> None:
    network = whole("RTS", "exceeded", target="speck")
    rb.exchange.export_nir(network, tmp_path / "net.nir", reset="subtract")  # by default, θ must be exceeded
    document = json.loads(nir.read(tmp_path / "net.nir").metadata["rheobase"])
    assert rb.network.Units.model_validate(document["network"]["whole_numbers"]["units"]) == network.units
    assert (document["reset"], document["fires_when"]) == ("subtract", "exceeded")
    assert "pixel" in document["input"]
    holds_the_same(rb.exchange.import_nir(tmp_path / "net.nir"), network, grid_images("MLP"))


def converted_whole(recipe: Any, **options: Any) -> rb.network.IntegerNetwork:
    images = grid_images("MLP")
    return rb.integers(rb.convert(networks.build("MLP"), recipe, calibration=images), calibration=images, **options)


def altered(what: str) -> rb.network.IntegerNetwork:
    network = copy.deepcopy(whole("RateCoding", "exceeded"))
    if what == "threshold":
        network.neurons[0].threshold[0] += 0.5
    else:
        name = next(node.parameters["weight"] for node in network.graph.nodes if "weight" in node.parameters)
        network.graph.put(name, network.graph.tensor(name) * 0.7)
    return network


NOT_WHOLE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "V0": (lambda: converted_whole(rb.RateCoding(timesteps=4)), {}, r"act1: starts from an initial .*before rb\.int"),
    "a bias for each step": (
        lambda: converted_whole(rb.FTBC(timesteps=3, batch_size=8, iterations=1, updates=1)),
        {},
        "act1: .*has a bias for each step",
    ),
    "signed": (
        lambda: converted_whole(rb.Graded(timesteps=2, magnitude=1, iterations=0)),
        {},
        r"act1: emits the counts \{-1, 0, 1\} in a step",
    ),
    "graded": (
        lambda: converted_whole(rb.MultiThreshold(timesteps=2, magnitude=4)),
        {},
        "act1: emits the counts .* NIR's IF only 0 or 1",
    ),
    "waiting": (
        lambda: converted_whole(rb.ParallelConversion(timesteps=4)),
        {},
        "act1: has IntegerCount neurons, which wait",
    ),
    "another simulator": (
        lambda: whole("RTS", "reached"),
        {},
        r'act1: .*when θ is reached.*pass fires_when="reached".*rb\.integers\(\.\.\., fires_when="exceeded"\)',
    ),
    "the other simulator": (
        lambda: whole("RTS", "exceeded"),
        {"fires_when": "reached"},
        'act1: .*when θ is exceeded.*pass fires_when="exceeded"',
    ),
    "reset": (lambda: whole("RTS", "exceeded"), {"reset": "value"}, "act1: resets by subtraction"),
    "approximate": (lambda: whole("RTS", "exceeded"), {"approximate": True}, "approximate .*has no effect"),
    "no whole numbers": (lambda: plain_snn("MLP"), {"fires_when": "reached"}, "fires_when .*has no effect"),
    "unknown": (lambda: whole("RTS", "exceeded"), {"fires_when": "often"}, "fires_when: is 'often'"),
    "altered weights": (lambda: altered("weight"), {}, r"weight: holds .*, which is not whole"),
    "altered threshold": (lambda: altered("threshold"), {}, r"v_threshold: holds .*, which is not whole"),
}


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_refused_whole_numbers(case: str, tmp_path: Path) -> None:
    make, options, words = NOT_WHOLE[case]
    with pytest.raises(StoreError, match=words) as caught:
        rb.exchange.export_nir(make(), tmp_path / "net.nir", **{"reset": "subtract", **options})
    assert caught.value.remedy
    assert "--approximate" not in str(caught.value.remedy)
    assert list(tmp_path.iterdir()) == []


# -- files by others -------------------------------------------------------------------------------------------


def without_metadata(path: Path) -> None:
    """As another tool would have written it."""
    graph = nir.read(path)
    for node in graph.nodes.values():
        node.metadata = {}
    graph.metadata = {}
    nir.write(path, graph)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITABLE)
def test_the_nodes_alone_say_the_network(name: str, tmp_path: Path) -> None:
    snn, images = plain_snn(name), grid_images(name, 4).double()
    path = tmp_path / "net.nir"
    written = rb.exchange.export_nir(rb.network.fold_thresholds(snn), path, reset="subtract")
    without_metadata(path)
    network = rb.exchange.import_nir(path, timesteps=snn.timesteps, reset="subtract")
    (expected, logits), (found, again) = spike_counts(snn, images), spike_counts(network, images)
    assert all(torch.equal(found[written.sites[site]], count) for site, count in expected.items())
    torch.testing.assert_close(again, logits, rtol=1e-9, atol=1e-9)
    rb.save(network, tmp_path / "folder")
    assert torch.equal(rb.load(tmp_path / "folder")(images), again)


def foreign(*nodes: Any, **more: Any) -> Any:
    """input → nodes → output, on two numbers."""
    names = ["input", *(f"n{i}" for i in range(len(nodes))), "output"]
    every = [nir.Input(np.array([2])), *nodes, nir.Output(np.array([2]))]
    edges = list(pairwise(names)) + more.get("edges", [])
    unchecked = {} if more.get("checked", True) else {"type_check": False}
    return nir.NIRGraph(nodes=dict(zip(names, every, strict=True)), edges=edges, **unchecked)


def affine(*bias: float) -> Any:
    return nir.Affine(weight=np.eye(2, dtype=np.float32), bias=np.array(bias or (0, 0), dtype=np.float32))


def fire(threshold: float = 1.0, r: float = 1.0) -> Any:
    return nir.IF(r=np.full(2, r, dtype=np.float32), v_threshold=np.full(2, threshold, dtype=np.float32))


def test_thresholds_and_resistances_of_others(tmp_path: Path) -> None:
    """v ← v + 2 I, θ = 4: I = 1 fires at every other step and carries 1."""
    nir.write(
        tmp_path / "net.nir", foreign(affine(), fire(4.0, 2.0), nir.Scale(np.array([3.0, 5.0], dtype=np.float32)))
    )
    network = rb.exchange.import_nir(tmp_path / "net.nir", timesteps=4, reset="subtract")
    assert network(torch.tensor([[1.0, 2.0]])).tolist() == [[1.5, 5.0]]
    assert [float(logits[0, 0]) for _, logits in network.stream(torch.tensor([[1.0, 2.0]]))] == [0, 1.5, 1.0, 1.5]


ONES = np.ones(2, dtype=np.float32)
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no T": (lambda: foreign(affine(), fire()), {"timesteps": None}, "number of time-steps"),
    "T = 0": (lambda: foreign(affine(), fire()), {"timesteps": 0}, "timesteps: is 0"),
    "hard reset": (lambda: foreign(affine(), fire()), {"reset": "value"}, "n1: resets to a value"),
    "unknown reset": (lambda: foreign(affine(), fire()), {"reset": "soft"}, "reset: is 'soft'"),
    "LIF": (
        lambda: foreign(affine(), nir.LIF(tau=ONES, r=ONES, v_leak=ONES * 0, v_threshold=ONES)),
        {},
        r"n1 \(LIF\): leaks",
    ),
    "delay": (lambda: foreign(affine(), nir.Delay(ONES), fire()), {}, r"n1 \(Delay\): is a Delay"),
    "recurrent": (lambda: foreign(affine(), fire(), edges=[("n1", "n0")]), {}, "is recurrent"),
    "negative threshold": (lambda: foreign(affine(), fire(-1.0)), {}, "n1: has a threshold that is not positive"),
    "complex": (
        lambda: foreign(nir.Linear(np.eye(2, dtype=np.complex64) * 1j), fire()),
        {},
        "n0: holds complex64 values, not real numbers",
    ),
    "NaN": (
        lambda: foreign(nir.Linear(np.full((2, 2), np.nan, dtype=np.float32)), fire()),
        {},
        "n0: holds NaN or infinite values",
    ),
    "another number of inputs": (
        lambda: foreign(nir.Linear(np.ones((2, 3), dtype=np.float32)), fire(), checked=False),
        {},
        r"n0: does not fit its input of shape \[2\]",
    ),
    "another number of neurons": (
        lambda: foreign(nir.Linear(np.ones((3, 2), dtype=np.float32)), fire(), checked=False),
        {},
        r"n1: has thresholds of shape \[2\] for currents of shape \[3\]",
    ),
    "another output": (
        lambda: foreign(affine(), fire(), nir.Linear(np.ones((3, 2), dtype=np.float32)), checked=False),
        {},
        r"output: has shape \[2\] in the file and receives \[3\]",
    ),
    "a sum of different shapes": (
        lambda: foreign(
            fire(), nir.Linear(np.ones((1, 2), dtype=np.float32)), affine(), edges=[("input", "n2")], checked=False
        ),
        {},
        r"n2: receives different shapes: \[1\] and \[2\]",
    ),
    "an edge twice": (
        lambda: foreign(affine(), fire(), edges=[("n0", "n1")], checked=False),
        {},
        "has the edge from 'n0' to 'n1' twice",
    ),
    "no neurons": (lambda: foreign(affine()), {}, "has no neurons"),
}


def test_options_and_paths_that_cannot_be(tmp_path: Path) -> None:
    snn = grid_snn("MLP")
    with pytest.raises(StoreError, match=r"approximate: is 'no'. Remedy: use True or False"):
        rb.exchange.export_nir(snn, tmp_path / "net.nir", approximate="no", reset="subtract")  # type: ignore[arg-type]
    for path in (5, "a\0b", "a" * 300):
        with pytest.raises(StoreError, match=r"pass a path|not a valid path"):
            rb.exchange.export_nir(snn, path, reset="subtract")  # type: ignore[arg-type]
        with pytest.raises(StoreError, match=r"pass a path|not a valid path"):
            rb.exchange.import_nir(path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_mixed_types_become_the_widest_of_the_weights(tmp_path: Path) -> None:
    half = nir.Affine(weight=np.eye(2), bias=np.zeros(2))
    whole = nir.Affine(weight=np.eye(2, dtype=np.int64), bias=np.zeros(2, dtype=np.int64))
    for first, dtype in ((half, torch.float64), (whole, torch.float32)):
        threshold = nir.IF(r=np.ones(2), v_threshold=np.ones(2))
        nir.write(tmp_path / "net.nir", foreign(first, fire(), affine(), threshold))
        network = rb.exchange.import_nir(tmp_path / "net.nir", timesteps=4, reset="subtract")
        assert network(torch.tensor([[0.5, 1.0]], dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files_of_others(case: str, tmp_path: Path) -> None:
    make, options, words = REFUSED[case]
    nir.write(tmp_path / "net.nir", make())
    with pytest.raises(StoreError, match=words) as caught:
        rb.exchange.import_nir(tmp_path / "net.nir", **{"timesteps": 4, "reset": "subtract", **options})
    assert "damaged" not in str(caught.value)
    assert caught.value.remedy


def test_nodes_that_nir_refuses_are_not_called_damaged(tmp_path: Path) -> None:
    import h5py

    nir.write(tmp_path / "net.nir", foreign(affine(), fire()))
    with h5py.File(tmp_path / "net.nir", "r+") as file:
        del file["node/nodes/n1/r"]
        file["node/nodes/n1/r"] = np.ones(3, dtype=np.float32)
    with pytest.raises(StoreError, match="a graph that the package nir refuses") as caught:
        rb.exchange.import_nir(tmp_path / "net.nir", timesteps=4, reset="subtract")
    assert "damaged" not in str(caught.value)


# -- bad files -------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rb.exchange.export_nir(plain_snn("MLP"), tmp_path / "net.nir", reset="subtract")
    return tmp_path / "net.nir"


def test_damaged_files(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for content in (b"", b"not HDF5 at all", whole[: len(whole) // 2], whole[:100]):
        file.write_bytes(content)
        with pytest.raises(StoreError, match="not a NIR file"):
            rb.exchange.import_nir(file)
    for path in (tmp_path / "missing.nir", tmp_path):
        with pytest.raises(StoreError, match="is not a file"):
            rb.exchange.import_nir(path)
    import h5py

    with h5py.File(file, "w") as other:
        other["pictures"] = np.zeros(3)
    with pytest.raises(StoreError, match="not a NIR file"):
        rb.exchange.import_nir(file)


@pytest.mark.slow
def test_any_flipped_byte_is_noticed_or_harmless(file: Path) -> None:
    expected, images, whole = rb.exchange.import_nir(file), grid_images("MLP").double(), file.read_bytes()
    positions = torch.randint(len(whole), (40,), generator=torch.Generator().manual_seed(1)).tolist()
    for position in positions:
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            network = rb.exchange.import_nir(file)
        except StoreError:
            continue
        assert torch.equal(network(images), expected(images)), position


def test_changed_files(file: Path) -> None:
    graph = nir.read(file)
    next(node for node in graph.nodes.values() if isinstance(node, nir.Affine)).weight[0, 0] += 1
    nir.write(file, graph)
    with pytest.raises(StoreError, match="changed after Rheobase wrote it"):
        rb.exchange.import_nir(file)
    document = json.loads(graph.metadata["rheobase"])
    graph.metadata["rheobase"] = json.dumps({**document, "version": 1})
    nir.write(file, graph)
    with pytest.raises(StoreError, match=r"an older rheobase .* convert and save the network again"):
        rb.exchange.import_nir(file)
    graph.metadata["rheobase"] = json.dumps({**document, "version": 99})
    nir.write(file, graph)
    with pytest.raises(StoreError, match="newer rheobase"):
        rb.exchange.import_nir(file)


def test_options_without_effect_on_our_files(file: Path) -> None:
    for options in ({"timesteps": 4}, {"reset": "subtract"}):
        with pytest.raises(StoreError, match="timesteps and reset: have no effect"):
            rb.exchange.import_nir(file, **options)  # type: ignore[arg-type]


def test_an_existing_file_is_kept(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(StoreError, match="already exists"):
        rb.exchange.export_nir(plain_snn("MLP"), file, reset="subtract")
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["net.nir"]


def test_max_pooling_has_no_node(tmp_path: Path) -> None:
    images = grid_images("MaxPoolVGG")
    recipe = Recipe(name="plain", timesteps=4, neuron=rb.methods.IntegrateFireNeuron(initial_potential=0))
    snn = rb.convert(networks.build("MaxPoolVGG"), recipe, example=images, max_pool="gate")
    with pytest.raises(StoreError, match="max_pool, for which NIR has no node"):
        rb.exchange.export_nir(snn, tmp_path / "net.nir", approximate=True, reset="subtract")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nir", None)
    for call in (
        lambda: rb.exchange.import_nir(tmp_path / "x"),
        lambda: rb.exchange.export_nir(grid_snn("MLP"), tmp_path / "x"),
    ):
        with pytest.raises(StoreError, match=r"pip install 'rheobase\[nir\]'"):
            call()


# -- command line ----------------------------------------------------------------------------------------------


def test_command_for_whole_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = runner(capsys), tmp_path / "net.nir"
    network = whole("RTS", "reached")
    rb.save(network, tmp_path / "whole")
    export = ("export", tmp_path / "whole", "--to", "nir", "--out", out, "--reset", "subtract")
    assert_refused(run(*export), "when θ is reached", "--fires-when reached")
    assert_refused(run(*export, "--fires-when", "reached", "--fold-thresholds"), "cannot be folded into weights")
    assert_refused(run(*export, "--approximate"), "--approximate", "no effect")
    done = run(*export, "--fires-when", "reached", "--json")
    assert (done.document["exact"], done.document["fires_when"]) == (True, "reached")
    holds_the_same(rb.exchange.import_nir(out), network, grid_images("MLP"))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = runner(capsys), tmp_path / "net.nir"
    rb.save(grid_snn("MLP"), tmp_path / "net")
    export = ("export", tmp_path / "net", "--to", "nir", "--out", out)
    assert_refused(run(*export), "resets by subtraction", "--approximate")
    assert not out.exists()
    result = run(*export, "--approximate", "--reset", "subtract")
    assert result.code == 0
    assert "act1: starts from an initial potential" in result.out
    assert torch.equal(rb.exchange.import_nir(out)(grid_images("MLP")), grid_snn("MLP")(grid_images("MLP")))
    assert_refused(run(*export, "--approximate"), "already exists")
    rb.save(plain_snn("MLP"), tmp_path / "plain")
    result = run(
        "export",
        tmp_path / "plain",
        "--to",
        "nir",
        "--out",
        out,
        "--reset",
        "subtract",
        "--fold-thresholds",
        "--overwrite",
        "--json",
    )
    assert result.document["exact"] is True
    assert {float(neuron.threshold) for neuron in rb.exchange.import_nir(out).neurons} == {1.0}
