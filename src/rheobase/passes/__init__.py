"""Calibration passes, which set the parameters of a spiking network by statistics of the analog network."""

from rheobase.data.calibration_data import CalibrationData as CalibrationData
from rheobase.passes.bias_correction import BiasCorrection as BiasCorrection
from rheobase.passes.calibration_pass import CalibrationPass as CalibrationPass
from rheobase.passes.calibration_pass import Changes as Changes
from rheobase.passes.calibration_pass import settable as settable
from rheobase.passes.error_calibration import ErrorCalibration as ErrorCalibration
from rheobase.passes.firing_search import FiringSearch as FiringSearch
from rheobase.passes.held_out import Best as Best
from rheobase.passes.held_out import HeldOut as HeldOut
from rheobase.passes.layers import Layer as Layer
from rheobase.passes.layers import layers as layers
from rheobase.passes.potential_correction import PotentialCorrection as PotentialCorrection
from rheobase.passes.scale_thresholds import ScaleThresholds as ScaleThresholds
from rheobase.passes.shift_current import ShiftCurrent as ShiftCurrent
from rheobase.passes.spatial_recalibration import SpatialRecalibration as SpatialRecalibration
from rheobase.passes.statistics import channel_means as channel_means
from rheobase.passes.statistics import neuron_means as neuron_means
from rheobase.passes.surrogate_calibration import SurrogateCalibration as SurrogateCalibration
from rheobase.passes.temporal_bias import TemporalBias as TemporalBias
from rheobase.passes.temporal_correction import TemporalCorrection as TemporalCorrection
from rheobase.passes.threshold_balancing import LocalThresholdBalancing as LocalThresholdBalancing
from rheobase.passes.thresholds import Thresholds as Thresholds
from rheobase.passes.through_time import ThroughTime as ThroughTime
from rheobase.passes.weight_calibration import WeightCalibration as WeightCalibration
from rheobase.passes.weight_regression import WeightRegression as WeightRegression

PASSES: dict[str, type[CalibrationPass]] = {
    cls.model_fields["kind"].default: cls
    for cls in (
        Thresholds,
        ScaleThresholds,
        LocalThresholdBalancing,
        FiringSearch,
        ShiftCurrent,
        BiasCorrection,
        PotentialCorrection,
        WeightCalibration,
        WeightRegression,
        TemporalBias,
        SurrogateCalibration,
        ErrorCalibration,
        SpatialRecalibration,
        TemporalCorrection,
        ThroughTime,
    )
}
"""Passes that a recipe can name, by kind; :func:`rheobase.register` adds one."""
