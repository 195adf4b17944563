"""A spiking network as a NIR file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from rheobase.core.errors import StoreError
from rheobase.core.paths import as_path
from rheobase.exchange.nir.contract import write_contract
from rheobase.exchange.nir.lower import Lowering, sum_pools
from rheobase.exchange.nir.package import Reset, check_reset, require_nir
from rheobase.graph.rewrites.factors import rescale
from rheobase.graph.sites import Site
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons import Neuron


@dataclass(frozen=True)
class Loss:
    """Something about a site that NIR cannot say.

    Attributes:
        site: its name.
        what: what would be lost, as a clause.
        remedy: how to do without it.
    """

    site: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.site}: {self.what}"


@dataclass(frozen=True)
class NIRExport:
    """What was written.

    Attributes:
        path: the file.
        reset: how its IF neurons are meant to reset.
        losses: what another simulator will not see; empty: the file says all there is.
        sites: site -> name of its IF node.
    """

    path: Path
    reset: Reset
    losses: tuple[Loss, ...]
    sites: dict[str, str]

    @property
    def exact(self) -> bool:
        """Whether nothing was lost."""
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

    NIR's IF is, with one step of dt = 1 and R = 1,

    .. math:: v \leftarrow v + I, \qquad z = [v > v_{thr}], \qquad v \leftarrow v_{reset} \text{ where } z = 1

    (``nir/ir/neuron.py``): a reset to a value, no initial potential, the same current in every step. Rheobase's neurons
    reset by subtraction, which is also how some simulators read NIR's IF (sinabs, snnTorch). A constant bias goes into
    the layer before, θ into the weights after (spikes carry 1), batch normalisation is folded already. The same image
    is to be given at every step, and the answer is the output's mean over time. Fires on ``>`` where we fire on ``>=``:
    a potential of exactly θ is not promised to be read alike.

    Args:
        network: for simulators that know one threshold only, :func:`rheobase.network.fold_thresholds` comes first.
        path: of the file to be made.
        approximate: write what NIR cannot say too: another simulator then sees the nearest thing (V0 and biases that
            differ from step to step as a constant current with the same sum over T steps; an IF neuron for any other),
            and :func:`rheobase.exchange.import_nir` restores the network itself.
        reset: how the simulators that the file is for reset their IF neurons.
        overwrite: replace a file that exists.

    Returns:
        What was written and what was lost.

    Raises:
        StoreError: if NIR cannot say what a site does (naming it, what would be lost and the remedy); if it has no node
            for an operation, with ``approximate`` or without; if the file exists or cannot be written; if the package
            ``nir`` is missing.

    Example:
        >>> rb.exchange.export_nir(rb.network.fold_thresholds(snn), "net.nir", reset="subtract").exact  # doctest: +SKIP
        True
    """
    check_converted(network)
    nir = require_nir()
    check_reset(reset)
    if not isinstance(approximate, bool):
        raise StoreError(f"is {approximate!r}", where="approximate", remedy="use True or False")
    path = as_path(path)
    if path.exists() and not overwrite:
        raise StoreError("already exists", where=str(path), remedy="choose another name, or pass overwrite=True")
    losses = tuple(loss for i in range(len(network.sites)) for loss in _losses(network, i, reset))
    if losses and not approximate:
        raise _refusal(losses)
    lowering = _lower(network)
    metadata = write_contract(network, lowering, reset, losses, str(path))
    for site in network.sites:
        lowering.nodes[lowering.names[site.name]].metadata = {"site": site.name, "reset": reset}
    try:
        graph = nir.NIRGraph(nodes=lowering.nodes, edges=lowering.edges, metadata=metadata)
        _write(nir, graph, path)
    except OSError as cause:
        raise StoreError(
            f"cannot be written ({cause.strerror or cause})", where=str(path), remedy="choose another place"
        ) from cause
    return NIRExport(path, reset, losses, {site.name: lowering.names[site.name] for site in network.sites})


def _losses(network: SpikingNetwork, index: int, reset: Reset) -> list[Loss]:
    """What NIR cannot say of a site."""
    site, neuron = network.sites[index], cast(Neuron, network.neurons[index])
    if neuron.kind != "integrate_fire":
        what = f"has {type(neuron).__name__} neurons, for which NIR has no node"
        return [Loss(site.name, what, "convert with integrate-and-fire neurons, such as rb.RateCoding")]
    found = []
    bias = cast("Tensor | None", neuron.bias)
    if reset == "value":
        found.append(
            Loss(
                site.name,
                "resets by subtraction, and NIR's IF to a value",
                "if the simulator reads IF with reset by subtraction, as sinabs and snnTorch do, say so: "
                'reset="subtract" (--reset subtract)',
            )
        )
    if bool((torch.as_tensor(neuron.v0) != 0).any()):
        without = "convert with initial_potential=0, or RTS, which gives the same charge step by step"
        found.append(Loss(site.name, "starts from an initial potential, which NIR's IF does not have", without))
    if bias is not None and bias.dim() == 2 and bool((bias != bias[0]).any()):
        constant = "use a method whose bias is constant, such as rb.RTS or rb.SNNCalibration"
        found.append(Loss(site.name, "has a bias for each step, and NIR one for all", constant))
    if network.steps_of(site.name) != network.timesteps:
        own = f"runs for {network.steps_of(site.name)} steps, and others for {network.timesteps}"
        found.append(Loss(site.name, own, "use the same T at every site"))
    return found


def _refusal(losses: Sequence[Loss]) -> StoreError:
    first, others = losses[0], len({loss.site for loss in losses}) - 1
    more = "" if others == 0 else f" (and {others} more site{'s' if others > 1 else ''})"
    also = [loss.what for loss in losses[1:] if loss.site == first.site]
    return StoreError(
        "; ".join([first.what, *also]) + more,
        where=first.site,
        remedy=f"{first.remedy}; or approximate=True (--approximate), which only rb.exchange.import_nir restores",
    )


def _lower(network: SpikingNetwork) -> Lowering:
    """The graph that NIR is told: sums for means, θ in the weights after a site, constant currents in those before."""
    graph, after = sum_pools(network.graph)
    thresholds, shifts = {}, {}
    for site, neuron in zip(network.sites, cast(Sequence[Neuron], network.neurons), strict=True):
        thresholds[site.name] = torch.as_tensor(neuron.threshold)
        amplitude = neuron.amplitude.double()
        after[site.name] = torch.where(amplitude.isinf(), 1.0, amplitude)
        current = _constant_current(site, neuron, network.steps_of(site.name))
        if bool((current != 0).any()):
            shifts[site.name] = current
    unit = {name: factor for name, factor in after.items() if bool((factor != 1).any())}
    return Lowering(rescale(graph, unit, {}, shifts), thresholds)


def _constant_current(site: Site, neuron: Neuron, steps: int) -> Tensor:
    """What NIR is told in place of bias and initial potential, [] or [C]: at each step 1/T of their sum over T."""
    theta = torch.as_tensor(neuron.threshold).double()
    current = torch.zeros_like(theta)
    potential = torch.as_tensor(neuron.v0).double()
    potential = potential.flatten(1).mean(1) if potential.dim() > 1 else potential
    bias = neuron._buffers.get("bias")
    if bias is not None:
        bias = bias.double()
        constant = bias.dim() == 1 or bool((bias == bias[0]).all())
        current = current - (bias.reshape(-1, bias.shape[-1])[0] if constant else bias.mean(0))
    return current + torch.where(theta.isinf(), 0.0, potential * theta / steps)


def _write(nir: Any, graph: Any, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        nir.write(name, graph)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
