"""Activations at the sites of the analog network, and quantised activations for training before conversion."""

from rheobase.activations.activation import ACTIVATIONS, Activation, Bounds, Constraint, QuantisedActivation, Rounding
from rheobase.activations.learned_staircase import LearnedStaircase
from rheobase.activations.staircase import QCFS, Staircase
from rheobase.activations.step_target import StepTarget

__all__ = [
    "ACTIVATIONS",
    "QCFS",
    "Activation",
    "Bounds",
    "Constraint",
    "LearnedStaircase",
    "QuantisedActivation",
    "Rounding",
    "Staircase",
    "StepTarget",
]
