"""Local threshold balancing: thresholds that bring the firing rates of each site closest to the activations."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.progress import track
from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable, within_budget
from rheobase.passes.held_out import Best
from rheobase.passes.layers import Layer, layers
from rheobase.passes.statistics import observe

FACTOR = 2
"""The largest change of a threshold in one round: where nothing saturates, the least error is at θ = 0."""


class LocalThresholdBalancing(CalibrationPass):
    r"""Iterate θ of every channel on the error of its firing rate (after Bu et al. 2024, "Inference-scale complexity").

    In every round, site after site on the spikes of the sites before it, θ takes a damped Gauss-Newton step towards the
    least squared error between the time-mean output r and the activation a of the analog network:

    .. math::
        θ ← θ - η\,\frac{E[(r - a)\,d]}{E[d^2]}, \qquad
        d = \frac{∂r}{∂θ} = \begin{cases} (r - z)/θ & \text{if the neuron does not saturate} \\
                                          r/θ & \text{otherwise} \end{cases}

    with the time-mean z of the current; rounding is differentiated straight through. The numerator is the gradient, the
    denominator gives every channel its own scale. A round changes θ by a factor of 2 at most. Unlike ``mse`` of
    :class:`rheobase.passes.Thresholds`, the rates are those of the simulation. The paper was not at hand.

    Args:
        rounds: number of times that every threshold changes.
        rate: η.
        images: number of calibration images, all simulated at once; limited by the memory budget.
    """

    kind: Literal["local_threshold_balancing"] = "local_threshold_balancing"
    rounds: int = Field(default=4, ge=1, le=1024)
    rate: float = Field(default=0.5, gt=0, le=1)
    images: int = Field(default=128, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Change every ``threshold``; keep the round with the least logit error on held-out images."""
        for site in network.sites:
            settable(network, site, "threshold", streaming=True)
        changes = Changes()
        images = within_budget(network, data.fit, self.images, changes, network.timesteps)
        activations: list[list[Tensor]] = [[] for _ in network.sites]
        observe(network.ann, images, lambda site, activation: activations[site.index].append(activation))
        best = Best(network, data, "round")
        for _ in track(range(self.rounds), "balancing thresholds", show=progress, total=self.rounds):
            for layer in layers(network, images):
                self._step(network, layer, torch.cat(activations[layer.site.index]))
            best.judge(best.logits())
        return best.conclude(changes)

    def _step(self, network: SpikingNetwork, layer: Layer, activation: Tensor) -> None:
        threshold = cast(Tensor, layer.neuron.threshold)
        steps = network.steps_of(layer.site.name)
        lowest, highest = layer.neuron.capacity(steps)
        numerator, denominator = torch.zeros(2, *threshold.shape, dtype=torch.float64, device=threshold.device)
        start = 0
        for values in layer.sub_batches(network):
            rate, current = (values[name].mean().double() for name in (layer.site.name, layer.source))
            target = activation[start : start + len(rate)].to(rate)
            start += len(rate)
            theta = threshold.double().view(-1, *[1] * (rate.dim() - 2))
            saturated = (current < lowest * theta / steps) | (current > highest * theta / steps)
            slope = torch.where(saturated, rate, rate - current) / theta
            numerator += _by_channel((rate - target) * slope, threshold)
            denominator += _by_channel(slope.square(), threshold)
        change = self.rate * (numerator / denominator).nan_to_num(0, 0, 0)
        changed = (threshold.double() - change).to(threshold)
        changed = changed.clamp(threshold / FACTOR, threshold * FACTOR)
        layer.neuron.set(threshold=torch.where(threshold.isfinite(), changed, threshold))


def _by_channel(values: Tensor, threshold: Tensor) -> Tensor:
    """The sum over all but the channels; over all, for one threshold a layer."""
    if threshold.dim() == 0:
        return values.sum()
    return values.sum([d for d in range(values.dim()) if d != 1])
