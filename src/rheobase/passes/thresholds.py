"""Firing thresholds from the activations of the analog network."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.data import CalibrationData
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.network import SpikingNetwork
from rheobase.neurons.neuron import SILENT
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.statistics import Granularity, Histogram, histograms, maxima, percentiles

ThresholdMethod = Literal["max", "percentile", "mse", "saturation"]


class Thresholds(CalibrationPass):
    """Set θ of every site.

    The method sets the largest output of a neuron, at which it saturates. This is θ for neurons that fire at most once
    in a step, and nθ/T for neurons that fire up to n times in T steps (``Neuron.capacity``).

    With ``levels`` a neuron is given fewer levels than it could emit, and can emit more than the saturation value: it
    then catches up after steps with too few spikes, at a coarser resolution.

    For a signed activation (a linear output, :func:`rheobase.convert` with ``sites="all"``), maxima and percentiles are
    those of |a|, and the neuron saturates at −nθ/T and nθ/T.

    A channel that is never active is silent: θ = ∞, and its output is exactly zero.

    Args:
        method: ``max``, the maximum of the activation (Diehl et al. 2015); ``percentile``, its exact percentile
            (Rueckauer et al. 2017, section 2.2.2); ``mse``, the candidate with the least squared error between the
            activation and the output of the neuron in T steps (:func:`least_squares`; Li et al. 2021, section 4.1,
            search the same candidates with a quantiser that no neuron applies); ``saturation``, the value at which the
            activation itself saturates, for networks trained with a thresholded ReLU (Deng & Gu 2021; Hardtanh(0, a),
            clamp(0, a), ReLU6) or with QCFS, which has a trained θ (Bu et al. 2022).
        granularity: one θ per ``channel`` or per ``layer``.
        percentile: for ``percentile``, in percent.
        shift: for ``mse``: the shift, in units of θ, of a :class:`rheobase.passes.ShiftCurrent` after this pass; it
            acts like an initial potential under a constant current.
        candidates: for ``mse``: number of candidates max · (1 − 0.01 i), i = 0 .. candidates − 1.
        images: number of calibration images to use; default: all.
        levels: n, the number of spikes in T steps at the saturation value; ``"timesteps"``: T, one for each step;
            default: the neuron's capacity.

    Raises:
        CalibrationError: if the neurons have calibrated biases, or cannot emit n spikes in T steps.
    """

    kind: Literal["thresholds"] = "thresholds"
    method: ThresholdMethod = "mse"
    granularity: Granularity = "channel"
    percentile: float = Field(default=99.9, gt=0, le=100)
    shift: float = Field(default=0, ge=0, le=1)
    candidates: int = Field(default=95, ge=1, le=99)
    images: int | None = Field(default=None, ge=1)
    levels: Annotated[int, Field(ge=1)] | Literal["timesteps"] | None = None

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``threshold`` of every neuron; its initial potential, in units of θ, moves with it."""
        for site in network.sites:
            if settable(network, site, "threshold", fresh=True).fitted:
                raise CalibrationError(
                    "has biases that were calibrated for its present thresholds",
                    where=site.name,
                    remedy="put the thresholds first in the recipe's calibration",
                )
        graph, images = network.graph, data.fit[: self.images]
        maximum = maxima(graph, images, self.granularity)
        if self.method == "mse":
            counted = histograms(graph, images, self.granularity, maximum)
            found = [
                least_squares(histogram, *self._levels_and_offset(network, site), self.candidates)
                for site, histogram in zip(network.sites, counted, strict=True)
            ]
        elif self.method == "percentile":
            found = percentiles(graph, images, self.granularity, self.percentile)
        elif self.method == "saturation":
            found = [_saturation(network.ann, *pair) for pair in zip(network.sites, maximum, strict=True)]
        else:
            found = maximum
        changes = Changes()
        for site, value, largest in zip(network.sites, found, maximum, strict=True):
            saturation = self._usable(site, value, largest, changes).to(graph.device)
            steps, levels = network.steps_of(site.name), self._levels(network, site)
            threshold = saturation if levels == steps else saturation * (steps / levels)
            network.neuron(site.name).set(threshold=threshold if self.granularity == "channel" else threshold[0])
            changes.changed[site.name] = ["threshold"]
        return changes

    def _usable(self, site: Site, value: Tensor, largest: Tensor, changes: Changes) -> Tensor:
        silent = largest == 0
        rare = (value == 0) & ~silent
        by_channel = self.granularity == "channel"
        if bool(silent.any()):
            which = f"channels {few(silent)}" if by_channel else "layer"
            changes.notes.append(f"{site.name}: {which} never active on the calibration images: silent (θ = ∞)")
        if bool(rare.any()):
            of = f"{'channels' if by_channel else 'layer'} {few(rare)}"
            changes.notes.append(
                f"{site.name}: {self.percentile:g} % of the activations of {of} are zero: maximum used"
            )
        return torch.where(silent, SILENT, torch.where(rare, largest, value))

    def _levels(self, network: SpikingNetwork, site: Site) -> int:
        """n of a site: as given, or the maximum number of spikes of a neuron in all its steps."""
        neuron, steps = network.neuron(site.name), network.steps_of(site.name)
        most = neuron.capacity(steps)[1]
        if self.levels == "timesteps":
            return steps
        if self.levels is not None and self.levels > most:
            raise CalibrationError(
                f"emits at most {most} spikes in T = {steps} steps with the alphabet {neuron.alphabet}, fewer than "
                f"n = {self.levels} levels, and would never reach the saturation value",
                where=site.name,
                remedy=f"use at most {most} levels, or a larger T or alphabet: n ≤ m · T",
            )
        return self.levels or most

    def _levels_and_offset(self, network: SpikingNetwork, site: Site) -> tuple[int, float | None]:
        """Levels and offset of a site's staircase; the offset is None if the order of the input changes the count."""
        neuron, steps = network.neuron(site.name), network.steps_of(site.name)
        response = neuron.response(steps)
        # a train of one step has no unevenness, and a closed-form neuron depends on the time-mean only
        any_order = not site.previous or steps == 1 or neuron.closed_form or neuron.takes_back
        offset = float(response.offset) + self.shift if any_order and response is not None else None
        return self._levels(network, site), offset


def _saturation(graph: Graph, site: Site, like: Tensor) -> Tensor:
    (node,) = (node for node in graph.sites if node.name == site.name)
    if "threshold" in node.parameters:
        trained = graph.tensor(node.parameters["threshold"]).cpu()
        if trained.dim() and len(like) == 1:
            raise CalibrationError(
                "was trained with a threshold for each channel", where=site.name, remedy='use granularity="channel"'
            )
        return trained.expand(like.shape).clone()
    if site.upper is None:
        raise CalibrationError(
            "has an activation that never saturates",
            where=site.name,
            remedy='use threshold="mse", "percentile" or "max"; or quantise and train the network first: rb.quantise, '
            "rb.train",
        )
    return torch.full_like(like, site.upper)


def least_squares(histogram: Histogram, levels: int, offset: float | None, candidates: int = 95) -> Tensor:
    """The saturation value s of each row with the least expected squared error between activation a and output.

    A neuron with at most n spikes in T steps saturates at s = nθ/T; with at most one per step, n = T and s = θ. Under a
    constant current its output is q(a) = s/n · clip(⌊an/s + V0/θ⌋, 0, n) (Bu et al. 2022). Under a spike train the
    membrane potential at the last input spike is arbitrary, so the count is modelled as ⌊an/s + u⌋ with u uniform in
    [0, 1). The output then has the mean min(a, s) and the variance (s/n)² f (1 − f), where f is the fractional part of
    an/s. This is twice the error of a fixed quantiser, so the best s is smaller. For a signed activation the output is
    clipped to [−s, s].

    Args:
        histogram: histogram of the activation a.
        levels: n.
        offset: V0/θ under a constant current; None under a spike train.
        candidates: number of candidates, in steps of 1 % down from the maximum.
    """
    # in units of the maximum all rows have the same bins and candidates, so the errors are one matrix product
    a = histogram.middles()
    saturation = 1 - 0.01 * torch.arange(candidates, dtype=torch.float64).unsqueeze(1)
    steps = a * levels / saturation
    if offset is None:
        fraction = steps - torch.floor(steps)
        inside = (saturation / levels).square() * fraction * (1 - fraction)
        squared = torch.where(a.abs() < saturation, inside, (a.abs() - saturation).square())
    else:
        lowest = -levels if bool((a < 0).any()) else 0
        emitted = saturation / levels * torch.clamp(torch.floor(steps + offset), lowest, levels)
        squared = (a - emitted).square()
    errors = histogram.counts.double() @ squared.T  # [R, candidates]
    first_best = (errors <= errors.min(1, keepdim=True).values).to(torch.int8).argmax(1)
    return (histogram.maximum.double() * saturation[first_best, 0]).float()


def few(mask: Tensor) -> str:
    """The first indices where a mask is true, for a message."""
    indices = mask.nonzero().flatten().tolist()
    shown = ", ".join(map(str, indices[:8]))
    return f"{shown} and {len(indices) - 8} more" if len(indices) > 8 else shown
