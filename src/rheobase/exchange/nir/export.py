"""Export of spiking networks as NIR files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from rheobase.core.checks import check_choice
from rheobase.core.errors import StoreError
from rheobase.core.folders import as_path, whole_file
from rheobase.exchange.nir.contract import Reset, require_nir, write_contract
from rheobase.exchange.nir.lower import Lowering, refused
from rheobase.graph.rewrites.factors import rescale
from rheobase.graph.rewrites.sum_pool import sum_pools
from rheobase.graph.sites import Site
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons import Neuron


@dataclass(frozen=True)
class Loss:
    """A property of a site that NIR cannot express, as a clause, and how to avoid it."""

    site: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.site}: {self.what}"


@dataclass(frozen=True)
class NIRExport:
    """Result of an export: the file, ``losses`` that NIR cannot express, and ``sites``, site -> name of its IF node."""

    path: Path
    reset: Reset
    losses: tuple[Loss, ...]
    sites: dict[str, str]

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
    overwrite: bool = False,
) -> NIRExport:
    r"""Write a network as a NIR graph (HDF5).

    NIR's IF node, with a step of dt = 1 and R = 1, is

    .. math:: v \leftarrow v + I, \qquad z = [v > v_{thr}], \qquad v \leftarrow v_{reset} \text{ where } z = 1

    (``nir/ir/neuron.py``): a reset to a value, no initial potential, the same current in every step. Rheobase's neurons
    reset by subtraction and fire on ``>=``. A constant bias is added to the layer before, θ is multiplied into the
    weights after (spikes have amplitude 1). The simulator must present the same image at every step; the logits are the
    time-mean of the output.

    Args:
        network: a converted network; apply :func:`rheobase.network.fold_thresholds` first for simulators with a single
            threshold.
        path: file to write.
        approximate: also write properties that NIR cannot express, as the nearest NIR node (V0 and biases that differ
            between steps as a constant current of the same sum over T steps; any other neuron as IF).
            :func:`rheobase.exchange.import_nir` restores the exact network.
        reset: reset of IF nodes in the simulators that will read the file.
        overwrite: replace an existing file.

    Raises:
        StoreError: if NIR cannot express a site (without ``approximate``); if NIR has no node for an operation; if the
            file exists or cannot be written; or if the package ``nir`` is missing.

    Example:
        >>> rb.exchange.export_nir(rb.network.fold_thresholds(snn), "net.nir", reset="subtract").exact  # doctest: +SKIP
        True
    """
    check_converted(network)
    nir = require_nir()
    check_choice(reset, Reset, "reset", error=StoreError)
    if not isinstance(approximate, bool):
        raise StoreError(f"is {approximate!r}", where="approximate", remedy="use True or False")
    path = as_path(path)
    if path.exists() and not overwrite:
        raise StoreError("already exists", where=str(path), remedy="choose another name, or pass overwrite=True")
    losses = tuple(loss for site in network.sites for loss in _losses(network, site, reset))
    if losses and not approximate:
        raise _refusal(losses)
    lowering = _lower(network, nir)
    metadata = write_contract(network, lowering, reset, losses, str(path))
    for site in network.sites:
        lowering.nodes[lowering.names[site.name]].metadata = {"site": site.name, "reset": reset}
    graph = nir.NIRGraph(nodes=lowering.nodes, edges=lowering.edges, metadata=metadata)
    with whole_file(path) as draft:
        path.parent.mkdir(parents=True, exist_ok=True)
        nir.write(draft, graph)
    return NIRExport(path, reset, losses, {site.name: lowering.names[site.name] for site in network.sites})


def _losses(network: SpikingNetwork, site: Site, reset: Reset) -> Iterator[Loss]:
    """Properties of a site that NIR cannot express."""
    neuron, steps = network.neuron(site.name), network.steps_of(site.name)
    if neuron.kind != "integrate_fire":
        what = f"has {type(neuron).__name__} neurons, for which NIR has no node"
        yield Loss(site.name, what, "convert with integrate-and-fire neurons, such as rb.RateCoding")
        if site.lower < 0:
            what = "is a linear output with negative spikes, which NIR's IF does not emit"
            yield Loss(site.name, what, 'convert with sites="activations"')
        return
    if reset == "value":
        what = "resets by subtraction, NIR's IF to a value"
        others = "simulators that reset IF by subtraction, such as sinabs and snnTorch"
        yield Loss(site.name, what, f'pass reset="subtract" (--reset subtract) for {others}')
    if bool((torch.as_tensor(neuron.v0) != 0).any()):
        without = "convert with initial_potential=0, or with RTS, which spreads the same charge over the steps"
        yield Loss(site.name, "starts from an initial potential, which NIR's IF does not have", without)
    bias = neuron._buffers.get("bias")
    if bias is not None and bias.dim() == 2 and bool((bias != bias[0]).any()):
        constant = "use a method whose bias is constant, such as rb.RTS or rb.SNNCalibration"
        yield Loss(site.name, "has a bias for each step, NIR one for all", constant)
    if steps != network.timesteps:
        own = f"runs for {steps} steps, other sites for {network.timesteps}"
        yield Loss(site.name, own, "use the same T at every site")


def _refusal(losses: Sequence[Loss]) -> StoreError:
    first, others = losses[0], len({loss.site for loss in losses}) - 1
    reason = "; ".join(loss.what for loss in losses if loss.site == first.site)
    reason += f" (and {others} more site{'s' if others > 1 else ''})" if others else ""
    remedy = f"{first.remedy}; or pass approximate=True (--approximate): only rb.exchange.import_nir is then exact"
    return StoreError(reason, where=first.site, remedy=remedy)


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


def _constant_current(neuron: Neuron, steps: int) -> Tensor:
    """Constant current in place of bias and initial potential, [] or [C]: 1/T of their sum over T steps."""
    theta = torch.as_tensor(neuron.threshold).double()
    current = torch.zeros_like(theta)
    potential = torch.as_tensor(neuron.v0).double()
    potential = potential.flatten(1).mean(1) if potential.dim() > 1 else potential
    bias = neuron._buffers.get("bias")
    if bias is not None:
        steady = bias.dim() == 1 or bool((bias == bias[0]).all())
        current = current - (bias.reshape(-1, bias.shape[-1])[0] if steady else bias.double().mean(0)).double()
    return current + torch.where(theta.isinf(), 0.0, potential * theta / steps)
