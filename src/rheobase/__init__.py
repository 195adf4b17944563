"""Turn a trained PyTorch network into a spiking network with the fewest time-steps, and measure what was lost."""

from rheobase.activations import QCFS, Staircase
from rheobase.alignment import Alignment
from rheobase.calibrate import (
    BiasCorrection,
    ErrorCalibration,
    PotentialCorrection,
    ScaleThresholds,
    ShiftCurrent,
    SpatialRecalibration,
    SurrogateCalibration,
    TemporalBias,
    TemporalCorrection,
    Thresholds,
    WeightCalibration,
)
from rheobase.compare import all_recipes, compare
from rheobase.convert import convert
from rheobase.costs import Costs
from rheobase.diagnose import Diagnosis, diagnose
from rheobase.distribution import Distribution, distribution
from rheobase.energy import Energy, energy
from rheobase.errors import RheobaseError, RheobaseWarning, TrainingError
from rheobase.evaluate import Evaluation, evaluate
from rheobase.fold import fold_thresholds
from rheobase.inference import InferenceNetwork, for_inference
from rheobase.inspect import Inspection, inspect
from rheobase.latency import Latency, latency
from rheobase.levels import AdaptedLevels, LevelMetric, adapt_levels, level_metric
from rheobase.network import SpikingNetwork
from rheobase.neurons.fused import set_fusion
from rheobase.nir import NIRExport, export_nir, import_nir
from rheobase.pascal_cost import PascalCost, pascal_cost
from rheobase.potentials import Potentials, potentials
from rheobase.quantise import quantise
from rheobase.recipes import (
    FTBC,
    OPI,
    QAC,
    QVM,
    RTS,
    DAParallel,
    IntegrateFireNeuron,
    ParallelConversion,
    Pascal,
    RateCoding,
    Recipe,
    SNNCalibration,
    register,
)
from rheobase.report.comparison import Comparison
from rheobase.scenarios import InputScenarios, input_scenarios
from rheobase.stability import Stability, stability
from rheobase.store import load
from rheobase.training import Augmentation, Trained, Training, train
from rheobase.unevenness import Unevenness, unevenness

__all__ = [
    "FTBC",
    "OPI",
    "QAC",
    "QCFS",
    "QVM",
    "RTS",
    "AdaptedLevels",
    "Alignment",
    "Augmentation",
    "BiasCorrection",
    "Comparison",
    "Costs",
    "DAParallel",
    "Diagnosis",
    "Distribution",
    "Energy",
    "ErrorCalibration",
    "Evaluation",
    "InferenceNetwork",
    "InputScenarios",
    "Inspection",
    "IntegrateFireNeuron",
    "Latency",
    "LevelMetric",
    "NIRExport",
    "ParallelConversion",
    "Pascal",
    "PascalCost",
    "PotentialCorrection",
    "Potentials",
    "RateCoding",
    "Recipe",
    "RheobaseError",
    "RheobaseWarning",
    "SNNCalibration",
    "ScaleThresholds",
    "ShiftCurrent",
    "SpatialRecalibration",
    "SpikingNetwork",
    "Stability",
    "Staircase",
    "SurrogateCalibration",
    "TemporalBias",
    "TemporalCorrection",
    "Thresholds",
    "Trained",
    "Training",
    "TrainingError",
    "Unevenness",
    "WeightCalibration",
    "adapt_levels",
    "all_recipes",
    "compare",
    "convert",
    "diagnose",
    "distribution",
    "energy",
    "evaluate",
    "export_nir",
    "fold_thresholds",
    "for_inference",
    "import_nir",
    "input_scenarios",
    "inspect",
    "latency",
    "level_metric",
    "load",
    "pascal_cost",
    "potentials",
    "quantise",
    "register",
    "set_fusion",
    "stability",
    "train",
    "unevenness",
]
