"""The spiking network: against an independent simulation, in any batch and any pieces, streaming, and the gate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import networks
import rheobase as rb
from conftest import grid_graph, grid_images, grid_snn
from rheobase.core.errors import DataError, ModelError, RecipeError, TraceError
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.neurons import IntegrateFire
from rheobase.signals.signal import Constant, TimeSeries, lift, prefix_means

ALL = [*networks.GRID]


def slow(snn: rb.SpikingNetwork, images: torch.Tensor, timesteps: int) -> torch.Tensor:
    """A plain loop over time in float64: the whole graph at every step, the output averaged at the end."""
    graph = copy.deepcopy(snn.graph).double()
    potentials: dict[str, torch.Tensor] = {}
    total = torch.zeros(())
    neurons = dict(zip((s.name for s in snn.sites), snn.neurons, strict=True))
    for _ in range(timesteps):
        values = {graph.nodes[0].name: images.double()}
        for node in graph.nodes[1:]:
            inputs = [values[name] for name in node.inputs]
            if node.operation == "site":
                theta = neurons[node.name].threshold.double().reshape(-1, *[1] * (inputs[0].dim() - 2))
                theta = torch.where(theta.isinf(), 1e300, theta)
                v = (
                    potentials.get(node.name, torch.where(theta < 1e300, theta / 2, 0.0).expand_as(inputs[0]))
                    + inputs[0]
                )
                spikes = (v >= theta).double()
                values[node.name] = theta * spikes
                potentials[node.name] = v - theta * spikes
            else:
                parameters = {a: graph.tensor(n) for a, n in node.parameters.items()}
                values[node.name] = OPERATIONS[node.operation].apply(*inputs, **node.attributes, **parameters)
        total = total + values[graph.output]
    return total / timesteps


def exact(snn: rb.SpikingNetwork) -> rb.SpikingNetwork:
    """The same network in float64, so that no rounding tips a spike."""
    return copy.deepcopy(snn).double()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_against_a_plain_loop_over_time(name: str) -> None:
    snn, images = grid_snn(name), grid_images(name)[:4]
    expected = slow(snn, images, 4)
    torch.testing.assert_close(exact(snn)(images.double()), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_streaming_gives_the_running_readout(name: str) -> None:
    snn, images = grid_snn(name), grid_images(name)[:5]
    readouts = snn.readouts(images, (1, 2, 3, 4))
    streamed = dict(snn.stream(images))
    assert list(streamed) == [1, 2, 3, 4]
    for t, logits in streamed.items():
        assert torch.equal(logits, readouts[t - 1])
        assert torch.equal(logits, snn(images, timesteps=t))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_an_image_does_not_see_its_batch(name: str) -> None:
    """Bit for bit: alone, in any batch, at any place in it."""
    snn, images = grid_snn(name), grid_images(name)
    whole = snn(images)
    for size in (1, 2, 3, 7):
        assert torch.equal(torch.cat([snn(part) for part in images.split(size)]), whole)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    assert torch.equal(snn(images[order]), whole[order])


@pytest.mark.parametrize("name", ["OptionAResNet", "UNet", "MLP"])
def test_the_memory_budget_changes_nothing_but_the_pieces(name: str) -> None:
    snn, images = copy.deepcopy(grid_snn(name)), grid_images(name)
    whole, sub_batches = snn(images), snn.sub_batch_size(4)
    snn.memory_budget = 1
    assert snn.sub_batch_size(4) == 1 < sub_batches
    assert torch.equal(snn(images), whole)


def test_pieces_stay_within_the_budget() -> None:
    snn = copy.deepcopy(grid_snn("OptionAResNet"))
    for budget in (2**18, 2**20, 2**22):
        snn.memory_budget = budget
        for t in (1, 4, 32):
            n = snn.sub_batch_size(t)
            assert n == 1 or 4 * n * (snn._constant_floats + t * snn._step_floats) <= budget


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_more_steps_come_closer_to_the_analog_network(name: str) -> None:
    model, images = networks.build(name), grid_images(name)
    errors = []
    for t in (2, 128):
        snn = rb.convert(model, rb.RateCoding(timesteps=t, threshold="max"), calibration=images)
        with torch.no_grad():
            reference = snn.ann(images)
        errors.append(float((snn(images) - reference).norm() / reference.norm()))
    assert errors[1] < 0.1
    assert errors[1] < 0.5 * errors[0]


def test_the_first_segment_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, images = grid_snn("OptionAResNet"), grid_images("OptionAResNet")[:2]
    rows: list[int] = []
    convolve: Callable[..., torch.Tensor] = OPERATIONS["conv"].apply

    def counted(x: torch.Tensor, **rest: object) -> torch.Tensor:
        rows.append(len(x))
        return convolve(x, **rest)

    monkeypatch.setattr(OPERATIONS["conv"], "apply", counted)
    snn(images)
    assert rows[0] == 2
    assert set(rows[1:]) == {2 * 4}
    rows.clear()
    list(snn.stream(images))
    convolutions = sum(n.operation == "conv" for n in snn.graph.nodes)
    assert len(rows) == 1 + 4 * (convolutions - 1)


# -- signals ----------------------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 6), seed=st.integers(0, 999), held=st.tuples(st.booleans(), st.booleans()))
def test_lifting_is_the_function_at_every_step(steps: int, seed: int, held: tuple[bool, bool]) -> None:
    g = torch.Generator().manual_seed(seed)
    trains = [torch.randn(steps, 2, 3, generator=g) for _ in held]
    signals = [Constant(x[0]) if h else TimeSeries(x) for x, h in zip(trains, held, strict=True)]
    result = lift(lambda a, b: a - 2 * b, *signals)
    assert isinstance(result, Constant) == all(held)
    for t in range(steps):
        a, b = (s.values if isinstance(s, Constant) else s.values[t] for s in signals)
        value = result.values if isinstance(result, Constant) else result.values[t]
        assert torch.equal(value, a - 2 * b)


@given(steps=st.integers(1, 8), seed=st.integers(0, 999))
def test_prefix_means(steps: int, seed: int) -> None:
    x = torch.randn(steps, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = tuple(range(1, steps + 1))
    torch.testing.assert_close(prefix_means(TimeSeries(x), wanted), torch.stack([x[:t].mean(0) for t in wanted]))
    # the mean at t is the same number whether or not the run went on
    assert torch.equal(prefix_means(TimeSeries(x), (1,))[0], prefix_means(TimeSeries(x[:1]), (1,))[0])


# -- max-pooling by gate ----------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(F.relu(x))


def test_the_gate_lets_the_leader_through() -> None:
    """One window; θ = 1, V0 = ½. Trains: 0.9 -> 1,1,1,0 ... and 0.4 -> 0,1,0,1: the leader's own train passes."""
    images = torch.tensor([[[[0.9, 0.4], [0.0, 0.0]]]])
    snn = rb.convert(Pooled(), rb.RateCoding(timesteps=4, threshold="max"), calibration=images, max_pool="gate")
    snn.neurons[0] = IntegrateFire(torch.tensor(1.0), torch.tensor(0.5))
    # u of the leader: 1.4 fires, .4; 1.3 fires, .3; 1.2 fires, .2; 1.1 fires
    assert [float(logits) for _, logits in snn.stream(images)] == [1.0, 1.0, 1.0, 1.0]
    snn.neurons[0] = IntegrateFire(torch.tensor(1.0), torch.tensor(0.0))
    # .9 no; 1.8 fires; 1.7 fires; 1.6 fires. the other: .4 no, .8 no, 1.2 fires (behind the leader)
    assert [float(x) for _, x in snn.stream(images)] == pytest.approx([0.0, 1 / 2, 2 / 3, 3 / 4])


@pytest.mark.slow
@pytest.mark.parametrize("max_pool", ["gate", "average"])
def test_max_pool_networks_convert(max_pool: str) -> None:
    model, images = networks.build("MaxPoolVGG"), grid_images("MaxPoolVGG")
    recipe = rb.RateCoding(timesteps=128, threshold="max")
    snn = rb.convert(model, recipe, calibration=images, max_pool=max_pool)
    with torch.no_grad():
        reference = snn.ann(images)
        if max_pool == "gate":
            torch.testing.assert_close(reference, model(images), rtol=1e-4, atol=1e-5)
    assert float((snn(images) - reference).norm() / reference.norm()) < 0.15
    assert torch.equal(dict(snn.stream(images))[128], snn(images))


def test_the_gate_is_exact_on_a_held_signal() -> None:
    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(F.max_pool2d(x, 2)).flatten(1)

    images = torch.rand(6, 1, 4, 4)
    snn = rb.convert(First(), rb.RateCoding(timesteps=256, threshold="max"), calibration=images, max_pool="gate")
    torch.testing.assert_close(snn(images), First()(images), atol=0.01, rtol=0)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (torch.zeros(2, 3, 9, 9), r"shape \[3, 9, 9\], the network was converted for \[3, 16, 16\]"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "uint8"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), "torch.float64, the network computes in"),
        (torch.full((2, 3, 16, 16), float("nan")), "image 0 of the batch"),
        ([1], "must be a tensor"),
    ],
)
def test_images_that_do_not_fit(images: torch.Tensor, word: str) -> None:
    snn = grid_snn("OptionAResNet")
    if snn.graph.input_shape != (3, 16, 16):
        pytest.fail("the grid's input changed; write its size here")
    with pytest.raises(DataError, match=word):
        snn(images)


@pytest.mark.parametrize(
    "function",
    [
        lambda network: rb.evaluate(network, grid_images("MLP")),
        lambda network: rb.diagnose(network, grid_images("MLP")),
        lambda network: rb.measure.distribution(network, grid_images("MLP")),
        lambda network: rb.measure.unevenness(network, grid_images("MLP")),
        lambda network: rb.energy(network, grid_images("MLP")),
        lambda network: rb.measure.potentials(network, grid_images("MLP"), "relu", 1),
        lambda network: rb.exchange.export_nir(network, "never.nir"),
        rb.latency,
        rb.network.fold_thresholds,
        rb.for_inference,
    ],
)
def test_the_network_that_was_to_be_converted(function: Callable[[Any], object]) -> None:
    with pytest.raises(ModelError, match="network: is of type MLP"):
        function(networks.build("MLP"))


def test_what_is_no_network_or_number() -> None:
    images = grid_images("MLP")
    for function in (
        lambda model: rb.convert(model, rb.RateCoding(), calibration=images),
        lambda model: rb.inspect(model, images),
        lambda model: rb.compare(model, [rb.RateCoding()], images, images + 1, (1,)),
        lambda model: rb.quantise(model, rb.QVM(levels=2), calibration=images),
    ):
        with pytest.raises(ModelError, match=r"is of type str, not a torch\.nn\.Module"):
            function("resnet20")
    for option in ("num_calibration_images", "seed"):
        with pytest.raises(RecipeError, match=f"{option}: is 0.5"):
            rb.convert(networks.build("MLP"), rb.RateCoding(), calibration=images, **{option: 0.5})
    with pytest.raises(TraceError, match="convert the images"):
        rb.convert(networks.build("MLP"), rb.RateCoding(), calibration=images.bfloat16())


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, True])
def test_impossible_timesteps(timesteps: int) -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    with pytest.raises(RecipeError, match="timesteps"):
        snn(images, timesteps=timesteps)
    with pytest.raises(RecipeError, match="timesteps"):
        list(snn.stream(images, timesteps=timesteps))


def test_a_biased_neuron_names_its_site_and_its_steps() -> None:
    snn, images = copy.deepcopy(grid_snn("MLP")), grid_images("MLP")
    snn.neurons[1].bias = torch.zeros(4, snn.sites[1].channels)
    assert snn(images).shape == snn(images, timesteps=4).shape
    with pytest.raises(RecipeError, match=rf"{snn.sites[1].name}.*T = 4"):
        snn(images, timesteps=2)


def test_a_graph_without_its_tensor_is_refused() -> None:
    node = Node("x", "linear", ("input",), {}, {"weight": "gone"}, (2,))
    with pytest.raises(KeyError):
        grid_graph("MLP").replace(nodes=[*grid_graph("MLP").nodes, node])
