"""Calibration: statistics of the analog network, and the passes that set a spiking network's parameters by them."""

from rheobase.calibrate.data import CalibrationData
from rheobase.calibrate.error_calibration import ErrorCalibration
from rheobase.calibrate.fine_tuning import SpatialRecalibration, TemporalCorrection
from rheobase.calibrate.mean_corrections import BiasCorrection, PotentialCorrection, ShiftCurrent
from rheobase.calibrate.passes import CalibrationPass, Changes
from rheobase.calibrate.scale import ScaleThresholds
from rheobase.calibrate.surrogate import SurrogateCalibration
from rheobase.calibrate.temporal_bias import TemporalBias
from rheobase.calibrate.thresholds import Thresholds
from rheobase.calibrate.weights import WeightCalibration

AnyPass = (
    Thresholds
    | ScaleThresholds
    | ShiftCurrent
    | BiasCorrection
    | PotentialCorrection
    | WeightCalibration
    | TemporalBias
    | SurrogateCalibration
    | ErrorCalibration
    | SpatialRecalibration
    | TemporalCorrection
)
"""Every pass that a recipe can name."""

__all__ = [
    "AnyPass",
    "BiasCorrection",
    "CalibrationData",
    "CalibrationPass",
    "Changes",
    "ErrorCalibration",
    "PotentialCorrection",
    "ScaleThresholds",
    "ShiftCurrent",
    "SpatialRecalibration",
    "SurrogateCalibration",
    "TemporalBias",
    "TemporalCorrection",
    "Thresholds",
    "WeightCalibration",
]
