"""The base class of calibration passes, and the measurement of their effect."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.values import Value
from rheobase.data import CalibrationData
from rheobase.graph.sites import Site
from rheobase.network import SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.passes.statistics import observe
from rheobase.signals import Signal


@dataclass
class Changes:
    """The record of what a pass did.

    Attributes:
        changed: names of the parameters that were set, by site name.
        notes: notes for the user, such as silent channels and skipped sites.
        history: one record for each iteration, if the pass iterates.
    """

    changed: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


class CalibrationPass(Value, ABC):
    """A calibration pass: changes the parameters of a spiking network that it reports, and nothing else.

    A subclass names itself by ``kind: Literal["my_pass"] = "my_pass"`` and is registered by :func:`rheobase.register`.
    """

    kind: str
    needs_batch_norm: ClassVar[bool] = False
    """True if the pass works on batch normalisation, which is then folded only after the pass."""

    @property
    def needs_labels(self) -> bool:
        """True if the pass trains on labels."""
        return False

    @abstractmethod
    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Fit on ``data.fit``; use ``data.held_out`` only to stop early or to revert.

        Raises:
            CalibrationError: if the pass cannot be applied to this network or this data.
        """


def site_errors(network: SpikingNetwork, images: Tensor, sub_batch: int = 16) -> list[float] | None:
    """Σ(mean_t θs[t] − a)² / Σa² of each site over all neurons and images, against the ANN; None without images."""
    if len(images) == 0:
        return None
    squared, energy = [0.0] * len(network.sites), [0.0] * len(network.sites)
    for part in images.split(sub_batch):
        pieces: list[list[Tensor]] = [[] for _ in network.sites]  # a part may be simulated in pieces

        def record(site: Site, emitted: Signal, pieces: list[list[Tensor]] = pieces) -> None:
            pieces[site.index].append(emitted.mean().cpu())

        network.readouts(part, (network.timesteps,), monitor=record)
        means = [torch.cat(of_site) for of_site in pieces]

        def compare(site: Site, activation: Tensor, means: list[Tensor] = means) -> None:
            whole, count = means[site.index], len(activation)
            mean, means[site.index] = whole[:count], whole[count:]
            squared[site.index] += float((mean - activation).double().square().sum())
            energy[site.index] += float(activation.double().square().sum())

        observe(network.ann, part, compare)
    return [s / e if e > 0 else s for s, e in zip(squared, energy, strict=True)]


def settable(
    network: SpikingNetwork, site: Site, *parameters: str, streaming: bool = False, fresh: bool = False
) -> Neuron:
    """The neurons of a site, if a pass may set the given parameters.

    Args:
        network: the spiking network.
        site: the site.
        parameters: names of the parameters, as in ``Neuron.settable``.
        streaming: also require streaming neurons.
        fresh: the pass replaces the parameters, regardless of their present values.

    Raises:
        CalibrationError: naming the site, and the parameters that are missing.
    """
    neuron = network.neuron(site.name)
    missing = ", ".join(name for name in parameters if name not in neuron.settable)
    if neuron.trained_threshold and (missing or streaming or fresh):
        problem = "whose threshold and initial potential are fixed by the trained activation"
        remedy = "use this pass with integrate-and-fire neurons"
    elif missing:
        problem = f"which have no such parameters: {missing}"
        remedy = f"use neurons that have {missing}, or leave this pass out"
    elif streaming and not neuron.streams:
        problem = "which wait for their whole input"
        remedy = "use this pass with streaming neurons, such as integrate-and-fire"
    else:
        return neuron
    raise CalibrationError(f"has {type(neuron).__name__} neurons, {problem}", where=site.name, remedy=remedy)


def within_budget(
    network: SpikingNetwork, images: Tensor, wanted: int, changes: Changes, timesteps: int | None = None
) -> Tensor:
    """The first ``wanted`` images, or fewer, with a note, if their signals exceed the memory budget.

    The signals are those of ``timesteps`` steps, or by default the time-means of two networks.
    """
    room = max(1, network.images_in_budget(1) // 2) if timesteps is None else network.images_in_budget(timesteps)
    if room < min(wanted, len(images)):
        changes.notes.append(f"only {room} images at once: more would exceed the memory budget")
    return images[: min(wanted, room)]
