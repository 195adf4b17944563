"""PASCAL's cost model: its spike-counting neurons compared with integrate-and-fire neurons."""

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
"""Spikes of a neuron in all its steps: the paper's convention (below Eq. 13)."""


@dataclass(frozen=True)
class PascalLayer:
    """One layer of the model.

    Attributes:
        layer: name of the site, or ``"readout"``.
        levels: L = T of the layer.
        neurons: number of neurons of the site, or outputs of the readout.
        relative: r', operations of the neurons in one step / operations of the weights before them.
        ratio: r_E, energy of the layer with PASCAL's neurons / energy with integrate-and-fire neurons (Eq. 10).
    """

    layer: str
    levels: int
    neurons: int
    relative: float
    ratio: float


@dataclass(frozen=True)
class PascalCost(Result):
    """Result of the model.

    Attributes:
        rows: one for each layer.
        images: number of measured images; 0 if the spike rate was assumed.
        spike_rate: the assumed spike rate; None if images were measured.
    """

    in_json = ("timesteps", "ratio")

    rows: tuple[PascalLayer, ...]
    images: int
    spike_rate: float | None

    @property
    def timesteps(self) -> float:
        """T_eff, mean of r_E · T over layers (Eq. 16); equal to T_norm (Eq. 13) if all layers have the same T."""
        return sum(row.ratio * row.levels for row in self.rows) / len(self.rows)

    @property
    def ratio(self) -> float:
        """r_E of the whole network (Eq. 14): the mean over layers, weighted by their energy."""
        plain = [row.neurons * (1 / row.relative + row.levels) for row in self.rows]
        return sum(e * row.ratio for e, row in zip(plain, self.rows, strict=True)) / sum(plain)

    def table(self) -> Table:
        """One row for each layer."""
        columns = (
            Column("layer", "layer", align="left"),
            Column("L", "levels"),
            Column("r'", "relative", "{:.5f}"),
            Column("r_E", "ratio", "{:.4f}"),
            Column("r_E · L", lambda row: row.ratio * row.levels, "{:.3f}"),
        )
        return Table(columns, self.rows)

    def summary(self) -> str:
        """T_eff and r_E of the network."""
        return f"T_eff = {self.timesteps:.2f}, r_E of the network {self.ratio:.4f}."


def energy_ratio(levels: int, relative: float) -> float:
    """Return r_E = (1 + (5L − 2) r') / (1 + L r') (PASCAL, Eq. 10).

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
    r"""Compute the cost of PASCAL's neurons relative to integrate-and-fire neurons (Ramesh & Srinivasan, 4.2.1).

    .. math::
        r_E = \frac{1 + (5L - 2) r'}{1 + L r'}, \qquad
        r' = \frac{1}{C_{in} K_h K_w \, \mathrm{SpikeRate}}, \qquad
        T_{eff} = \frac{1}{n} \sum_l r_E^l \, T^l

    A PASCAL neuron makes 5L − 2 additions, an integrate-and-fire neuron L; r' is one addition divided by the additions
    of the neuron's weights. Without images, C_in · K_h · K_w is the number of weights that reach a neuron, residual
    branches included, and SpikeRate = 0.75 spikes in all L steps. With images, r' is computed from the operations of
    :func:`rheobase.energy` (FP32), where the first layer multiplies.

    The paper's figures for VGG-16 on CIFAR (T_norm 4.21, T_eff 2.13 and 4.54) are reproduced with hidden layers of
    512, not of the 4096 stated in its appendix A.5 (4.20, 2.12, 4.51); that for ImageNet (18.37) if the readout, which
    has no neurons, counts as a layer. For ResNets the paper gives 8.22 and 8.17, its equations 8.77 and 8.50.

    Args:
        network: a converted network with any neurons; L is the T of each site.
        images: images to count spikes on; None: assume a spike rate.
        spike_rate: the assumed spike rate, default 0.75.
        readout: count the readout as a layer, with the largest T.

    Raises:
        DataError: if the images do not fit the network.
        RecipeError: if the spike rate is not positive or given together with images, or a layer has no operations.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=torch.rand(4, 3, 32, 32))
        >>> round(rb.measure.pascal_cost(snn).timesteps, 2)
        4.42
    """
    check_converted(network)
    if images is not None and spike_rate is not None:
        raise RecipeError("cannot be combined with images", where="spike_rate", remedy="leave one of them out")
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
                "has no operations before its neurons, so that r' is not defined",
                where=name,
                remedy="give images on which the layers before it spike",
            )
        relative = size / work[name]
        rows.append(PascalLayer(name, levels[name], size, relative, energy_ratio(levels[name], relative)))
    return PascalCost(tuple(rows), seen, rate)
