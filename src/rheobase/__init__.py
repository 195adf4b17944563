"""Turn a trained PyTorch network into a spiking network with the fewest time-steps, and measure what was lost."""

from rheobase.activations import QCFS
from rheobase.calibrate import (
    BiasCorrection,
    PotentialCorrection,
    ScaleThresholds,
    ShiftCurrent,
    TemporalBias,
    Thresholds,
    WeightCalibration,
)
from rheobase.convert import convert
from rheobase.errors import RheobaseError, RheobaseWarning, TrainingError
from rheobase.evaluate import Evaluation, evaluate
from rheobase.inspect import Inspection, inspect
from rheobase.network import SpikingNetwork
from rheobase.neurons.fused import set_fusion
from rheobase.potentials import Potentials, potentials
from rheobase.recipes import FTBC, OPI, RTS, IntegrateFireNeuron, RateCoding, Recipe, SNNCalibration
from rheobase.stability import Stability, stability
from rheobase.store import load
from rheobase.training import Augmentation, Trained, Training, train

__all__ = [
    "FTBC",
    "OPI",
    "QCFS",
    "RTS",
    "Augmentation",
    "BiasCorrection",
    "Evaluation",
    "Inspection",
    "IntegrateFireNeuron",
    "PotentialCorrection",
    "Potentials",
    "RateCoding",
    "Recipe",
    "RheobaseError",
    "RheobaseWarning",
    "SNNCalibration",
    "ScaleThresholds",
    "ShiftCurrent",
    "SpikingNetwork",
    "Stability",
    "TemporalBias",
    "Thresholds",
    "Trained",
    "Training",
    "TrainingError",
    "WeightCalibration",
    "convert",
    "evaluate",
    "inspect",
    "load",
    "potentials",
    "set_fusion",
    "stability",
    "train",
]
