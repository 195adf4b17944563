"""Properties of a site that NIR's IF node cannot express, each with a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from rheobase.core.errors import StoreError
from rheobase.exchange.nir.contract import Reset
from rheobase.graph.sites import Site
from rheobase.network.integer_network import IntegerNetwork
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.neurons.integer import FiresWhen, IntegerFire

_WITHOUT_V0 = "convert with initial_potential=0, or with RTS, which spreads the same charge over the steps"


@dataclass(frozen=True)
class Loss:
    """A property of a site that NIR cannot express, as a clause, and how to avoid it."""

    site: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.site}: {self.what}"


def losses(network: SpikingNetwork, site: Site, reset: Reset) -> Iterator[Loss]:
    """Losses of a site of a network in activation units."""
    neuron, steps = network.neuron(site.name), network.steps_of(site.name)
    if neuron.kind != "integrate_fire":
        what = f"has {type(neuron).__name__} neurons, for which NIR has no node"
        yield Loss(site.name, what, "convert with integrate-and-fire neurons, such as rb.RateCoding")
        if site.lower < 0:
            what = "is a linear output with negative spikes, which NIR's IF does not emit"
            yield Loss(site.name, what, 'convert with sites="activations"')
        return
    yield from _reset_losses(site, reset)
    if bool((torch.as_tensor(neuron.v0) != 0).any()):
        yield Loss(site.name, "starts from an initial potential, which NIR's IF does not have", _WITHOUT_V0)
    yield from _bias_losses(site, neuron)
    if steps != network.timesteps:
        own = f"runs for {steps} steps, other sites for {network.timesteps}"
        yield Loss(site.name, own, "use the same T at every site")


def whole_losses(network: IntegerNetwork, site: Site, reset: Reset, fires_when: FiresWhen) -> Iterator[Loss]:
    """Losses of a site of a network on whole numbers, for simulators whose IF fires when θ is reached or exceeded."""
    neuron = network.neuron(site.name)
    plain = "use a method of integrate-and-fire neurons before rb.integers, such as rb.RateCoding(initial_potential=0)"
    if not isinstance(neuron, IntegerFire):
        yield Loss(site.name, f"has {type(neuron).__name__} neurons, which wait for their whole input", plain)
        return
    if not neuron.alphabet.binary:
        yield Loss(site.name, f"emits the counts {neuron.alphabet} in a step, NIR's IF only 0 or 1", plain)
        return
    yield from _reset_losses(site, reset)
    yield from _bias_losses(site, neuron)
    start = -1 if fires_when == "exceeded" else 0  # v > θ from 0 is v >= θ from -1
    if bool((neuron.initial == start).all()):
        return
    if bool((neuron.initial == -1 - start).all()):
        other = "reached" if fires_when == "exceeded" else "exceeded"
        who = {"reached": "such as sinabs", "exceeded": "such as snnTorch"}[other]
        what = f"has neurons that fire when θ is {other}, the file is for a simulator in which θ must be {fires_when}"
        remedy = f'pass fires_when="{other}" (--fires-when {other}) for a simulator {who}'
        remedy += f', or make the network by rb.integers(..., fires_when="{fires_when}")'
        yield Loss(site.name, what, remedy)
        return
    what = "starts from an initial potential, which NIR's IF does not have"
    yield Loss(site.name, what, f"{_WITHOUT_V0}, before rb.integers")


def _reset_losses(site: Site, reset: Reset) -> Iterator[Loss]:
    if reset == "value":
        what = "resets by subtraction, NIR's IF to a value"
        others = "simulators that reset IF by subtraction, such as sinabs and snnTorch"
        yield Loss(site.name, what, f'pass reset="subtract" (--reset subtract) for {others}')


def _bias_losses(site: Site, neuron: Neuron) -> Iterator[Loss]:
    bias = neuron._buffers.get("bias")
    if bias is not None and bias.dim() == 2 and bool((bias != bias[0]).any()):
        constant = "use a method whose bias is constant, such as rb.RTS or rb.SNNCalibration"
        yield Loss(site.name, "has a bias for each step, NIR one for all", constant)


def refusal(found: Sequence[Loss], approximate: bool) -> StoreError:
    """The error for losses; its remedy names the option ``approximate`` if it can be used."""
    first, others = found[0], len({loss.site for loss in found}) - 1
    reason = "; ".join(loss.what for loss in found if loss.site == first.site)
    reason += f" (and {others} more site{'s' if others > 1 else ''})" if others else ""
    remedy = first.remedy
    if approximate:
        remedy += "; or pass approximate=True (--approximate): only rb.exchange.import_nir is then exact"
    return StoreError(reason, where=first.site, remedy=remedy)
