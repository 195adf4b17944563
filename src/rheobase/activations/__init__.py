"""Quantised activations that networks are trained with so that a spiking network can match them."""

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
