"""Operations and energy of one image, from the network's graph and the counted spikes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.checks import check_choice, is_number
from rheobase.core.errors import RecipeError
from rheobase.core.results import Column, Result, Table
from rheobase.core.values import Value
from rheobase.data.batches import Batches
from rheobase.graph.graph import Graph
from rheobase.graph.interpreter import run
from rheobase.graph.node import Node
from rheobase.graph.sites import Site, split_at_sites
from rheobase.graph.synapses import WorkCounter
from rheobase.measure._latency import Timetable
from rheobase.measure._walk import ALPHABET, check_run, method_of, sub_batches
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.response import Alphabet
from rheobase.signals.signal import Signal, SpikeCounts, count_spikes

READOUT = "readout"
GradedSpikes = Literal["additions", "products"]
COUNTED: dict[GradedSpikes, str] = {
    "additions": "a spike of magnitude k is counted as k additions",
    "products": "a spike of magnitude k is counted as one multiplication by k with an addition",
}
"""How a spike of a larger magnitude than 1 is counted at each synapse."""


class Costs(Value):
    """Energy of one operation of each kind, in picojoules.

    Args:
        name: shown in tables.
        mac: multiply-accumulate.
        ac: accumulate: an addition.
        product: multiplication of a weight by a small whole number, with an addition; default ``mac``, an upper bound.
        update: addition to a potential or a counter; default ``ac``.
        comparison: comparison of a potential with a threshold; 0 (default): unknown, listed as not counted.

    Raises:
        RecipeError: if a field is unknown, negative or not finite.

    Example:
        >>> Costs(name="mine", mac=2.0, ac=0.5).update
        0.5
    """

    place: ClassVar[str | None] = "costs"

    name: str = Field(min_length=1)
    mac: float = Field(ge=0)
    ac: float = Field(ge=0)
    product: float = Field(default_factory=lambda values: values["mac"], ge=0)
    update: float = Field(default_factory=lambda values: values["ac"], ge=0)
    comparison: float = Field(default=0.0, ge=0)


COSTS: dict[str, Costs] = {
    costs.name: costs
    for costs in (Costs(name="fp32-45nm", mac=4.6, ac=0.9), Costs(name="int8-45nm", mac=0.23, ac=0.03))
}
"""45 nm CMOS (Horowitz 2014, Fig. 1.1.9; PASCAL, Table 10): additions, and multiplications with an addition."""


def read_costs(costs: str | Costs) -> Costs:
    """Return the costs of that name, or the given ones."""
    if isinstance(costs, Costs):
        return costs
    if not isinstance(costs, str) or costs not in COSTS:
        raise RecipeError(
            f"{costs!r} is unknown",
            where="costs",
            remedy=f"use {', '.join(COSTS)}, or rb.measure.Costs(name=..., mac=..., ac=...)",
        )
    return COSTS[costs]


@dataclass(frozen=True)
class LayerEnergy:
    """A site with the affine operations before it, or the readout; all numbers are for one image.

    Attributes:
        layer: name of the site, or ``"readout"``.
        timesteps: T of the site; None for the readout.
        neurons: number of neurons of the site.
        spikes: magnitude of all emissions: k spikes at once count k times, of either sign.
        macs, acs: multiply-accumulates; accumulates, driven by spikes or not.
        products: multiplications of a weight by the magnitude of a spike, with an addition.
        numbers: operations of nodes on numbers (:class:`rheobase.graph.operations.OnNumbers`), priced like a MAC.
        updates, comparisons: additions to potentials and counters; comparisons of potentials with thresholds.
        picojoules: energy of all these operations.
        ann_macs, ann_acs, ann_numbers: of the analog network; its additions are pooling and residual sums.
        ann_picojoules: energy of all these.
        ann_macs_padded: ``ann_macs`` as usually stated, with the zeros of padding.
        events: number of non-zero emissions.
        alphabet: the numbers of spikes that its neurons may emit in one step; None for the readout.
    """

    layer: str
    timesteps: int | None
    neurons: int
    spikes: float
    macs: float
    acs: float
    products: float
    numbers: float
    updates: float
    comparisons: float
    picojoules: float
    ann_macs: float
    ann_acs: float
    ann_numbers: float
    ann_picojoules: float
    ann_macs_padded: float
    events: float
    alphabet: Alphabet | None


def _total(name: str) -> Any:
    """The property of :class:`Energy` that adds an attribute of its rows."""
    return property(lambda energy: sum(getattr(row, name) for row in energy.rows))


@dataclass(frozen=True)
class Energy(Result):
    """Operations and energy for one image, mean over the images, next to the analog network's.

    Attributes:
        rows: one for each layer, in execution order, and the readout.
        costs: energy of each kind of operation, in picojoules.
        timesteps: T of the run.
        images: number of measured images; 0 if the spike rate was given.
        spike_rate: spikes of a neuron in all its steps, as given or measured (mean).
        not_counted: costs that are not included.
        method: name of the recipe.
        graded_spikes: how a spike of a larger magnitude than 1 is counted: ``"additions"`` or ``"products"``.

    The totals ``macs``, ``acs``, ``products``, ``numbers``, ``updates``, ``comparisons``, ``spikes``, ``events``,
    ``picojoules``, ``ann_macs``, ``ann_macs_padded``, ``ann_numbers`` and ``ann_picojoules`` add the rows' attributes
    of these names.
    """

    in_json = (
        *("macs", "acs", "products", "numbers", "updates", "comparisons", "spikes", "events", "picojoules"),
        *("ann_macs", "ann_macs_padded", "ann_numbers", "ann_picojoules", "ratio", "on_spikes", "alphabet"),
    )

    rows: tuple[LayerEnergy, ...]
    costs: Costs
    timesteps: int
    images: int
    spike_rate: float
    not_counted: tuple[str, ...]
    method: str
    graded_spikes: GradedSpikes

    macs, acs, products, numbers = map(_total, ("macs", "acs", "products", "numbers"))
    updates, comparisons = map(_total, ("updates", "comparisons"))
    spikes, events, picojoules = map(_total, ("spikes", "events", "picojoules"))
    ann_macs, ann_macs_padded = map(_total, ("ann_macs", "ann_macs_padded"))
    ann_numbers, ann_picojoules = map(_total, ("ann_numbers", "ann_picojoules"))

    @property
    def on_spikes(self) -> float:
        """Share of additions and products among all operations but those of neurons: the rest computes on numbers."""
        spikes = self.acs + self.products
        return spikes / max(spikes + self.macs + self.numbers, 1)

    @property
    def ratio(self) -> float:
        """Energy of the spiking network / energy of the analog network; NaN if the latter is 0."""
        return self.picojoules / self.ann_picojoules if self.ann_picojoules else math.nan

    @property
    def alphabet(self) -> Alphabet:
        """The numbers of spikes that a neuron may emit in one step: the union over all sites."""
        return Alphabet.union(row.alphabet for row in self.rows if row.alphabet)

    def table(self) -> Table:
        """One row for each layer, and one for the network."""
        graded = self.alphabet.magnitude > 1
        columns = (
            Column("layer", lambda row: "total" if row is self else row.layer, align="left"),
            Column("T", "timesteps", none=""),
            dataclasses.replace(ALPHABET, none=""),
            Column("spikes", "spikes", "{:.0f}"),
            *((Column("events", "events", "{:.0f}"),) if graded else ()),
            Column("MACs", "macs", "{:.0f}"),
            Column("ACs", "acs", "{:.0f}"),
            *((Column("products", "products", "{:.0f}"),) if self.products else ()),
            *((Column("on numbers", "numbers", "{:.0f}"),) if self.numbers else ()),
            Column("updates", "updates", "{:.0f}"),
            Column("nJ", lambda row: row.picojoules / 1000, "{:.4g}"),
            Column("ANN MACs", "ann_macs", "{:.0f}"),
            Column("ANN nJ", lambda row: row.ann_picojoules / 1000, "{:.4g}"),
        )
        return Table(columns, (*self.rows, self), "Operations and energy for one image")

    def summary(self) -> str:
        """Energy relative to the analog network, and the costs that are not counted."""
        source = f"measured on {self.images} images" if self.images else f"for {self.spike_rate:g} spikes per neuron"
        share = f"{self.ratio:.3f} of the analog network's energy"
        if math.isnan(self.ratio):
            share = "The analog network needs no energy"
        alphabet = f"Alphabet {self.alphabet.label}"
        if self.alphabet.magnitude > 1:
            alphabet += f": {COUNTED[self.graded_spikes]}"
        if self.numbers:
            alphabet += f". {self.on_spikes:.1%} of the operations are on spikes; one on numbers is priced like a MAC"
        if self.products and "product" not in self.costs.model_fields_set:
            alphabet += f", at the price of a MAC, an upper bound, because {self.costs.name} has none for it"
        return f"{share} ({self.costs.name}, {source}). {alphabet}. Not counted: {'; '.join(self.not_counted)}."


def energy(
    network: SpikingNetwork,
    images: Batches | None = None,
    *,
    timesteps: int | None = None,
    costs: str | Costs = "fp32-45nm",
    spike_rate: float | None = None,
    graded_spikes: GradedSpikes = "additions",
    progress: bool = False,
) -> Energy:
    r"""Count the operations of one image on event-driven hardware, and their energy.

    .. math::
        \begin{aligned}
        E &= c_{MAC} \, n_{MAC} + c_{AC} \, n_{AC} + c_{product} \, n_{product} \\
        &\quad + c_{update} \, n_{update} + c_{comparison} \, n_{comparison} + c_{MAC} \, n_{numbers}, \\
        n_{AC} &= \sum_{\text{neurons } i} N_i \, r_i
        \end{aligned}

    N_i is the number of spikes of neuron i in all its T steps (k at once, of either sign, count k times), r_i the
    number of additions per spike: exactly the outputs that it reaches, given stride, dilation and groups, without
    padding and without zero weights. The counts are those of the simulation, also if the network runs in closed form.

    - A spike that meets a weight is one **AC** for every output; θ is part of the weight. Mean-pooling, interpolation
      and channel-wise factors are constant: a spike enters every window that reads it, and the next weight contains
      the factor, as on chips with sum-pooling. A spike added directly to a potential (an identity shortcut) is one AC.
    - A **product** replaces the additions of graded spikes with ``graded_spikes="products"``, for hardware that
      multiplies by small whole numbers: each event of a neuron whose alphabet exceeds magnitude 1 is one product for
      every output, :math:`n_{product} = \sum_i M_i r_i` with its M_i events. Neurons that emit 0 and ±1 are counted
      alike in both ways.
    - A **MAC** is counted only where the input is not a spike: for the image, once, because the image is constant; and
      for a weighted operation that reads the result of another one without a neuron between (bottlenecks without
      activation, pre-activation shortcuts): dense, at each step between sites, once in the readout. Max-pooling of a
      pooled value is dense likewise. A network converted with ``sites="all"`` has no such weighted operation.
    - A node **on numbers** (``nonlinear="numbers"``) costs its elementary operations, such as 3 for each element of a
      softmax, at every step, and those of its running means; in the analog network once. Each is priced like a MAC.
    - An **update** is one addition per neuron and step, including bias and reset; a second one where a neuron counts
      its net spikes, so as not to take back more than it emitted. PASCAL's neurons have three stages and a
      counter: 5L − 2 updates (section 4.2.1).
    - The sum of two branches costs no extra addition: each term is added to the potential directly.

    The analog network is counted by the same rules, once, with real-valued activations: dense MACs, additions of
    pooling and residual sums. Its activation functions that become neurons are counted as free.

    Args:
        network: a converted network.
        images: a tensor [N, ...] or batches.
        timesteps: T; default that of the conversion.
        costs: ``"fp32-45nm"`` or ``"int8-45nm"`` (Horowitz 2014; PASCAL, Table 10), or a :class:`Costs`.
        spike_rate: instead of images: spikes of every neuron in all its steps (PASCAL's convention is 0.75).
        graded_spikes: a spike of magnitude k is k additions (``"additions"``), or one product (``"products"``).
        progress: show a progress bar with the time left.

    Raises:
        DataError: if there are no images, or they do not fit the network.
        RecipeError: if the costs or the way of counting are unknown, the spike rate is outside [0, m T] (m the largest
            magnitude of a spike), both or neither of images and spike rate are given, a spike rate would have to be
            divided into events of unknown magnitude, or the network cannot run for T steps.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(4, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=images)
        >>> rb.energy(snn, images).rows[0].macs  # the first layer reads the image, once
        424128.0
    """
    steps = check_run(network, timesteps)
    table = read_costs(costs)
    check_choice(graded_spikes, GradedSpikes, "graded_spikes")
    spiking = WorkCounter(network.graph, spiking=True)
    if (images is None) == (spike_rate is None):
        reason = "are both missing" if images is None else "are both given"
        raise RecipeError(reason, where="images and spike_rate", remedy="give one of them")
    if images is not None:
        seen, spikes = spikes_per_image(network, images, steps, spiking.sources, progress)
    else:
        magnitude = network.alphabet.magnitude
        if not is_number(spike_rate) or not 0 <= spike_rate <= magnitude * steps:
            limit = f"T = {steps}" if magnitude == 1 else f"m T = {magnitude * steps}"
            raise RecipeError(f"is {spike_rate!r}", where="spike_rate", remedy=f"use a number from 0 to {limit}")
        if magnitude > 1 and graded_spikes == "products":
            raise RecipeError(
                f"does not determine the number of events of the alphabet {network.alphabet}",
                where="spike_rate",
                remedy='give images, or count a spike of magnitude k as k additions (graded_spikes="additions")',
            )
        shapes = {node.name: node.shape for node in network.graph.nodes}
        given = {name: torch.full(shapes[name], spike_rate, dtype=torch.float64) for name in spiking.sources}
        seen, spikes = 0, {name: SpikeCounts(value, value, value) for name, value in given.items()}
    rows = _rows(network, steps, table, spiking, spikes, graded_spikes)
    rate = sum(row.spikes for row in rows) / sum(row.neurons for row in rows)
    missing = _not_counted(network, table)
    return Energy(rows, table, steps, seen, rate, missing, method_of(network), graded_spikes)


def spikes_per_image(
    network: SpikingNetwork, images: Batches, steps: int, sources: tuple[str, ...], progress: bool = False
) -> tuple[int, dict[str, SpikeCounts]]:
    """Return the number of images, and the mean spikes of every neuron of each source in all its steps, [C, ...].

    The network runs by its own ``execution``; it is simulated if max-pooling passes spikes, which depends on timing.
    """
    totals: dict[str, Tensor] = {}
    gates = set(sources) - {site.name for site in network.sites}

    def add(at: Site | Node, emitted: Signal) -> None:
        found = count_spikes(emitted)
        counts = torch.stack([part.sum(0) for part in (found.events, found.magnitude, found.net)])
        totals[at.name] = totals[at.name] + counts if at.name in totals else counts

    @torch.no_grad()
    def simulate(images: Tensor) -> None:
        fire = Simulation(network, add).advance(steps)

        def through(node: Node, *signals: Signal) -> Signal:
            passed = fire(node, *signals)
            if node.name in gates:
                add(node, passed)
            return passed

        run(network.graph, network.between, network.begin(images), through)

    at_once = 1 if not gates and network.execution_mode == "counts" else steps
    seen = 0
    for sub_batch in sub_batches(network, images, at_once, "counting spikes", progress=progress):
        seen += len(sub_batch)
        if gates:
            simulate(sub_batch)
        else:
            network.readouts(sub_batch, (steps,), monitor=add)
    return seen, {name: SpikeCounts(*(total.cpu() / seen)) for name, total in totals.items()}


def layer_of(graph: Graph) -> dict[str, str]:
    """Map each node to the first site, in execution order, that depends on it, or to the readout."""
    layers: dict[str, str] = {}
    users = graph.users()
    order = {node.name: i for i, node in enumerate(graph.sites)}
    for node in reversed(graph.nodes):
        reached = [layers[user.name] for user in users[node.name]]
        first = min(reached, key=lambda name: order.get(name, len(order)), default=READOUT)
        layers[node.name] = node.name if node.name in order else first
    return layers


def _rows(
    network: SpikingNetwork,
    steps: int,
    costs: Costs,
    spiking: WorkCounter,
    spikes: Mapping[str, SpikeCounts],
    graded_spikes: GradedSpikes,
) -> tuple[LayerEnergy, ...]:
    counted = (
        "spikes",
        "events",
        "macs",
        "acs",
        "products",
        "numbers",
        "updates",
        "comparisons",
        "ann_macs",
        "ann_acs",
        "ann_numbers",
        "ann_macs_padded",
    )
    neurons = {site.name: site.neurons for site in network.sites} | {READOUT: 0}
    own = {site.name: network.steps_of(site.name, steps) for site in network.sites}
    found = {name: dict.fromkeys(counted, 0.0) for name in neurons}
    times, alphabets = Timetable(network, steps), _alphabets(network)
    _, between, _ = split_at_sites(network.graph)
    stepped = {node.name: times.steps(node.name) or 1 for node in between}  # all other nodes are computed once
    layers = layer_of(network.graph)
    for name, work in spiking.work.items():
        layer, repeated = found[layers[name]], stepped.get(name, 1)
        layer["macs"] += work.macs * repeated
        layer["acs"] += work.acs * repeated
        again = 1 if network.reads_means else repeated  # such networks compute on the time-mean alone
        layer["numbers"] += work.numbers * again + (work.differences * again if name in stepped else 0)
        for source, reach in work.reach.items():
            multiplies = graded_spikes == "products" and alphabets[source].magnitude > 1
            number = spikes[source].events if multiplies else spikes[source].magnitude
            layer["products" if multiplies else "acs"] += float((number * reach.cpu()).sum())
    layers = layer_of(network.ann)
    for name, work in WorkCounter(network.ann, spiking=False).work.items():
        layer = found[layers[name]]
        layer["ann_macs"] += work.macs
        layer["ann_acs"] += work.acs
        layer["ann_numbers"] += work.numbers
        layer["ann_macs_padded"] += work.padded
    for node in network.graph.sites:
        name, layer, emitted = node.name, found[node.name], spikes[node.name]
        layer["spikes"], layer["events"] = float(emitted.magnitude.sum()), float(emitted.events.sum())
        updates, comparisons = network.neuron_work(name, times.steps(node.inputs[0]), own[name])
        layer["updates"], layer["comparisons"] = neurons[name] * updates, neurons[name] * comparisons
    prices = {"macs": costs.mac, "acs": costs.ac, "products": costs.product, "numbers": costs.mac}
    prices |= {"updates": costs.update, "comparisons": costs.comparison}
    return tuple(
        LayerEnergy(
            layer=name,
            timesteps=own.get(name),
            alphabet=None if name == READOUT else alphabets[name],
            neurons=neurons[name],
            picojoules=sum(price * n[kind] for kind, price in prices.items()),
            ann_picojoules=costs.mac * (n["ann_macs"] + n["ann_numbers"]) + costs.ac * n["ann_acs"],
            **n,
        )
        for name, n in found.items()
    )


def _alphabets(network: SpikingNetwork) -> dict[str, Alphabet]:
    """Node -> the numbers of spikes that it may pass in one step: those of the sites that reach it."""
    found: dict[str, Alphabet] = {}
    for node in network.graph.nodes:
        own = node.operation == "site"
        arriving = [network.neuron(node.name).alphabet] if own else [found[name] for name in node.inputs]
        found[node.name] = Alphabet.union(arriving)
    return found


def _not_counted(network: SpikingNetwork, costs: Costs) -> tuple[str, ...]:
    gates = ", ".join(node.name for node in network.graph.nodes if node.operation == "max_pool")
    free = f"comparisons with thresholds ({costs.name} has no cost for them)"
    return (
        "moving spikes, weights and potentials",
        "static power",
        *((free,) if costs.comparison == 0 else ()),
        *((f"comparisons of max-pooling ({gates}), in both networks",) if gates else ()),
        "activation functions of the analog network that become neurons",
    )
