"""Export of spiking networks as NIR files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rheobase.core.checks import check_choice, check_flag
from rheobase.core.errors import StoreError
from rheobase.core.folders import as_path, whole_file
from rheobase.exchange.nir.contract import Reset, require_nir, write_contract
from rheobase.exchange.nir.losses import Loss, losses, refusal, whole_losses
from rheobase.exchange.nir.lower import Lowering, refused
from rheobase.graph.rewrites.factors import rescale
from rheobase.graph.rewrites.sum_pool import sum_pools
from rheobase.network.integer_network import IntegerNetwork
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons import Neuron
from rheobase.neurons.integer import FiresWhen, IntegerNeuron


@dataclass(frozen=True)
class NIRExport:
    """Result of an export: the file, ``losses`` that NIR cannot express, and ``sites``, site -> name of its IF node.

    ``fires_when`` is None unless the network is on whole numbers.
    """

    path: Path
    reset: Reset
    losses: tuple[Loss, ...]
    sites: dict[str, str]
    fires_when: FiresWhen | None = None

    @property
    def exact(self) -> bool:
        """True if NIR expresses the whole network."""
        return not self.losses


def export_nir(
    network: SpikingNetwork,
    path: str | Path,
    approximate: bool = False,
    *,
    reset: Reset = "value",
    fires_when: FiresWhen | None = None,
    overwrite: bool = False,
) -> NIRExport:
    r"""Write a network as a NIR graph (HDF5).

    NIR's IF node, with a step of dt = 1 and R = 1, is

    .. math:: v \leftarrow v + I, \qquad z = [v > v_{thr}], \qquad v \leftarrow v_{reset} \text{ where } z = 1

    (``nir/ir/neuron.py``): a reset to a value, no initial potential, the same current in every step. Rheobase's neurons
    reset by subtraction and fire on ``>=``. A constant bias is added to the layer before, θ is multiplied into the
    weights after (spikes have amplitude 1). The simulator must present the same image at every step; the logits are the
    time-mean of the output.

    The file of a network of :func:`rheobase.integers` holds its whole numbers: weights, biases and thresholds. The
    simulator reads pixels, and the time-mean of its output times ``units.logit`` gives the logits; the metadata hold
    the units. Spikes are equal at every neuron and step, in any order of additions, as long as no potential leaves the
    width of the target (:attr:`rheobase.network.IntegerNetwork.overflows`), because NIR has no such width.

    Args:
        network: a converted network; apply :func:`rheobase.network.fold_thresholds` first for simulators with a single
            threshold.
        path: file to write.
        approximate: also write properties that NIR cannot express, as the nearest NIR node (V0 and biases that differ
            between steps as a constant current of the same sum over T steps; any other neuron as IF).
            :func:`rheobase.exchange.import_nir` restores the exact network.
        reset: reset of IF nodes in the simulators that will read the file.
        fires_when: for whole numbers only: when IF nodes fire in the simulators that will read the file; default:
            θ is ``"exceeded"``, as NIR defines it. Make the network by ``rb.integers`` with the same ``fires_when``.
        overwrite: replace an existing file.

    Raises:
        StoreError: if NIR cannot express a site (without ``approximate``); if NIR has no node for an operation; if
            ``approximate`` or ``fires_when`` does not apply to the network; if the file exists or cannot be written;
            or if the package ``nir`` is missing.

    Example:
        >>> rb.exchange.export_nir(rb.network.fold_thresholds(snn), "net.nir", reset="subtract").exact  # doctest: +SKIP
        True
    """
    check_converted(network)
    nir = require_nir()
    check_choice(reset, Reset, "reset", error=StoreError)
    check_flag(approximate, "approximate", error=StoreError)
    whole = isinstance(network, IntegerNetwork)
    if fires_when is not None:
        check_choice(fires_when, FiresWhen, "fires_when", error=StoreError)
    if fires_when is not None and not whole:
        reason = "has no effect on a network that is not on whole numbers"
        raise StoreError(reason, where="fires_when (--fires-when)", remedy="leave it out, or use rb.integers first")
    if approximate and whole:
        reason = "has no effect on a network on whole numbers, which NIR expresses exactly or not at all"
        raise StoreError(reason, where="approximate (--approximate)", remedy="leave it out")
    path = as_path(path)
    if path.exists() and not overwrite:
        raise StoreError("already exists", where=str(path), remedy="choose another name, or pass overwrite=True")
    declared: dict[str, str] = {"reset": reset}
    if isinstance(network, IntegerNetwork):
        fires_when = fires_when or "exceeded"
        declared["fires_when"] = fires_when
        found = tuple(loss for site in network.sites for loss in whole_losses(network, site, reset, fires_when))
    else:
        found = tuple(loss for site in network.sites for loss in losses(network, site, reset))
    if found and not approximate:
        raise refusal(found, approximate=not whole)
    lowering = _lower(network, nir)
    if whole:
        _check_whole(lowering)
    metadata = write_contract(network, lowering, declared, found, str(path))
    for site in network.sites:
        lowering.nodes[lowering.names[site.name]].metadata = {"site": site.name, **declared}
    graph = nir.NIRGraph(nodes=lowering.nodes, edges=lowering.edges, metadata=metadata)
    with whole_file(path) as draft:
        path.parent.mkdir(parents=True, exist_ok=True)
        nir.write(draft, graph)
    sites = {site.name: lowering.names[site.name] for site in network.sites}
    return NIRExport(path, reset, found, sites, fires_when)


def _lower(network: SpikingNetwork, nir: Any) -> Lowering:
    """Lower the graph: sums for means, θ in the weights after a site, constant currents in the biases before it."""
    graph, after = sum_pools(network.graph, refused)
    thresholds, shifts = {}, {}
    for site, neuron in zip(network.sites, cast(Sequence[Neuron], network.neurons), strict=True):
        thresholds[site.name] = torch.as_tensor(neuron.threshold)
        amplitude = neuron.amplitude.double()
        after[site.name] = torch.where(amplitude.isinf(), 1.0, amplitude)
        current = _constant_current(neuron, network.steps_of(site.name))
        if bool((current != 0).any()):
            shifts[site.name] = current
    unit = {name: factor for name, factor in after.items() if bool((factor != 1).any())}
    return Lowering(rescale(graph, unit, {}, shifts), thresholds, nir)


def _check_whole(lowering: Lowering) -> None:
    """Refuse weights, biases and thresholds that are not whole: they were changed after ``rb.integers``."""
    for name, node in lowering.nodes.items():
        for argument in ("weight", "bias", "v_threshold"):
            values = np.asarray(getattr(node, argument, 0))
            broken = values[values != np.round(values)]
            if broken.size:
                remedy = "export the network that rb.integers returned, unchanged"
                raise StoreError(f"holds {broken[0]:g}, which is not whole", where=f"{name}.{argument}", remedy=remedy)


def _constant_current(neuron: Neuron, steps: int) -> Tensor:
    """Constant current in place of bias and initial potential, [] or [C]: 1/T of their sum over T steps."""
    theta = torch.as_tensor(neuron.threshold).double()
    current = torch.zeros_like(theta)
    # on whole numbers V0 states when the neuron fires, and is no charge
    potential = torch.zeros(()) if isinstance(neuron, IntegerNeuron) else torch.as_tensor(neuron.v0).double()
    potential = potential.flatten(1).mean(1) if potential.dim() > 1 else potential
    bias = neuron._buffers.get("bias")
    if bias is not None:
        steady = bias.dim() == 1 or bool((bias == bias[0]).all())
        current = current - (bias.reshape(-1, bias.shape[-1])[0] if steady else bias.double().mean(0)).double()
    return current + torch.where(theta.isinf(), 0.0, potential * theta / steps)
