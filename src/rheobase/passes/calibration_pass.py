"""What a calibration pass is, and how its effect is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.values import Value
from rheobase.data.calibration_data import CalibrationData
from rheobase.graph.sites import Site
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.passes.statistics import observe
from rheobase.signals.signal import Signal


@dataclass
class Changes:
    """What a pass did.

    Attributes:
        changed: site name -> which parameters of it were set ("threshold").
        notes: what the user should know: silent channels, sites left alone and why.
        history: one record for each iteration of a pass that has them.
    """

    changed: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


class CalibrationPass(Value, ABC):
    """Changes the parameters it names in a spiking network, and nothing else.

    A subclass has its name as ``kind: Literal["my_pass"] = "my_pass"``; :func:`rheobase.register` makes it known.
    """

    kind: str
    needs_batch_norm: ClassVar[bool] = False
    """Whether it works on batch normalisation: the network it is given, and those before it, has it unfolded."""

    @abstractmethod
    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Fit on ``data.fit``; never look at ``data.held_out`` except to stop early or to keep the better of two.

        Raises:
            CalibrationError: if the pass makes no sense for this network or this data.
        """


def site_errors(network: SpikingNetwork, images: Tensor, piece: int = 16) -> list[float] | None:
    """Relative squared error of each site: Σ(mean_t θs[t] − a)² / Σa² over all neurons and images, against the ANN.

    None when there are no images.
    """
    if len(images) == 0:
        return None
    squared = [0.0] * len(network.sites)
    energy = [0.0] * len(network.sites)
    for part in images.split(piece):
        means: dict[int, list[Tensor]] = {}

        def record(site: Site, emitted: Signal, means: dict[int, list[Tensor]] = means) -> None:
            means.setdefault(site.index, []).append(emitted.mean())

        network.readouts(part, (network.timesteps,), monitor=record)

        def compare(site: Site, activation: Tensor, means: dict[int, list[Tensor]] = means) -> None:
            difference = torch.cat(means.pop(site.index)).cpu() - activation
            squared[site.index] += float(difference.double().square().sum())
            energy[site.index] += float(activation.double().square().sum())

        observe(network.ann, part, compare)
    return [s / e if e > 0 else s for s, e in zip(squared, energy, strict=True)]


def refuse_waiting(network: SpikingNetwork) -> None:
    """For passes that go through time step by step, all sites at once.

    Raises:
        CalibrationError: if sites run for different T, or one waits for its whole input.
    """
    if not network.streams:
        raise CalibrationError(
            "go through time together, and these sites run for different numbers of steps, or wait for their input",
            where="the steps of this pass",
            remedy="give all sites one T and neurons that stream, or use a pass that goes layer by layer, such as "
            "BiasCorrection",
        )


def settable(
    network: SpikingNetwork, site: Site, *parameters: str, streaming: bool = False, fresh: bool = False
) -> Neuron:
    """The neurons of a site, if they declare parameters that a pass is going to set.

    Args:
        network: the network.
        site: the site.
        parameters: their names, as in ``Neuron.settable``.
        streaming: they must emit step by step, too.
        fresh: the pass chooses them from data, without regard to what they are.

    Raises:
        CalibrationError: naming the site, and what its neurons lack.
    """
    neuron = network.neuron(site.name)
    missing = [name for name in parameters if name not in neuron.settable]
    kind = type(neuron).__name__
    if neuron.trained_threshold and (missing or streaming or fresh):
        raise CalibrationError(
            f"has {kind} neurons, whose threshold and potential belong to the trained activation",
            where=site.name,
            remedy="use this pass with integrate-and-fire neurons",
        )
    if missing:
        raise CalibrationError(
            f"has {kind} neurons, which have no such parameters: {', '.join(missing)}",
            where=site.name,
            remedy=f"use this pass with neurons that have {', '.join(missing)}, or leave it out",
        )
    if streaming and not neuron.streams:
        raise CalibrationError(
            f"has {kind} neurons, which wait for their whole input",
            where=site.name,
            remedy="use this pass with neurons that stream, such as integrate-and-fire",
        )
    return neuron


def within_budget(network: SpikingNetwork, images: Tensor, wanted: int, changes: Changes) -> Tensor:
    """The first ``wanted`` images; fewer, with a note, if two networks' live values do not fit into the budget."""
    wanted, room = min(wanted, len(images)), max(1, network.images_in_budget(1) // 2)
    if room < wanted:
        changes.notes.append(f"only {room} images at once: more do not fit into the memory budget")
    return images[: min(wanted, room)]
