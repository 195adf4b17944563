"""DA calibration, first stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.passes.calibration_pass import Changes, within_budget
from rheobase.passes.da_stage import DAStage
from rheobase.passes.error_calibration import Post, calibrate_by, calibrate_errors


class SpatialRecalibration(DAStage):
    r"""Stage 1 of DA calibration: train batch normalisation in the parallel network (section 4.1, Algorithm 2).

    First, every batch normalisation gets the mean and variance of its input in the spiking network, layer by layer and
    exactly over ``images`` images. This changes the errors that ψ_DA and φ compensate, so both are calibrated again
    where a site has them (:class:`rheobase.passes.ErrorCalibration`). Then the affine parameters are trained in the
    DA-QCFS network with the straight-through gradient and the statistics of each batch. At the end the statistics are
    set to the means over the batches of one more epoch (:class:`rheobase.Training`, ``exact_statistics``). Weights of
    convolutions do not change.

    Differs from the paper: with ``neurons``, threshold and amplitude of every channel (θ and θ + φ) are also trained.
    Batch normalisation alone cannot change the amplitude of a channel.

    Requires batch normalisation that is not folded; a network without it is not changed.

    Args:
        target, temperature, epochs, learning_rate, batch_size, warmup, clip, patience, seed: see :class:`FineTuning`.
        images: number of images for the initial statistics, all at once; limited by the memory budget.
        neurons: also train θ and φ of every channel.
        post: the rule for φ, where it is calibrated again (:class:`rheobase.passes.ErrorCalibration`).
    """

    kind: Literal["spatial_recalibration"] = "spatial_recalibration"
    needs_batch_norm = exact_statistics = True
    stage = "stage 1, spatial recalibration,"
    images: int = Field(default=512, ge=2)
    neurons: bool = True
    post: Literal[Post, "best"] = "best"

    def prepare(self, network: SpikingNetwork, data: CalibrationData, changes: Changes, progress: bool) -> list[str]:
        """Set the statistics; the trained parameters are those of batch normalisation and of the neurons."""
        nodes = [node for node in network.graph.nodes if node.operation == "batch_norm"]
        if not nodes:
            changes.notes.append(
                "the original network kept: it has no batch normalisation, or it is already folded; nothing to do"
            )
            return []
        errors = any(network.neuron(site.name).fitted for site in network.sites)
        images = within_budget(network, data.fit, self.images, changes)
        if errors:
            judging = data.held_out if len(data.held_out) else images
            calibrate_by(self.post, network, images, judging, changes, statistics=True, progress=progress)
        else:
            calibrate_errors(network, images, changes, pre=False, post="none", statistics=True, progress=progress)
        names = list(dict.fromkeys(node.parameters[argument] for node in nodes for argument in ("weight", "bias")))
        gains = [f"{site.name}.{gain}" for site in network.sites for gain in ("threshold_gain", "amplitude_gain")]
        return [*names, *gains] if self.neurons else names
