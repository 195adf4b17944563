"""Published methods as recipes: a few lines each, all over the same parts."""

from rheobase.recipes.baselines import OPI, RTS, SNNCalibration
from rheobase.recipes.da_parallel import DAParallel, ParallelConversion
from rheobase.recipes.exact import QVM, Pascal
from rheobase.recipes.ftbc import FTBC
from rheobase.recipes.learned import LearnedActivation
from rheobase.recipes.parts import (
    ConstantCurrentNeuron,
    IntegrateFireNeuron,
    NeuronPart,
    ParallelNeuron,
    PascNeuron,
    StaircaseActivation,
)
from rheobase.recipes.qac import QAC
from rheobase.recipes.rate_coding import RateCoding
from rheobase.recipes.recipe import METHODS, Recipe
from rheobase.recipes.register import register

__all__ = [
    "FTBC",
    "METHODS",
    "OPI",
    "QAC",
    "QVM",
    "RTS",
    "ConstantCurrentNeuron",
    "DAParallel",
    "IntegrateFireNeuron",
    "LearnedActivation",
    "NeuronPart",
    "ParallelConversion",
    "ParallelNeuron",
    "PascNeuron",
    "Pascal",
    "RateCoding",
    "Recipe",
    "SNNCalibration",
    "StaircaseActivation",
    "register",
]
