"""Firing thresholds from the activations of the analog network."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.data.calibration_data import CalibrationData
from rheobase.graph.graph import Graph
from rheobase.graph.sites import Site
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons.neuron import SILENT
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.statistics import Granularity, Histogram, histograms, maxima, percentiles

ThresholdMethod = Literal["max", "percentile", "mse", "saturation"]


class Thresholds(CalibrationPass):
    """Set θ of every site.

    What is chosen is the value at which a neuron saturates: for neurons that emit at most one spike a step, θ; for
    those that emit up to n in T steps (``Neuron.capacity``), nθ/T.

    Args:
        method: ``max``, the running maximum (Diehl et al. 2015); ``percentile``, an exact order statistic (Rueckauer
            et al. 2017, section 2.2.2); ``mse``, the candidate with the least squared error between the activation and
            what the neuron makes of it in T steps (Li et al. 2021, section 4.1, search over the same candidates but
            for a quantiser that no neuron applies; see :func:`least_squares`); ``saturation``, the value at which the
            activation itself saturates: of networks trained for conversion with a thresholded ReLU (Deng & Gu 2021;
            Hardtanh(0, a), clamp(0, a), ReLU6) or with QCFS, whose θ was trained (Bu et al. 2022).
        granularity: one θ for each ``channel``, or one for the ``layer``.
        percentile: for ``percentile``, in percent.
        shift: for ``mse``: the part of θ that a :class:`rheobase.passes.ShiftCurrent` after this pass adds; under a
            constant current it counts as initial potential.
        candidates: for ``mse``: max · (1 − 0.01 i), i = 0 .. candidates − 1.
        images: how many calibration images to look at; default all.

    A channel that is never active gets an infinite threshold: it stays silent and gives exact zeros.
    """

    kind: Literal["thresholds"] = "thresholds"
    method: ThresholdMethod = "mse"
    granularity: Granularity = "channel"
    percentile: float = Field(default=99.9, gt=0, le=100)
    shift: float = Field(default=0, ge=0, le=1)
    candidates: int = Field(default=95, ge=1, le=99)
    images: int | None = Field(default=None, ge=1)

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``threshold`` of every neuron; its initial potential, in units of θ, moves with it."""
        for site in network.sites:
            if settable(network, site, "threshold", fresh=True).fitted:
                raise CalibrationError(
                    "has biases that were calibrated for the thresholds it has",
                    where=site.name,
                    remedy="put the thresholds first in the recipe's calibration",
                )
        graph, images = network.graph, data.fit[: self.images]
        maximum = maxima(graph, images, self.granularity)
        if self.method == "mse":
            counted = histograms(graph, images, self.granularity, maximum)
            found = [
                least_squares(histogram, *_levels_and_offset(network, site, self.shift), self.candidates)
                for site, histogram in zip(network.sites, counted, strict=True)
            ]
        elif self.method == "percentile":
            found = percentiles(graph, images, self.granularity, self.percentile)
        elif self.method == "saturation":
            found = [
                _saturation(network.ann, site, largest) for site, largest in zip(network.sites, maximum, strict=True)
            ]
        else:
            found = maximum
        changes = Changes()
        for site, value, largest in zip(network.sites, found, maximum, strict=True):
            saturation = self._usable(site, value, largest, changes).to(graph.device)
            steps, levels = network.steps_of(site.name), _levels(network, site)
            threshold = saturation if levels == steps else saturation * (steps / levels)
            network.neuron(site.name).set(threshold=threshold if self.granularity == "channel" else threshold[0])
            changes.changed[site.name] = ["threshold"]
        return changes

    def _usable(self, site: Site, value: Tensor, largest: Tensor, changes: Changes) -> Tensor:
        silent = largest == 0
        what = "channels" if self.granularity == "channel" else "layer"
        if bool(silent.any()):
            names = few(silent) if self.granularity == "channel" else ""
            changes.notes.append(
                f"{site.name}: {what} {names} never active on the calibration images: kept silent".replace("  ", " ")
            )
        rare = (value == 0) & ~silent
        if bool(rare.any()):
            changes.notes.append(
                f"{site.name}: {self.percentile:g} % of the activations of {what} {few(rare)} are zero: maximum used"
            )
        return torch.where(silent, SILENT, torch.where(rare, largest, value))


def _levels(network: SpikingNetwork, site: Site) -> int:
    """The most spikes that a site's neurons emit in all their steps."""
    return network.neuron(site.name).capacity(network.steps_of(site.name))[1]


def _levels_and_offset(network: SpikingNetwork, site: Site, shift: float) -> tuple[int, float | None]:
    """The levels of a site's staircase above zero, and where its steps lie; None where spike trains feed the site."""
    neuron, steps = network.neuron(site.name), network.steps_of(site.name)
    response = neuron.response(steps)
    # in a single step no train is uneven, and a neuron in closed form looks at the mean alone
    constant = not site.previous or steps == 1 or neuron.closed_form
    return _levels(network, site), float(response.offset) + shift if constant and response is not None else None


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
            "is an activation that never saturates",
            where=site.name,
            remedy='choose thresholds from data: threshold="mse", "percentile" or "max"',
        )
    return torch.full_like(like, site.upper)


def least_squares(histogram: Histogram, levels: int, offset: float | None, candidates: int = 95) -> Tensor:
    """The saturating value s of each row with the least expected squared error between the activation a and what the
    neuron emits.

    A neuron that emits at most n spikes in all its steps saturates at s = nθ/T; one that emits at most one a step has
    n = T and s = θ. Under a constant current it is the quantiser q(a) = s/n · clip(⌊an/s + V0/θ⌋, 0, n) (Bu et al.
    2022). Under a spike train the membrane stands anywhere when the last spike arrives, and V0 no longer fixes where
    the steps of the staircase lie: the count is ⌊an/s + u⌋ with u anywhere in [0, 1), which is right on average,
    min(a, s), and has the variance (s/n)² f (1 − f), f the fractional part of an/s. That is twice a fixed quantiser's
    error, so the best s is smaller.

    Args:
        histogram: of the activation a.
        levels: n.
        offset: V0/θ for a site with a constant current; None for one that spike trains feed.
        candidates: how many, in steps of 1 % down from the maximum.
    """
    # in units of the maximum every row has the same bins and candidates: errors are one product of matrices
    a = histogram.middles()
    saturation = 1 - 0.01 * torch.arange(candidates, dtype=torch.float64).unsqueeze(1)
    steps = a * levels / saturation
    if offset is None:
        fraction = steps - torch.floor(steps)
        squared = torch.where(
            a < saturation, (saturation / levels).square() * fraction * (1 - fraction), (a - saturation).square()
        )
    else:
        emitted = saturation / levels * torch.clamp(torch.floor(steps + offset), 0, levels)
        squared = (a - emitted).square()
    errors = histogram.counts.double() @ squared.T  # [R, candidates]
    first_best = (errors <= errors.min(1, keepdim=True).values).to(torch.int8).argmax(1)
    return (histogram.maximum.double() * saturation[first_best, 0]).float()


def few(mask: Tensor) -> str:
    """The first of the places where a mask is true, for a message."""
    indices = mask.nonzero().flatten().tolist()
    shown = ", ".join(map(str, indices[:8]))
    return f"{shown} and {len(indices) - 8} more" if len(indices) > 8 else shown
