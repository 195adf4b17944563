"""Thresholds scaled to minimise the logit error."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.progress import track
from rheobase.data import CalibrationData
from rheobase.graph.interpreter import Schedule, run
from rheobase.graph.operations import in_memory_format
from rheobase.network import Simulation, SpikingNetwork
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable, within_budget
from rheobase.passes.held_out import HeldOut, relative_error
from rheobase.signals import Signal


class ScaleThresholds(CalibrationPass):
    """Scale the thresholds of each site by one factor to minimise the squared error of the logits.

    The threshold that is optimal for a site is not optimal for the network: in later layers, the quantisation errors of
    many neurons average out, while their clipping errors add up. This pass is a coordinate descent in the simulation:
    each site in turn tries a larger and a smaller θ, all channels by the same factor, and keeps the one that lowers
    Σ‖SNN − ANN‖² / Σ‖ANN‖² of the logits. The layers before the site are simulated only once, so a sweep costs about
    one simulation of ``images`` images per site. The pass is not from a paper.

    Args:
        sweeps: number of sweeps over all sites; the logarithm of the factor halves after each.
        factor: factor of the first sweep.
        images: number of calibration images, all simulated at once; limited by the memory budget.
    """

    kind: Literal["scale_thresholds"] = "scale_thresholds"
    sweeps: int = Field(default=2, ge=1)
    factor: float = Field(default=1.15, gt=1, le=2)
    images: int = Field(default=192, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Change ``threshold`` where it helps; revert all if the logit error on held-out images grows."""
        changes = Changes()
        images = within_budget(network, data.fit, self.images, changes, network.timesteps)
        for site in network.sites:
            settable(network, site, "threshold", streaming=True)
        check = HeldOut(network, data.held_out[: self.images])
        images = in_memory_format(images.to(network.graph.device))
        for sweep in range(self.sweeps):
            _sweep(network, images, self.factor ** (0.5**sweep), progress)
        return check.conclude(changes)


@torch.inference_mode()
def _sweep(network: SpikingNetwork, images: Tensor, factor: float, progress: bool) -> None:
    reference = network.ann(images).double()
    plan = network.between
    values = network.begin(images)
    simulation = Simulation(network).advance(network.timesteps)
    best = _error_from(network, plan, values, reference)
    for i, (node, _) in enumerate(track(plan, "scaling thresholds", show=progress)):
        if node.operation == "site":
            neuron = network.neuron(node.name)
            start = cast(Tensor, neuron.threshold)
            for candidate in (factor, 1 / factor):
                neuron.threshold = start * candidate
                error = _error_from(network, plan[i:], values, reference)
                if error < best:
                    best = error
                    break
                neuron.threshold = start
        run(network.graph, plan[i : i + 1], values, simulation)


def _error_from(network: SpikingNetwork, rest: Schedule, values: dict[str, Signal], reference: Tensor) -> float:
    """Logit error after the rest of the network has run on the given signals."""
    values = dict(values)
    run(network.graph, rest, values, Simulation(network).advance(network.timesteps))
    return relative_error(network.logits_after(values, (network.timesteps,))[0], reference)
