"""Judgement of a pass on held-out images, and reverting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.passes.calibration_pass import Changes
from rheobase.tasks import share


@torch.inference_mode()
def logit_error(network: SpikingNetwork, images: Tensor) -> float:
    """Σ‖SNN − ANN‖² / Σ‖ANN‖² of the logits over all images; 0 without images."""
    if len(images) == 0:
        return 0.0
    return relative_error(network.logits(images), network.ann(images.to(network.graph.device)).double())


def relative_error(logits: Tensor, reference: Tensor) -> float:
    """Σ‖logits − reference‖² / Σ‖reference‖²."""
    energy = float(reference.square().sum())
    return float((logits.double() - reference).square().sum()) / (energy if energy > 0 else 1.0)


@torch.inference_mode()
def shape_error(network: SpikingNetwork, images: Tensor) -> float:
    r"""The smallest :func:`logit_error` that one factor c on all logits of the SNN reaches; 0 without images.

    .. math:: \min_c \frac{\sum \|c \, SNN - ANN\|^2}{\sum \|ANN\|^2}, \qquad c \ge 0

    A factor changes no decision. Among poor networks the logit error prefers those with small outputs, because it is 1
    for outputs that are all zero; this error does not.
    """
    if len(images) == 0:
        return 0.0
    return error_at_best_scale(network.logits(images), network.ann(images.to(network.graph.device)).double())


def error_at_best_scale(logits: Tensor, reference: Tensor) -> float:
    """The smallest :func:`relative_error` of c · logits over c >= 0."""
    logits = logits.double()
    energy = float(logits.square().sum())
    factor = max(float((logits * reference).sum()), 0.0) / (energy if energy > 0 else 1.0)
    return relative_error(factor * logits, reference)


class Snapshot:
    """A copy of the weights and neurons of a network, to restore later."""

    def __init__(self, network: SpikingNetwork) -> None:
        self.graph = network.graph
        self.neurons = [
            {name: None if value is None else value.clone() for name, value in neuron._buffers.items()}
            for neuron in network.neurons
        ]

    def restore(self, network: SpikingNetwork) -> None:
        """Restore the weights and neurons."""
        network.graph = self.graph
        for neuron, buffers in zip(network.neurons, self.neurons, strict=True):
            for name, value in buffers.items():
                setattr(neuron, name, None if value is None else value.clone())

    def changed(self, network: SpikingNetwork) -> dict[str, list[str]]:
        """Names of the changed parameters of neurons, by site name, for the sites with changes."""
        found = {}
        for site, neuron, then in zip(network.sites, network.neurons, self.neurons, strict=True):
            old = {name: value for name, value in then.items() if value is not None}
            found[site.name] = [n for n, x in neuron.named_buffers() if n not in old or not torch.equal(x, old[n])]
        return {name: parameters for name, parameters in found.items() if parameters}


Measure = Callable[[SpikingNetwork, Tensor], float]
NAMES: dict[Measure, str] = {
    logit_error: "squared logit error",
    shape_error: "squared logit error at the best scale",
}
"""What an error is called in notes."""


def best_error(network: SpikingNetwork) -> Measure:
    """:func:`shape_error` for a task with decisions; :func:`logit_error` for quantities, which a factor does change."""
    return shape_error if network.task.decides else logit_error


class HeldOut:
    """The state and held-out error of a network before a pass, to revert the pass if it increases the error.

    The error is :func:`logit_error`, which is squared and over all images, unlike that of :func:`rheobase.evaluate`, or
    :func:`shape_error`.

    Args:
        network: the network before the pass.
        images: held-out images; without any, the pass is not judged and not reverted.
        error: the error.
    """

    def __init__(self, network: SpikingNetwork, images: Tensor, error: Measure = logit_error) -> None:
        self.network, self.images, self.error = network, images, error
        self.original = Snapshot(network)
        self.before = error(network, images)

    def keep_better(self) -> str:
        """Keep the present state, or revert if it has the larger error; return a note on the decision."""
        if len(self.images) == 0:
            return "not checked: no images are held out"
        after = self.error(self.network, self.images)
        change = f"{NAMES[self.error]} on {len(self.images)} held-out images {self.before:.3g} -> {after:.3g}"
        if after <= self.before:
            return change
        self.original.restore(self.network)
        return f"reverted, the original network kept: {change}"

    def conclude(self, changes: Changes) -> Changes:
        """:meth:`keep_better`, with its note and the changed parameters of neurons added to ``changes``."""
        changes.notes.append(self.keep_better())
        changes.changed = self.original.changed(self.network)
        return changes


class Best:
    """The best state of a network among the rounds of an iterative pass, by the logit error on held-out images.

    Round 0 is the original network. Without held-out images the last round counts as the best. Call :meth:`judge` after
    every round, then :meth:`conclude`.

    Args:
        network: the network before the pass.
        data: the calibration data, of which the held-out images judge.
        unit: what a round is called in records and notes, such as ``"epoch"``.
    """

    def __init__(self, network: SpikingNetwork, data: CalibrationData, unit: str) -> None:
        self.network, self.images, self.labels, self.unit = network, data.held_out, data.held_out_labels, unit
        self.original = self.kept = Snapshot(network)
        self.history: list[dict[str, Any]] = []
        self.round, self.error = 0, math.inf
        if len(self.images):
            with torch.inference_mode():
                self.reference = network.ann(self.images.to(network.graph.device)).double()
        self.judge(self.logits())

    @torch.inference_mode()
    def logits(self) -> Tensor | None:
        """Logits of the held-out images in the present state; None without images."""
        return self.network.logits(self.images) if len(self.images) else None

    def error_of(self, logits: Tensor) -> float:
        """:func:`relative_error` of logits of the held-out images."""
        return relative_error(logits, self.reference)

    def judge(self, logits: Tensor | None, **values: Any) -> int:
        """Record the present state, whose :meth:`logits` are given; return the number of rounds since the best one.

        Args:
            logits: of the held-out images.
            values: further entries of the record.
        """
        record = {self.unit: len(self.history), **values}
        if logits is not None:
            task = self.network.task
            record["logit_error"] = self.error_of(logits)
            agreement = task.agreement(logits, self.reference)
            if agreement is not None:
                record["agreement"] = float(agreement.mean())
            right = None if self.labels is None else task.right(logits.cpu(), task.targets(self.labels))
            if right is not None:
                record["accuracy"] = share(right)
        if not len(self.images) or record["logit_error"] < self.error:
            self.round, self.error, self.kept = (
                len(self.history),
                record.get("logit_error", 0.0),
                Snapshot(self.network),
            )
        self.history.append(record)
        return len(self.history) - 1 - self.round

    def conclude(self, changes: Changes) -> Changes:
        """Restore the best state; add the history, the changed parameters and a note to ``changes``."""
        self.kept.restore(self.network)
        changes.history, changes.changed = self.history, self.original.changed(self.network)
        if not len(self.images):
            note = f"not checked: no images are held out; {self.unit} {self.round} kept"
        elif self.round == 0:
            note = f"the original network kept: no {self.unit} lowered the logit error on held-out images"
        else:
            note = (
                f"squared logit error on {len(self.images)} held-out images {self.history[0]['logit_error']:.3g} -> "
                f"{self.error:.3g}, {self.unit} {self.round}"
            )
        changes.notes.append(note)
        return changes
