"""Memory traffic of one image: weights, potentials and spikes that are read and written, in bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from rheobase.core.errors import RecipeError
from rheobase.core.results import Column, Result, Table
from rheobase.core.values import Value
from rheobase.data.batches import Batches
from rheobase.measure._energy import Energy, energy
from rheobase.measure._walk import method_of
from rheobase.network.integer_network import IntegerNetwork
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.response import Alphabet

FLOAT_BITS = 32


class Memory(Value):
    """Energy of moving a byte from or to a memory, in picojoules.

    Args:
        name: shown in tables.
        byte: energy of a byte read or written.
    """

    place: ClassVar[str | None] = "memory"

    name: str = Field(min_length=1)
    byte: float = Field(ge=0)


MEMORIES = {
    memory.name: memory
    for memory in (
        Memory(name="sram-8kb-45nm", byte=1.25),
        Memory(name="sram-1mb-45nm", byte=12.5),
        Memory(name="dram-45nm", byte=162.5),
    )
}
"""45 nm CMOS: 10 and 100 pJ for 64 bits of a cache of 8 KB and 1 MB, 1.3 nJ for 64 bits of DRAM, the lower value
(Horowitz 2014, Fig. 1.1.9)."""


@dataclass(frozen=True)
class LayerTraffic:
    """Bytes of a site with the operations before it, or of the readout; all are for one image.

    Attributes:
        layer: name of the site, or ``"readout"``.
        weights: read, one for each spike at each synapse.
        potentials: read and written, at each synapse and at each update of a neuron.
        spikes: addresses of the events of this site, written once and read once by each layer that receives them.
        ann_weights, ann_activations: of the analog network: read for each product; activations are written once.
    """

    layer: str
    weights: float
    potentials: float
    spikes: float
    ann_weights: float
    ann_activations: float

    @property
    def total(self) -> float:
        """All bytes of the spiking network."""
        return self.weights + self.potentials + self.spikes

    @property
    def ann_total(self) -> float:
        """All bytes of the analog network."""
        return self.ann_weights + self.ann_activations


@dataclass(frozen=True)
class Traffic(Result):
    """Memory traffic for one image, mean over the images, next to the analog network's.

    Attributes:
        rows: one for each layer, in execution order, and the readout.
        memory: energy of a byte.
        weight_bits, state_bits: widths of weights and potentials.
        method: name of the recipe.
    """

    in_json = ("total", "ann_total", "picojoules", "ann_picojoules")

    rows: tuple[LayerTraffic, ...]
    memory: Memory
    weight_bits: int
    state_bits: int
    method: str

    @property
    def total(self) -> float:
        """All bytes of the spiking network."""
        return sum(row.total for row in self.rows)

    @property
    def ann_total(self) -> float:
        """All bytes of the analog network."""
        return sum(row.ann_total for row in self.rows)

    @property
    def picojoules(self) -> float:
        """Energy of the spiking network's traffic."""
        return self.memory.byte * self.total

    @property
    def ann_picojoules(self) -> float:
        """Energy of the analog network's traffic."""
        return self.memory.byte * self.ann_total

    def table(self) -> Table:
        """One row for each layer."""
        names = ("weights", "potentials", "spikes", "ann_weights", "ann_activations")
        columns = [Column(f"{name.replace('ann_', 'ANN ')}, kB", name, "{:.4g}", scale=1e-3) for name in names]
        return Table([Column("layer", "layer", align="left"), *columns], self.rows, "Memory traffic for one image")

    def summary(self) -> str:
        """Totals, and their energy."""
        own = f"{self.total / 1e3:.4g} kB, {self.picojoules / 1e3:.4g} nJ"
        analog = f"{self.ann_total / 1e3:.4g} kB, {self.ann_picojoules / 1e3:.4g} nJ"
        widths = f"{self.weight_bits}-bit weights, {self.state_bits}-bit potentials"
        return f"{own}; analog network {analog} ({self.memory.name}; {widths}; without reuse)."


def traffic(
    network: SpikingNetwork,
    images: Batches,
    *,
    timesteps: int | None = None,
    memory: str | Memory = "sram-1mb-45nm",
    progress: bool = False,
) -> Traffic:
    """Count the bytes that event-driven hardware moves for one image, without reuse: an upper bound.

    A spike reads its weight at every synapse, and reads and writes the potential there; a neuron's update reads and
    writes its potential; an event is written once, with the address of its neuron, and read once by each layer that
    receives it. In the analog network each product reads a weight and an activation, and each activation is written
    once, both with the width of the weights. Widths are those of the target for a network on whole numbers
    (:func:`rheobase.integers`), else 32 bits.

    Args:
        network, images, timesteps, progress: as for :func:`rheobase.energy`.
        memory: ``"sram-8kb-45nm"``, ``"sram-1mb-45nm"``, ``"dram-45nm"`` (Horowitz 2014), or a :class:`Memory`.

    Raises:
        DataError, RecipeError: as for :func:`rheobase.energy`; if the memory is unknown.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> found = rb.measure.traffic(snn, images)
        >>> found.rows[0].weights == 4 * 424128  # the first layer reads a weight for each of its products
        True
    """
    memory = read_memory(memory)
    return traffic_of(network, energy(network, images, timesteps=timesteps, progress=progress), memory)


def read_memory(memory: str | Memory) -> Memory:
    """Return the memory of that name, or the given one."""
    if isinstance(memory, Memory):
        return memory
    if not isinstance(memory, str) or memory not in MEMORIES:
        remedy = f"use {', '.join(MEMORIES)}, or rb.measure.Memory(name=..., byte=...)"
        raise RecipeError(f"{memory!r} is unknown", where="memory", remedy=remedy)
    return MEMORIES[memory]


def traffic_of(network: SpikingNetwork, counted: Energy, memory: Memory) -> Traffic:
    """The traffic of operations that are counted already."""
    target = network.units.target if isinstance(network, IntegerNetwork) else None
    weight, state = (FLOAT_BITS, FLOAT_BITS) if target is None else (target.weights, target.state)
    readers = {site.name: len(site.next) for site in network.sites}
    last = {site.name for site in network.sites if not site.next}
    rows = []
    for row in counted.rows:
        at_synapses = row.macs + row.acs + row.products
        read = readers.get(row.layer, 0) + (row.layer in last)
        rows.append(
            LayerTraffic(
                layer=row.layer,
                weights=at_synapses * weight / 8,
                potentials=2 * (at_synapses + row.updates) * state / 8,
                spikes=row.events * (1 + read) * _event_bits(row.neurons, row.alphabet) / 8,
                ann_weights=row.ann_macs * weight / 8,
                ann_activations=(row.ann_macs + row.neurons) * weight / 8,
            )
        )
    return Traffic(tuple(rows), memory, weight, state, method_of(network))


def _event_bits(neurons: int, alphabet: Alphabet | Any) -> int:
    """Bits of an event: the address of the neuron, and which number of spikes it emitted (not 0)."""
    if not neurons:
        return 0
    return math.ceil(math.log2(max(2, neurons))) + math.ceil(math.log2(max(1, len(alphabet.values) - 1)))
