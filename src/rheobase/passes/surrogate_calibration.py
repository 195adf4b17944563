"""Initial potentials and thresholds trained through the simulation."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.progress import track
from rheobase.core.seeds import generator
from rheobase.data import CalibrationData
from rheobase.graph import Node
from rheobase.graph.interpreter import run
from rheobase.graph.operations import in_memory_format
from rheobase.graph.sites import Site
from rheobase.network import Simulation, SpikingNetwork
from rheobase.neurons import Neuron
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.held_out import Best, logit_error
from rheobase.passes.statistics import Granularity
from rheobase.signals import Signal, SpikeTrain, along_channels

EXACT = 1e-8
"""Relative squared error of logits up to which the difference is rounding."""


class SurrogateCalibration(CalibrationPass):
    r"""Train V0 and θ of every site by gradient descent through the simulation, with the ANN's logits as target.

    .. math::
        \mathcal{L} = \Big\| \frac{1}{T} \sum_t o_{SNN}(t) - o_{ANN} \Big\|^2, \qquad
        \theta = \theta_0 e^{\rho}, \quad V_0 / \theta = v_0 + \delta

    QAC, section 4.4 (Eq. 15). The weights are frozen, and labels are not used. AdamW with a cosine schedule (Adam
    without weight decay) trains ρ and δ, which start at zero; θ stays positive, V0 may leave [0, θ]. Backpropagation
    runs through the whole simulation, with a surrogate gradient of spikes
    (:func:`rheobase.neurons.surrogate.fire_with_gradient`) and the memory of all steps of a mini-batch at all sites.
    The best epoch on held-out images is kept, which may be the original. A network with exactly the logits of the
    quantised ANN, as QVM and QAC have at T = L, is not changed.

    Differs from the paper: its formulas for the gradient of θ (Eqs. 17 and 62) are not used. Their sign is opposite to
    that of the derivation (Eqs. 60, 61), and they omit that θ is also the amplitude of a spike.

    Constant-current neurons whose V0 leaves [0, θ] have no closed form: the site is then simulated in every
    execution, and named in the notes.

    Args:
        train: train both, or only θ or V0.
        granularity: one ρ and one δ per site or per channel.
        epochs: number of passes over the fitted images.
        batch_size: images in a mini-batch.
        learning_rate: initial learning rate of ρ and δ, which are dimensionless.
        weight_decay: decay of ρ and δ towards zero.
        width: width of the surrogate, in units of θ.
        seed: seed of the mini-batches.

    Raises:
        CalibrationError: if neurons are not differentiable, or have no threshold or initial potential to set.
    """

    kind: Literal["surrogate_calibration"] = "surrogate_calibration"
    train: Literal["both", "threshold", "potential"] = "both"
    granularity: Granularity = "channel"
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0, ge=0, allow_inf_nan=False)
    width: float = Field(default=1, gt=0, allow_inf_nan=False)
    seed: int = 0

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``threshold`` and ``initial_potential``; ``history`` has a record for each epoch, 0 for the original."""
        trained = [_Trained(network, site, self.train, self.granularity) for site in network.sites]
        images = in_memory_format(data.fit.to(network.graph.device))
        with torch.inference_mode():
            reference = network.ann(images)
        best, changes = Best(network, data, "epoch"), Changes()
        if max(logit_error(network, images), best.error) < EXACT:
            # Adam would turn rounding errors into full steps
            note = "the original network kept: its logits are already those of the ANN"
            return Changes(notes=[note], history=best.history)

        optimiser = torch.optim.AdamW(
            [parameter for site in trained for parameter in site.parameters],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
        )
        batches = -(-len(images) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs * batches)
        draws = generator(self.seed)
        for epoch in track(range(1, self.epochs + 1), "training potentials and thresholds", show=progress):
            total, fault = 0.0, None
            for rows in torch.randperm(len(images), generator=draws).split(self.batch_size):
                with torch.enable_grad():
                    loss = (self._logits(network, images[rows], trained) - reference[rows].clone()).square().mean()
                    optimiser.zero_grad()
                    loss.backward()
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(rows)
                if fault := _fault(loss, trained):
                    break
            if fault:
                changes.notes.append(
                    f"stopped in epoch {epoch}: {fault} no longer finite; epoch {best.round} kept. "
                    "Remedy: use a smaller learning rate"
                )
                break
            for site in trained:
                site.write()
            best.judge(loss=total / len(images))
        best.conclude(changes)
        for site in trained:
            if site.neuron.closed_form and site.neuron.response(network.steps_of(site.name)) is None:
                changes.notes.append(f"{site.name}: V0 outside [0, θ], simulated step by step in every execution")
        return changes

    def _logits(self, network: SpikingNetwork, images: Tensor, trained: list[_Trained]) -> Tensor:
        values = network.begin(images)
        simulation = _Differentiable(network, trained, self.width)
        run(network.graph, network.between, values, simulation.advance(network.timesteps))
        return network.mean_logits(values)


class _Trained:
    """θ and V0 of a site as functions of the trained ρ and δ."""

    def __init__(self, network: SpikingNetwork, site: Site, train: str, granularity: Granularity) -> None:
        neuron = settable(network, site, "threshold", "initial_potential")
        if not neuron.differentiable:
            raise CalibrationError(
                f"has {type(neuron).__name__} neurons, which are not differentiable",
                where=site.name,
                remedy="use differentiable neurons, such as integrate_fire or constant_current",
            )
        self.name, self.neuron = site.name, neuron
        self.start = cast(Tensor, neuron.threshold).clone()
        shape = (site.channels,) if granularity == "channel" else ()
        self.scale, self.shift = (torch.zeros(shape, dtype=self.start.dtype, device=self.start.device) for _ in "ab")
        self.v0 = torch.as_tensor(neuron.v0, dtype=self.start.dtype, device=self.start.device).clone()
        self.parameters = [
            parameter.requires_grad_()
            for parameter, name in ((self.scale, "threshold"), (self.shift, "potential"))
            if train in ("both", name)
        ]

    @property
    def threshold(self) -> Tensor:
        """θ, [] or [C]."""
        silent = self.start.isinf()
        return torch.where(silent, self.start, torch.where(silent, 1.0, self.start) * self.scale.exp())

    @property
    def potential(self) -> Tensor:
        """V0/θ; [], [C], or [C, ...]."""
        return self.v0 + along_channels(self.shift, 1 + self.v0.dim())

    def write(self) -> None:
        """Set the trained parameters of the neurons."""
        if self.scale.requires_grad:
            self.neuron.set(threshold=self.threshold.detach().clone())
        if self.shift.requires_grad:
            self.neuron.set(initial_potential=self.potential.detach().clone())

    def finite(self) -> bool:
        """True if θ (except of silent channels), V0 and their gradients are finite, and θ is positive."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        alive = (self.threshold.isfinite() & (self.threshold > 0)) | self.start.isinf()
        return all(bool(x.all()) for x in (alive, *(value.isfinite() for value in (self.potential, *gradients))))


def _fault(loss: Tensor, trained: list[_Trained]) -> str | None:
    """Subject of a note on values that are not finite: the first such site, or the logits; None if all are finite."""
    for site in trained:
        if not site.finite():
            return f"θ, V0 or their gradients at {site.name} are"
    return None if bool(torch.isfinite(loss)) else "the logits are"


class _Differentiable(Simulation):
    """The simulation with the trained parameters, differentiable in them."""

    def __init__(self, network: SpikingNetwork, trained: list[_Trained], width: float) -> None:
        super().__init__(network)
        self.trained = {site.name: site for site in trained}
        self.width = width

    def emit(self, node: Node, neuron: Neuron, signal: Signal) -> SpikeTrain:
        site = self.trained[node.name]
        values = neuron.run_with_gradient(signal, self.steps_of(node.name), site.threshold, site.potential, self.width)
        return SpikeTrain(values, neuron.amplitude)
