"""Calibration: statistics of the analog network, and the passes that set a spiking network's parameters by them."""

from rheobase.calibrate.data import CalibrationData
from rheobase.calibrate.passes import CalibrationPass, Changes
from rheobase.calibrate.scale import ScaleThresholds
from rheobase.calibrate.thresholds import Thresholds

__all__ = ["CalibrationData", "CalibrationPass", "Changes", "ScaleThresholds", "Thresholds"]
