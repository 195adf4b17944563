"""FS-PC's layer-wise error calibration: pre- and post-firing values that cancel the mean error of every channel."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.progress import track
from rheobase.data import CalibrationData
from rheobase.graph import Graph, Node
from rheobase.graph.sites import Site
from rheobase.network import SpikingNetwork
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable, within_budget
from rheobase.passes.held_out import HeldOut
from rheobase.passes.layers import SubBatches, channel_mean, walk
from rheobase.passes.thresholds import few
from rheobase.signals import along_channels


class ErrorCalibration(CalibrationPass):
    r"""Set ψ_DA and φ layer by layer so that the mean errors of every channel's current and output are zero (FS-PC).

    With a and z the activations and currents of the analog network, and n and z' the counts and currents of the spiking
    network, whose earlier layers are already calibrated, for each channel over images and positions,

    .. math:: \psi_{DA} = E[z] - E[z'], \qquad \theta + \phi = T \, E[a] / E[n]

    with n counted after ψ_DA is set. Each layer is calibrated before the next one, so one pass is enough. Reverted if
    it does not help on held-out images.

    Differs from the paper: Hao et al. 2025 (DA calibration, Algorithm 1, lines 7-15) use moving averages, whose update
    of φ converges to another value, because the error that it averages contains φ. FS-PC also clips a at θ, so the
    clipping error is not corrected; here a is not clipped.

    Args:
        images: number of calibration images, all at once; limited by the memory budget.
        post: also set φ; else only ψ_DA.
    """

    kind: Literal["error_calibration"] = "error_calibration"
    images: int = Field(default=512, ge=1)
    post: bool = True

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``pre`` and ``post`` of every neuron."""
        for site in network.sites:
            settable(network, site, "pre", "post")
        changes, check = Changes(), HeldOut(network, data.held_out)
        images = within_budget(network, data.fit, self.images, changes)
        calibrate_errors(network, images, changes, post=self.post, progress=progress)
        return check.conclude(changes)


def calibrate_errors(
    network: SpikingNetwork,
    images: Tensor,
    changes: Changes,
    *,
    pre: bool = True,
    post: bool = True,
    statistics: bool = False,
    progress: bool = False,
) -> None:
    """Run both networks side by side; set ψ_DA (``pre``) and φ (``post``) of every site, or remove them.

    ``statistics`` also sets mean and variance of every batch normalisation to those of its input.
    """
    original, spiking = walk(network.ann, images), walk(network.graph, images, restated if statistics else None)
    target: Any = None
    emitted: Any = None
    for site in track(network.sites, "calibrating errors", show=progress):
        _, node, wanted = original.send(target)
        graph, _, current = spiking.send(emitted)
        neuron: Any = network.neuron(site.name)
        steps = network.steps_of(site.name)
        target = [network.ann.activate(node, z) for z in wanted]
        missing = channel_mean(wanted) - channel_mean(current)
        neuron.pre, neuron.post = missing.to(neuron.threshold.dtype) if pre else None, None
        if post:
            rate = channel_mean([neuron.response(steps).count(z) for z in current]) / steps
            neuron.post = _post(site, neuron, channel_mean(target), rate, changes)
        emitted = [neuron.rate(z, steps) for z in current]
    network.graph = graph


def _post(site: Site, neuron: Any, target: Tensor, rate: Tensor, changes: Changes) -> Tensor:
    """φ = E[a]/E[n/T] − θ; 0 for a channel that never fires or is never active."""
    theta = neuron.threshold.double().expand(rate.shape)
    never = (rate == 0) & (target > 0) & theta.isfinite()
    if bool(never.any()):
        changes.notes.append(f"{site.name}: channels {few(never)} never fire though their activation does: φ = 0")
    usable = (rate > 0) & (target > 0)
    amplitude = torch.where(usable, target / torch.where(usable, rate, 1.0), theta)
    return torch.where(theta.isinf(), 0.0, amplitude - theta).to(neuron.threshold.dtype)


def restated(graph: Graph, node: Node, sub_batches: SubBatches) -> Graph:
    """The graph with the mean and variance of the input as the statistics of a batch normalisation."""
    if node.operation != "batch_norm":
        return graph
    mean = channel_mean(sub_batches)
    centred = [(z.double() - along_channels(mean, z.dim())).square_() for z in sub_batches]
    values = {"running_mean": mean, "running_var": channel_mean(centred)}
    like = graph.tensor(node.parameters["running_mean"])
    return graph.replace(tensors={node.parameters[k]: v.to(like.dtype) for k, v in values.items()})
