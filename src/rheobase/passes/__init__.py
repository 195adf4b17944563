"""Calibration passes, which set the parameters of a spiking network by statistics of the analog network."""

from rheobase.data.calibration_data import CalibrationData
from rheobase.passes.calibration_pass import CalibrationPass, Changes, settable
from rheobase.passes.error_calibration import ErrorCalibration
from rheobase.passes.fine_tuning import SpatialRecalibration, TemporalCorrection
from rheobase.passes.held_out import HeldOut
from rheobase.passes.layers import Layer, layers
from rheobase.passes.mean_corrections import BiasCorrection, PotentialCorrection, ShiftCurrent
from rheobase.passes.scale_thresholds import ScaleThresholds
from rheobase.passes.statistics import channel_means, neuron_means
from rheobase.passes.surrogate_calibration import SurrogateCalibration
from rheobase.passes.temporal_bias import TemporalBias
from rheobase.passes.thresholds import Thresholds
from rheobase.passes.weight_calibration import WeightCalibration

PASSES: dict[str, type[CalibrationPass]] = {
    cls.model_fields["kind"].default: cls
    for cls in (
        Thresholds,
        ScaleThresholds,
        ShiftCurrent,
        BiasCorrection,
        PotentialCorrection,
        WeightCalibration,
        TemporalBias,
        SurrogateCalibration,
        ErrorCalibration,
        SpatialRecalibration,
        TemporalCorrection,
    )
}
"""Passes that a recipe can name, by kind; :func:`rheobase.register` adds one."""

__all__ = [
    "PASSES",
    "BiasCorrection",
    "CalibrationData",
    "CalibrationPass",
    "Changes",
    "ErrorCalibration",
    "HeldOut",
    "Layer",
    "PotentialCorrection",
    "ScaleThresholds",
    "ShiftCurrent",
    "SpatialRecalibration",
    "SurrogateCalibration",
    "TemporalBias",
    "TemporalCorrection",
    "Thresholds",
    "WeightCalibration",
    "channel_means",
    "layers",
    "neuron_means",
    "settable",
]
