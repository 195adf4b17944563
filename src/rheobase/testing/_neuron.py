"""Conformance test of neurons."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import RecipeError
from rheobase.exchange.store import load, save
from rheobase.graph import Graph, Node
from rheobase.measure._diagnose import diagnose
from rheobase.measure._energy import energy
from rheobase.measure._evaluate import evaluate
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.signals.signal import (
    Constant,
    SpikeTrain,
    TimeSeries,
    along_channels,
    count_spikes,
    count_spikes_by_step,
)
from rheobase.testing._check import expect

CHANNELS, BATCH = 3, 5


def check_neuron(neuron: Neuron, *, steps: int = 6, seed: int = 0) -> None:
    """Check that a neuron satisfies the contract of :class:`rheobase.neurons.Neuron`; for tests of your own neurons.

    - A run equals repeated steps, split at any step, with and without overwriting the currents.
    - Counts are in the alphabet, and their sum is within the capacity.
    - For constant currents, output and closed form equal the declared response.
    - The membrane potential gives the spikes of the step; a differentiable run emits the spikes of the run.
    - The constructor rebuilds the neuron from buffers and configuration; a negative threshold is refused.
    - Evaluation, energy and diagnosis count the same spikes; a loaded network gives bit-identical logits; an image's
      result does not depend on its batch.

    Args:
        neuron: with parameters of shape [] or [3] (three channels); registered, so that its network can be loaded.
        steps: a T that the neuron can run for.
        seed: of the currents.

    Example:
        >>> import torch
        >>> from rheobase.neurons import IntegrateFire
        >>> check_neuron(IntegrateFire(torch.tensor(0.7), torch.tensor(0.5)))
    """
    generator = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, BATCH, CHANNELS, 2, generator=generator) * 1.5 + 0.3
    _check_declarations(neuron)
    if neuron.streams:
        _check_runs(neuron, currents)
    if neuron.has_membrane:
        _check_membrane(neuron, currents)
    train = neuron.spike_train(TimeSeries(currents.clone()), steps)
    _check_spikes(neuron, train)
    _check_batches(neuron, currents)
    _check_response(neuron, steps)
    if neuron.differentiable:
        _check_gradient(neuron, currents)
    _check_network(neuron, steps, generator)


def _check_declarations(neuron: Neuron) -> None:
    counts = list(neuron.alphabet.values)
    expect(0 in counts, "the alphabet has no 0, so that the neuron cannot be silent")
    expect(counts == sorted(set(counts)), "the alphabet is not sorted, or has a value twice")
    expect(set(neuron.settable) <= set(neuron._buffers), f"settable has names that are not buffers: {neuron.settable}")
    again = neuron.rebuilt(**json.loads(json.dumps(neuron.config())))
    for name, value in neuron._buffers.items():
        other = again._buffers[name]
        same = value is None if other is None else value is not None and torch.equal(value, other)
        expect(same, f"the constructor changes {name}")
    if "threshold" in neuron.settable:
        try:
            neuron.set(threshold=-torch.ones(CHANNELS))
        except RecipeError:
            return
        raise AssertionError("a negative threshold is not refused")


def _check_runs(neuron: Neuron, currents: Tensor) -> None:
    whole, end = neuron.run(currents.clone(), neuron.init(currents.shape[1:], currents))
    over, _ = neuron.run(currents.clone(), neuron.init(currents.shape[1:], currents), overwrite=True)
    expect(torch.equal(whole, over), "a run with overwrite=True emits other spikes")
    for cut in range(1, len(currents)):
        first, state = neuron.run(currents[:cut].clone(), neuron.init(currents.shape[1:], currents))
        second, state = neuron.run(currents[cut:].clone(), state, cut)
        expect(torch.equal(torch.cat([first, second]), whole), f"a run split after step {cut} emits other spikes")
        expect(all(map(torch.equal, state, end)), f"a run split after step {cut} ends in another state")
    state, spikes = neuron.init(currents.shape[1:], currents), []
    for t, current in enumerate(currents):
        fired, state = neuron.step(current, state, t)
        spikes.append(neuron.emit(fired))
    expect(torch.equal(torch.stack(spikes), whole), "repeated steps and the run emit different spikes")


def _check_membrane(neuron: Neuron, currents: Tensor) -> None:
    state = neuron.init(currents.shape[1:], currents)
    for t, current in enumerate(currents):
        potential = neuron.potential(current, state, t)
        spikes = neuron.spikes_at(potential, state)
        if neuron.fires_at_threshold:
            reached = potential >= along_channels(neuron.amplitude, potential.dim())
            expect(torch.equal(spikes, reached.to(spikes.dtype)), "it does not fire exactly at θ and above")
        fired, state = neuron.step(current, state, t)
        expect(torch.equal(spikes, fired), f"the potential of step {t} gives other spikes than the step")


def _check_spikes(neuron: Neuron, train: SpikeTrain) -> None:
    found = {int(count) for count in train.counts.unique()}
    expect(found <= set(neuron.alphabet.values), f"it emits {sorted(found)}, outside its alphabet {neuron.alphabet}")
    values = torch.stack([neuron.emit(step) for step in train.counts])
    torch.testing.assert_close(values, train.values, msg="its values are not emit(counts)")
    lower, upper = neuron.capacity(train.steps)
    counts = count_spikes(train)
    expect(bool(((counts.net >= lower) & (counts.net <= upper)).all()), "its net count is outside its capacity")
    spikes, by_step = train.counts.double(), count_spikes_by_step(train)
    expect(torch.equal(counts.net, spikes.sum(0)), "the net count is not the sum of the spikes")
    expect(torch.equal(counts.magnitude, spikes.abs().sum(0)), "the magnitude is not the sum of |spikes|")
    for what in ("events", "magnitude"):
        same = float(getattr(by_step, what).sum()) == float(getattr(counts, what).sum())
        expect(same, f"count_spikes and count_spikes_by_step give different {what}")


def _check_batches(neuron: Neuron, currents: Tensor) -> None:
    whole = neuron.spike_train(TimeSeries(currents.clone()), len(currents)).values
    for image in range(BATCH):
        alone = neuron.spike_train(TimeSeries(currents[:, image : image + 1].clone()), len(currents)).values
        expect(torch.equal(alone[:, 0], whole[:, image]), f"image {image} gives other spikes alone than in its batch")


def _check_response(neuron: Neuron, steps: int) -> None:
    response = neuron.response(steps)
    if response is None:
        return
    gain = response.gain.reshape(-1, 1).double()
    offset = torch.as_tensor(response.offset, dtype=torch.float64)
    expect(offset.dim() <= 1, "check_neuron needs one offset, or one for each channel")
    # half-way between the edges of the staircase, where rounding cannot change the level
    accumulated = torch.arange(response.lower - 1, response.upper + 2, dtype=torch.float64) + 0.5
    z = (accumulated - offset.reshape(-1, 1)) / torch.where(gain > 0, gain, 1.0)
    current = z.expand(CHANNELS, -1).float().unsqueeze(0)
    declared = response.mean(current.clone())
    emitted = neuron.spike_train(Constant(current.clone()), steps).mean()
    torch.testing.assert_close(emitted, declared, msg=lambda text: f"the output differs from the response: {text}")
    if neuron.closed_form:
        rate = neuron.rate(current.clone(), steps)
        torch.testing.assert_close(rate, declared, msg=lambda text: f"the rate differs from the response: {text}")
        written = neuron.rate(current.clone(), steps, overwrite=True)
        expect(torch.equal(rate, written), "the rate differs with overwrite=True")


def _check_gradient(neuron: Neuron, currents: Tensor) -> None:
    steps = len(currents)
    given: dict[str, Any] = {"threshold": neuron.amplitude, "initial_potential": neuron.v0}
    if "bias" in neuron.settable:
        given["bias"] = torch.zeros(steps, CHANNELS) if neuron.bias is None else neuron.bias
    parameters = {name: torch.as_tensor(x, dtype=currents.dtype).clone().requires_grad_() for name, x in given.items()}
    currents = currents.clone().requires_grad_()
    emitted = neuron.run_with_gradient(TimeSeries(currents), steps, parameters, 1.0)
    plain = neuron.spike_train(TimeSeries(currents.detach().clone()), steps).values
    agree = float((emitted.detach() - plain).abs().lt(1e-5).double().mean())
    expect(agree > 0.99, f"the differentiable run agrees with the run on {agree:.0%} of the spikes")
    emitted.square().sum().backward()
    for name, parameter in {**parameters, "current": currents}.items():
        expect(parameter.grad is not None and bool(parameter.grad.isfinite().all()), f"the {name} has no gradient")


def _check_network(neuron: Neuron, steps: int, generator: torch.Generator) -> None:
    nodes = [
        Node("input", "input", shape=(4,)),
        Node("first", "linear", ("input",), {}, {"weight": "w"}, (CHANNELS,)),
        Node("site", "site", ("first",), {"activation": "relu", "upper": None}, {}, (CHANNELS,)),
        Node("last", "linear", ("site",), {}, {"weight": "v"}, (2,)),
    ]
    shapes = {"w": (CHANNELS, 4), "v": (2, CHANNELS)}
    graph = Graph(nodes, "last", {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
    network = SpikingNetwork(graph, graph, [neuron], steps, {"name": "check_neuron"})
    images = torch.randn(2 * BATCH, 4, generator=generator)
    places = len(images) * CHANNELS * steps
    row, cost = evaluate(network, images, [steps]).rows[0], energy(network, images)
    rates = {"evaluate": row.spike_rate, "diagnose": diagnose(network, images).rows[0].spike_rate}
    counted = {"energy": cost.spikes * len(images), **{name: rate * places for name, rate in rates.items()}}
    expect(len({round(value) for value in counted.values()}) == 1, f"spikes are counted differently: {counted}")
    events = round(row.event_rate * places), round(cost.events * len(images))
    expect(events[0] == events[1], f"events are counted differently: {events}")
    logits = network(images)
    cut = torch.cat([network(part) for part in images.split(3)])
    expect(torch.equal(cut, logits), "logits depend on the batch")
    if network.streams:
        *_, (_, last) = network.stream(images)
        torch.testing.assert_close(last, logits, msg="streaming gives other logits")
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(save(network, Path(folder) / "network"))
    expect(torch.equal(loaded(images), logits), "a loaded network gives other logits")
