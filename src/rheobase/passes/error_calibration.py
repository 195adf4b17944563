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
from rheobase.passes.held_out import NAMES, HeldOut, Snapshot, best_error
from rheobase.passes.layers import SubBatches, channel_mean, walk
from rheobase.passes.thresholds import few
from rheobase.signals import along_channels

Post = Literal["exact", "published", "none"]
"""How φ is set: see :class:`ErrorCalibration`."""
RULES: tuple[Post, ...] = ("exact", "published", "none")
"""Rules among which ``post="best"`` chooses."""
GAIN = 0.05
"""Share by which another rule must lower the error of the exact one: less is the noise of a hundred images."""


class ErrorCalibration(CalibrationPass):
    r"""Set ψ_DA and φ layer by layer so that the mean errors of every channel's current and output vanish (FS-PC).

    With a and z the activations and currents of the analog network, and n and z' the counts and currents of the spiking
    network, whose earlier layers are already calibrated, for each channel over images and positions,

    .. math:: \psi_{DA} = E[z] - E[z']

    and then, with n counted after ψ_DA is set, φ by one of three rules:

    - ``"exact"``: θ + φ = T E[a] / E[n]. The mean error of the output is zero.
    - ``"published"`` (Hao et al. 2025; DA calibration, Algorithm 1, lines 7-15): φ = (E[a] − θ E[n]/T) / (1 + E[n]/T).
      This is the limit of the paper's moving averages, which settle there for every momentum because the error that
      they average contains φ. The analog network is that of the paper too, with every activation clipped at θ.
    - ``"none"``: φ = 0; only ψ_DA is set.

    ``"best"`` runs the three and keeps the one with the smallest logit error, at the best scale of the logits
    (:func:`rheobase.passes.held_out.shape_error`; for a regression at their own), on held-out images, or on the fitted
    ones if none are held out; another rule than the exact one only if its error is 5 % smaller, because it leaves an
    error of the means. The exact rule is best where a channel fires often, as with least-squares thresholds. With
    maxima as thresholds a channel fires rarely, its few spikes become large, and the noise in them costs more than the
    mean error that they correct.

    Each layer is calibrated before the next one, so one pass over the images is enough. Reverted if it does not help on
    held-out images.

    Args:
        images: number of calibration images, all at once; limited by the memory budget.
        post: the rule for φ.
    """

    kind: Literal["error_calibration"] = "error_calibration"
    images: int = Field(default=512, ge=1)
    post: Literal[Post, "best"] = "best"

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``pre`` and ``post`` of every neuron."""
        for site in network.sites:
            settable(network, site, "pre", "post")
        changes, check = Changes(), HeldOut(network, data.held_out, best_error(network))
        images = within_budget(network, data.fit, self.images, changes)
        judging = data.held_out if len(data.held_out) else images
        calibrate_by(self.post, network, images, judging, changes, progress=progress)
        return check.conclude(changes)


def calibrate_by(
    post: Literal[Post, "best"],
    network: SpikingNetwork,
    images: Tensor,
    judging: Tensor,
    changes: Changes,
    *,
    statistics: bool = False,
    progress: bool = False,
) -> None:
    """:func:`calibrate_errors` by a rule, or by the one with the smallest error on the images ``judging``."""
    if post != "best":
        calibrate_errors(network, images, changes, post=post, statistics=statistics, progress=progress)
        return
    error = best_error(network)
    start, errors, found = Snapshot(network), dict[Post, float](), dict[Post, tuple[Snapshot, list[str]]]()
    for rule in RULES:
        start.restore(network)
        tried = Changes()
        calibrate_errors(network, images, tried, post=rule, statistics=statistics, progress=progress)
        errors[rule] = error(network, judging)
        found[rule] = Snapshot(network), tried.notes
    chosen = min(errors, key=lambda rule: errors[rule])
    if errors[chosen] > (1 - GAIN) * errors["exact"]:
        chosen = "exact"
    state, notes = found[chosen]
    state.restore(network)
    listed = ", ".join(f"{value:.3g} {rule}" for rule, value in errors.items())
    changes.notes += [*notes, f"rule for φ: {chosen} ({NAMES[error]}: {listed})"]


def calibrate_errors(
    network: SpikingNetwork,
    images: Tensor,
    changes: Changes,
    *,
    pre: bool = True,
    post: Post = "exact",
    statistics: bool = False,
    progress: bool = False,
) -> None:
    """Run both networks side by side; set ψ_DA (``pre``) and φ (by the rule ``post``) of every site, or remove them.

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
        if post == "published":
            target = [torch.minimum(a, along_channels(neuron.threshold, a.dim())) for a in target]
        missing = channel_mean(wanted) - channel_mean(current)
        neuron.pre, neuron.post = missing.to(neuron.threshold.dtype) if pre else None, None
        if post != "none":
            rate = channel_mean([neuron.response(steps).count(z) for z in current]) / steps
            neuron.post = _post(site, neuron, channel_mean(target), rate, post, changes)
        emitted = [neuron.rate(z, steps) for z in current]
    network.graph = graph


def _post(site: Site, neuron: Any, target: Tensor, rate: Tensor, rule: Post, changes: Changes) -> Tensor:
    """φ from E[a] and E[n/T]; by the exact rule 0 for a channel that never fires or is never active."""
    theta = neuron.threshold.double().expand(rate.shape)
    silent = theta.isinf()
    if rule == "published":
        phi = (target - torch.where(silent, 0.0, theta) * rate) / (1 + rate)
    else:
        never = (rate == 0) & (target > 0) & ~silent
        if bool(never.any()):
            changes.notes.append(f"{site.name}: channels {few(never)} never fire though their activation does: φ = 0")
        usable = (rate > 0) & (target > 0)
        phi = torch.where(usable, target / torch.where(usable, rate, 1.0), theta) - theta
    return torch.where(silent, 0.0, phi).to(neuron.threshold.dtype)


def restated(graph: Graph, node: Node, sub_batches: SubBatches) -> Graph:
    """The graph with the mean and variance of the input as the statistics of a batch normalisation."""
    if node.operation != "batch_norm":
        return graph
    mean = channel_mean(sub_batches)
    centred = [(z.double() - along_channels(mean, z.dim())).square_() for z in sub_batches]
    values = {"running_mean": mean, "running_var": channel_mean(centred)}
    like = graph.tensor(node.parameters["running_mean"])
    return graph.replace(tensors={node.parameters[k]: v.to(like.dtype) for k, v in values.items()})
