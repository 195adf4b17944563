"""Fold thresholds into the weights, for simulators and chips with spikes of amplitude 1."""

from __future__ import annotations

import copy

import torch

from rheobase.core.errors import RecipeError
from rheobase.graph.rewrites.factors import rescale
from rheobase.graph.sites import Site
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons import Neuron
from rheobase.signals.signal import along_channels

FOLDED = "thresholds are folded into the weights"
"""First words of the note in the provenance of a folded network."""
_SCALED = {"threshold", "initial_potential", "bias"}


def refuse_folded_thresholds(network: SpikingNetwork) -> None:
    """Refuse a network whose sites are not in the analog network's units.

    Raises:
        RecipeError: if its thresholds are folded.
    """
    if any(note.startswith(FOLDED) for note in network.provenance.notes):
        reason = f"cannot be compared site by site: {FOLDED}"
        raise RecipeError(reason, where="network", remedy="use the network before folding")


def fold_thresholds(network: SpikingNetwork, threshold: float = 1.0) -> SpikingNetwork:
    r"""Give every neuron the threshold and amplitude θ', and fold the old thresholds θ into the weights.

    .. math:: W' = \frac{\theta'}{\theta_{out}} \, W \, \frac{\theta_{in}}{\theta'}, \qquad
              b' = \frac{\theta'}{\theta_{out}} \, b

    (Weight normalisation, Diehl et al. 2015, section III; here per channel and without changing the function.) On a
    shortcut without weights the factor becomes a per-channel affine operation. A silent channel (θ = ∞) gets θ', no
    input and an initial potential of 0. Exact in real arithmetic: in float64 the spikes are the same; in float32 a
    potential within rounding error of θ may fall on its other side.

    Args:
        network: not modified.
        threshold: θ' > 0.

    Returns:
        A new network. Its ``ann`` is the original one, in the original units: compare outputs, not sites.

    Raises:
        RecipeError: if θ' is not positive, or a neuron has another buffer in units of θ.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> snn = rb.convert(zoo.resnet20().eval(), rb.OPI(timesteps=4), calibration=torch.rand(16, 3, 32, 32))
        >>> {float(neuron.threshold) for neuron in rb.network.fold_thresholds(snn).neurons}
        {1.0}
    """
    check_converted(network)
    if not 0 < threshold < float("inf"):
        raise RecipeError(f"is {threshold!r}", where="threshold", remedy="use a positive number, such as 1")
    after, before, neurons = {}, {}, []
    for site in network.sites:
        neuron = network.neuron(site.name)
        _check(site, neuron)
        theta = torch.as_tensor(neuron.threshold).double()
        silent = theta.isinf()
        if bool((theta != threshold).any()):
            after[site.name] = torch.where(silent, 1.0, theta / threshold)
            before[site.name] = torch.where(silent, 0.0, threshold / theta)
        neurons.append(_with_threshold(neuron, threshold))
    provenance = copy.deepcopy(network.provenance)
    if after:
        units = f"the amplitude is {threshold:g}, and the output of a site is not in units of the analog network"
        provenance.notes.append(f"{FOLDED}: {units}")
    graph, same = rescale(network.graph, after, before), (network.alignment, network.protocol)
    folded = SpikingNetwork(graph, network.ann, neurons, network.timesteps, network.recipe, provenance, *same)
    folded.execution, folded.memory_budget = network.execution, network.memory_budget
    return folded


def _check(site: Site, neuron: Neuron) -> None:
    buffers = {name for name, value in neuron._buffers.items() if value is not None and value.is_floating_point()}
    unknown = sorted(buffers - _SCALED)
    if unknown or "threshold" not in buffers or not torch.equal(neuron.amplitude, torch.as_tensor(neuron.threshold)):
        obstacle = " and ".join(unknown) or "an amplitude other than its threshold"
        reason = f"has {type(neuron).__name__} neurons with {obstacle}, which cannot be folded into weights"
        raise RecipeError(reason, where=site.name, remedy="use the network without folding")


def _with_threshold(neuron: Neuron, threshold: float) -> Neuron:
    new = copy.deepcopy(neuron)
    theta = torch.as_tensor(neuron.threshold)
    silent = theta.isinf()
    new.threshold = torch.tensor(threshold, dtype=theta.dtype, device=theta.device)
    bias = neuron._buffers.get("bias")
    if bias is not None:
        new.bias = (bias.double() * torch.where(silent, 0.0, threshold / theta.double())).to(bias.dtype)
    potential = neuron._buffers.get("initial_potential")  # in units of θ
    if potential is not None and bool(silent.any()):
        dims = max(potential.dim(), silent.dim())
        silent = along_channels(silent, dims + 1).squeeze(0) if silent.dim() else silent
        new.initial_potential = torch.where(silent, 0.0, potential)
    return new
