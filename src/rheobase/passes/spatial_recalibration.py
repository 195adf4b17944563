"""Stage 1 of DA calibration: batch normalisation trained in the parallel network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rheobase.data.calibration_data import CalibrationData
from rheobase.graph.graph import Graph
from rheobase.graph.trainable import TrainableGraph
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.passes.calibration_pass import Changes, within_budget
from rheobase.passes.da_qcfs import DAQCFS
from rheobase.passes.error_calibration import calibrate_errors
from rheobase.passes.fine_tuning import FineTuning, _module


class SpatialRecalibration(FineTuning):
    r"""Stage 1 of DA calibration: fit batch normalisation to what spikes make of its input (section 4.1, Algorithm 2).

    First every batch normalisation gets the mean and the variance of what arrives at it in the spiking network, layer
    by layer and exactly over ``images`` images; the errors that ψ_DA and φ make up for are then other ones, so
    both are calibrated anew where a site has them (:class:`rheobase.passes.ErrorCalibration`). Then its affine
    parameters are trained in the DA-QCFS network, in which the gradient passes straight through the staircase, with the
    statistics of each batch; in the end the statistics are the means over the batches of one more epoch
    (:class:`rheobase.Training`, ``exact_statistics``). No weight of a convolution changes.

    Ours: with ``neurons``, the threshold of every channel and what its spikes are worth (θ and θ + φ) are trained
    beside them. Batch normalisation alone cannot change what a channel is worth to the next layer.

    Works on batch normalisation before it is folded; where it is folded already, or never was, there is nothing to do.

    Args:
        target, temperature, epochs, learning_rate, batch_size, warmup, clip, patience, seed: see :class:`FineTuning`.
        images: for the statistics at the start, all at once; fewer where the memory budget says so.
        batch_statistics: normalise by the statistics of each batch in training; else by those of ``images``.
        neurons: also train θ and φ of every channel.
    """

    kind: Literal["spatial_recalibration"] = "spatial_recalibration"
    needs_batch_norm = True
    stage = "stage 1, spatial recalibration,"
    images: int = Field(default=512, ge=2)
    batch_statistics: bool = True
    neurons: bool = True

    def prepare(self, network: SpikingNetwork, data: CalibrationData, changes: Changes, progress: bool) -> list[str]:
        """Statistics; the affine parameters of every batch normalisation, and the neurons'."""
        nodes = [node for node in network.graph.nodes if node.operation == "batch_norm"]
        if not nodes:
            changes.notes.append(
                "the original network kept: it has no batch normalisation, or has it folded already; nothing to do"
            )
            return []
        errors = any(network.neuron(site.name).fitted for site in network.sites)
        images = within_budget(network, data.fit, self.images, changes)
        calibrate_errors(network, images, changes, pre=errors, post=errors, statistics=True, progress=progress)
        names = list(dict.fromkeys(node.parameters[argument] for node in nodes for argument in ("weight", "bias")))
        gains = [f"{site.name}.{gain}" for site in network.sites for gain in ("threshold_gain", "amplitude_gain")]
        return [*names, *gains] if self.neurons else names

    @property
    def exact_statistics(self) -> bool:
        """Where each batch was normalised by its own; the running means would be those of the last few."""
        return self.batch_statistics

    def module(self, network: SpikingNetwork, site: int) -> DAQCFS:
        """With the straight-through gradient."""
        return _module(network, site, "straight_through")

    def trainable(self, graph: Graph, modules: Any) -> TrainableGraph:
        """Normalising by each batch, or by the statistics there are."""
        return TrainableGraph(graph, modules) if self.batch_statistics else _Fixed(graph, modules)


class _Fixed(TrainableGraph):
    """Never in training mode: batch normalisation keeps its statistics."""

    def train(self, mode: bool = True) -> _Fixed:
        return super().train(False)
