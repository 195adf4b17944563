"""Initial potentials and thresholds trained through the simulation."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rheobase.core.errors import CalibrationError
from rheobase.core.progress import track
from rheobase.core.seeds import generator
from rheobase.data import CalibrationData
from rheobase.graph.operations import in_memory_format
from rheobase.network import SpikingNetwork
from rheobase.network.trainable import TrainableNetwork, Trains, check_differentiable
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.held_out import Best, logit_error
from rheobase.passes.statistics import Granularity

EXACT = 1e-8
"""Relative squared error of logits up to which the difference is rounding."""


class SurrogateCalibration(CalibrationPass):
    r"""Train V0 and θ of every site by gradient descent through the simulation, with the ANN's logits as target.

    .. math::
        \mathcal{L} = \left\| \frac{1}{T} \sum_t o_{SNN}(t) - o_{ANN} \right\|^2, \qquad
        \theta = \theta_0 e^{\rho}, \quad V_0 / \theta = v_0 + \delta

    QAC, section 4.4 (Eq. 15). The weights are frozen, and labels are not used. AdamW with a cosine schedule (Adam
    without weight decay) trains ρ and δ, which start at zero; θ stays positive, V0 may leave [0, θ]. Backpropagation
    runs through the whole simulation, with a surrogate gradient of spikes
    (:class:`rheobase.network.TrainableNetwork`). To train the weights of streaming neurons too, use
    :class:`rheobase.passes.ThroughTime`.
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
    learning_rate: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=0, ge=0)
    width: float = Field(default=1, gt=0)
    seed: int = 0

    def apply(self, network: SpikingNetwork, data: CalibrationData, progress: bool = False) -> Changes:
        """Set ``threshold`` and ``initial_potential``; ``history`` has a record for each epoch, 0 for the original."""
        for site in network.sites:
            settable(network, site, "threshold", "initial_potential")
        check_differentiable(network, CalibrationError)
        trained = TrainableNetwork(
            network, trains=_TRAINS[self.train], granularity=self.granularity, width=self.width, rate=1.0
        )
        images = in_memory_format(data.fit.to(network.graph.device))
        with torch.inference_mode():
            reference = network.ann(images)
        best, changes = Best(network, data, "epoch"), Changes()
        if max(logit_error(network, images), best.error) < EXACT:
            # Adam would turn rounding errors into full steps
            note = "the original network kept: its logits are already those of the ANN"
            return Changes(notes=[note], history=best.history)

        optimiser = torch.optim.AdamW(trained.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        batches = -(-len(images) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs * batches)
        draws = generator(self.seed)
        for epoch in track(range(1, self.epochs + 1), "training potentials and thresholds", show=progress):
            total, fault = 0.0, None
            for rows in torch.randperm(len(images), generator=draws).split(self.batch_size):
                with torch.enable_grad():
                    loss = (trained(images[rows]) - reference[rows].clone()).square().mean()
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
            trained.write(network)
            best.judge(best.logits(), loss=total / len(images))
        best.conclude(changes)
        for site in network.sites:
            neuron = network.neuron(site.name)
            if neuron.closed_form and neuron.response(network.steps_of(site.name)) is None:
                changes.notes.append(f"{site.name}: V0 outside [0, θ], simulated step by step in every execution")
        return changes


_TRAINS: dict[str, tuple[Trains, ...]] = {
    "both": ("threshold", "initial_potential"),
    "threshold": ("threshold",),
    "potential": ("initial_potential",),
}


def _fault(loss: Tensor, trained: TrainableNetwork) -> str | None:
    """Subject and verb of a note on values that are not finite: the first parameter, or the logits; None if all are."""
    wrong = [name for (name, _), fine in zip(trained.named_parameters(), trained.finite(), strict=True) if not fine]
    if wrong:
        return f"{wrong[0].removeprefix('sites.')} is"
    return None if bool(torch.isfinite(loss)) else "the logits are"
