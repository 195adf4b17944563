"""Neurons as a user writes them: a burst neuron, a ternary one for signed values, and a protocol of two phases."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

import rheobase as rb
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods import NeuronPart
from rheobase.network import Phase, Protocol
from rheobase.neurons import Alphabet, MembraneNeuron, Neuron, State


class Burst(MembraneNeuron):
    """Up to three spikes a step: as many thresholds as the potential holds."""

    kind = "my_burst"
    alphabet = Alphabet.upto(3)


class BurstNeuron(NeuronPart):
    """Burst at every site."""

    kind: Literal["my_burst"] = "my_burst"
    builds = Burst

    def build(self, site: Site, graph: Graph) -> Burst:
        return Burst(torch.tensor(1.0), torch.tensor(0.5))


class Ternary(MembraneNeuron):
    """A spike, none, or one taken back: never more than were sent, so that what has left is no less than zero."""

    kind = "ternary"
    alphabet = Alphabet.signed(1)
    remembers = True

    def count(self, potential: Tensor, threshold: Tensor, sent: Tensor | None) -> Tensor:
        assert sent is not None
        return torch.maximum((potential / threshold).floor_().clamp_(-1, 1), -sent)


class TernaryNeuron(NeuronPart):
    """Ternary at every site."""

    kind: Literal["ternary"] = "ternary"
    builds = Ternary

    def build(self, site: Site, graph: Graph) -> Ternary:
        return Ternary(torch.tensor(1.0), torch.tensor(0.5))


class Rehearsal(Protocol):
    """Run ``steps`` steps; neurons that end below zero have fired too often, and stay silent in the T that count."""

    kind: Literal["rehearsal"] = "rehearsal"
    steps: int = 4

    def phases(self, timesteps: int) -> tuple[int, ...]:
        return self.steps, timesteps

    def between(self, neuron: Neuron, start: State, done: Phase) -> State:
        return (torch.where(done.end[0] < 0, -torch.inf, start[0]), *start[1:])


def register() -> None:
    for part in (BurstNeuron, TernaryNeuron, Rehearsal):
        rb.register(part)
