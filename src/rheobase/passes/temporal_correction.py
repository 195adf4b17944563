"""DA calibration, second stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rheobase.data import CalibrationData
from rheobase.network import SpikingNetwork
from rheobase.passes.calibration_pass import Changes
from rheobase.passes.da_qcfs import Surrogate
from rheobase.passes.da_stage import DAStage


class TemporalCorrection(DAStage):
    r"""Stage 2 of DA calibration: train an output bias Δb for every channel (section 4.2, Eqs. 17-18, Algorithm 3).

    Δb is added to the potential outside the division by j, which moves the firing threshold to θ − Δb. Nothing else
    changes. The gradient of a spike is a rectangle of unit slope.

    Args:
        target, temperature, epochs, learning_rate, batch_size, warmup, clip, patience, seed: see :class:`FineTuning`.
        band: half of the rectangle's width, in units of the threshold.
    """

    kind: Literal["temporal_correction"] = "temporal_correction"
    stage = "stage 2, temporal correction,"
    learning_rate: float = Field(default=2e-3, gt=0)
    clip: float | None = Field(default=1.0, gt=0)
    band: float = Field(default=0.5, gt=0, lt=1)

    def prepare(self, network: SpikingNetwork, data: CalibrationData, changes: Changes, progress: bool) -> list[str]:
        """Names of Δb of every site."""
        return [f"{site.name}.output_bias" for site in network.sites]

    def gradient(self) -> tuple[Surrogate, float]:
        """A rectangle of unit slope."""
        return "rectangular", self.band
