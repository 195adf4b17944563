"""PASCAL's own model of what its spike-counting neurons cost beside plain integrate-and-fire ones."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from rheobase.core.checks import check_positive
from rheobase.core.errors import RecipeError
from rheobase.core.results import Column, Result, Table
from rheobase.data.batches import Batches
from rheobase.graph.synapses import WorkCounter
from rheobase.measure._energy import READOUT, energy, layer_of
from rheobase.network.spiking_network import SpikingNetwork, check_converted

SPIKE_RATE = 0.75
"""Spikes of a neuron in all its steps, the paper's convention (below Eq. 13)."""


@dataclass(frozen=True)
class PascalLayer:
    """One layer of the model.

    Attributes:
        layer: name of the site, or ``"readout"``.
        levels: L = T of the layer.
        neurons: of the site; the outputs of the readout.
        relative: r', operations of its neurons in a step by those of the weights before them.
        ratio: r_E, energy of the layer with PASCAL's neurons by that with plain ones (Eq. 10).
    """

    layer: str
    levels: int
    neurons: int
    relative: float
    ratio: float


@dataclass(frozen=True)
class PascalCost(Result):
    """The model's answer.

    Attributes:
        rows: one for each layer.
        images: how many were measured; 0 for the convention.
        spike_rate: of the convention, or None.
    """

    in_json = ("timesteps", "ratio")

    rows: tuple[PascalLayer, ...]
    images: int
    spike_rate: float | None

    @property
    def timesteps(self) -> float:
        """T_eff, mean of r_E · T over layers (Eq. 16); where all have the same T, T_norm (Eq. 13)."""
        return sum(row.ratio * row.levels for row in self.rows) / len(self.rows)

    @property
    def ratio(self) -> float:
        """r_E of the whole network (Eq. 14): layers count with the energy that they take."""
        plain = [row.neurons * (1 / row.relative + row.levels) for row in self.rows]
        return sum(e * row.ratio for e, row in zip(plain, self.rows, strict=True)) / sum(plain)

    def table(self) -> Table:
        """A row for each layer."""
        columns = (
            Column("layer", "layer", align="left"),
            Column("L", "levels"),
            Column("r'", "relative", "{:.5f}"),
            Column("r_E", "ratio", "{:.4f}"),
            Column("r_E · L", lambda row: row.ratio * row.levels, "{:.3f}"),
        )
        return Table(columns, self.rows)

    def summary(self) -> str:
        """The means over the layers."""
        return f"T_eff = {self.timesteps:.2f}, r_E of the network {self.ratio:.4f}."


def energy_ratio(levels: int, relative: float) -> float:
    """r_E = (1 + (5L − 2) r') / (1 + L r') (PASCAL, Eq. 10).

    Example:
        >>> round(energy_ratio(4, 1 / (27 * 0.75)), 4)  # the first layer of a VGG
        1.5773
    """
    return (1 + (5 * levels - 2) * relative) / (1 + levels * relative)


def pascal_cost(
    network: SpikingNetwork,
    images: Batches | None = None,
    *,
    spike_rate: float | None = None,
    readout: bool = False,
) -> PascalCost:
    r"""What PASCAL's neurons cost more than integrate-and-fire ones in the same network (Ramesh & Srinivasan, 4.2.1).

    .. math::
        r_E = \frac{1 + (5L - 2) r'}{1 + L r'}, \qquad
        r' = \frac{1}{C_{in} K_h K_w \, \mathrm{SpikeRate}}, \qquad
        T_{eff} = \frac{1}{n} \sum_l r_E^l \, T^l

    A neuron of PASCAL makes 5L − 2 additions where a plain one makes L; r' is the share of one of them in the additions
    that its weights take. Without images, C_in · K_h · K_w is the number of weights that reach a neuron, through
    residual branches too, and SpikeRate = 0.75 spikes in all L steps. With images, r' comes from the operations of
    :func:`rheobase.energy` (FP32), where the first layer multiplies.

    The paper's figures for VGG-16 on CIFAR (T_norm 4.21, T_eff 2.13 and 4.54) come out with hidden layers of 512, not
    of the 4096 that its appendix A.5 states (4.20, 2.12, 4.51); that for ImageNet (18.37) if the readout, which has no
    neurons, counts as a layer. Those for ResNets (8.22, 8.17) do not follow from the equations: 8.77 and 8.50.

    Args:
        network: a converted network; its T are the L of the model, whatever its neurons.
        images: to measure on; None for the convention.
        spike_rate: of the convention, default 0.75.
        readout: count the readout as a layer, with the longest T.

    Raises:
        DataError: if the images do not fit the network.
        RecipeError: for a spike rate that is not positive, or one beside images.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=torch.rand(4, 3, 32, 32))
        >>> round(rb.measure.pascal_cost(snn).timesteps, 2)
        4.42
    """
    check_converted(network)
    if images is not None and spike_rate is not None:
        raise RecipeError("has no effect beside images", where="spike_rate", remedy="leave one of them out")
    if spike_rate is not None:
        check_positive(spike_rate, "spike_rate")
    rate = None if images is not None else SPIKE_RATE if spike_rate is None else spike_rate
    if rate is None:
        assert images is not None
        measured = energy(network, images)
        work = {row.layer: row.acs + row.macs * measured.costs.mac / measured.costs.ac for row in measured.rows}
        seen = measured.images
    else:
        work, seen = dict.fromkeys([*(site.name for site in network.sites), READOUT], 0.0), 0
        layers = layer_of(network.graph)
        for name, done in WorkCounter(network.graph, spiking=True).work.items():
            work[layers[name]] += done.padded * rate
    neurons = {site.name: site.neurons for site in network.sites}
    levels = {site.name: network.steps_of(site.name) for site in network.sites}
    if readout:
        (output,) = (node for node in network.graph.nodes if node.name == network.graph.output)
        neurons[READOUT], levels[READOUT] = prod(output.shape), max(levels.values())
    rows = []
    for name, size in neurons.items():
        if not work[name]:
            raise RecipeError(
                "takes no operations before its neurons, so that their share in them is not defined",
                where=name,
                remedy="give images on which the layers before it spike; the model has no value for a site without any",
            )
        relative = size / work[name]
        rows.append(PascalLayer(name, levels[name], size, relative, energy_ratio(levels[name], relative)))
    return PascalCost(tuple(rows), seen, rate)
