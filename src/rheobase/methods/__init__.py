"""Published methods as recipes: combinations of a neuron, an activation and calibration passes."""

from rheobase.methods._convert import convert
from rheobase.methods._quantise import quantise
from rheobase.methods.activation_part import ActivationPart, StaircaseActivation
from rheobase.methods.adaptive_levels import AdaptedLevels, LevelMetric, adapt_levels, level_metric
from rheobase.methods.da_parallel import DAParallel
from rheobase.methods.ftbc import FTBC
from rheobase.methods.neuron_part import (
    ConstantCurrentNeuron,
    IntegrateFireNeuron,
    NeuronPart,
    ParallelNeuron,
    PascNeuron,
)
from rheobase.methods.opi import OPI
from rheobase.methods.parallel_conversion import ParallelConversion
from rheobase.methods.pascal import Pascal
from rheobase.methods.qac import QAC, LearnedActivation
from rheobase.methods.qvm import QVM
from rheobase.methods.rate_coding import RateCoding
from rheobase.methods.recipe import METHODS, Recipe
from rheobase.methods.registry import register
from rheobase.methods.rts import RTS
from rheobase.methods.snn_calibration import SNNCalibration

__all__ = [
    "FTBC",
    "METHODS",
    "OPI",
    "QAC",
    "QVM",
    "RTS",
    "ActivationPart",
    "AdaptedLevels",
    "ConstantCurrentNeuron",
    "DAParallel",
    "IntegrateFireNeuron",
    "LearnedActivation",
    "LevelMetric",
    "NeuronPart",
    "ParallelConversion",
    "ParallelNeuron",
    "PascNeuron",
    "Pascal",
    "RateCoding",
    "Recipe",
    "SNNCalibration",
    "StaircaseActivation",
    "adapt_levels",
    "convert",
    "level_metric",
    "quantise",
    "register",
]
