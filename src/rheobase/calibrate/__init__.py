"""Calibration: statistics of the analog network, and the passes that set a spiking network's parameters by them."""

from rheobase.calibrate.data import CalibrationData
from rheobase.calibrate.error_calibration import ErrorCalibration
from rheobase.calibrate.fine_tuning import SpatialRecalibration, TemporalCorrection
from rheobase.calibrate.held_out import HeldOut
from rheobase.calibrate.layers import Layer, layers
from rheobase.calibrate.mean_corrections import BiasCorrection, PotentialCorrection, ShiftCurrent
from rheobase.calibrate.passes import CalibrationPass, Changes, integrate_fire
from rheobase.calibrate.scale import ScaleThresholds
from rheobase.calibrate.statistics import channel_means, neuron_means
from rheobase.calibrate.surrogate import SurrogateCalibration
from rheobase.calibrate.temporal_bias import TemporalBias
from rheobase.calibrate.thresholds import Thresholds
from rheobase.calibrate.weights import WeightCalibration

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
"""Every pass that a recipe can name, by its kind; :func:`rheobase.register` adds to them."""

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
    "integrate_fire",
    "layers",
    "neuron_means",
]
