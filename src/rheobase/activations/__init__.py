"""Activations at the sites of the analog network, and quantised activations for training before conversion."""

from rheobase.activations.activation import ACTIVATIONS as ACTIVATIONS
from rheobase.activations.activation import Activation as Activation
from rheobase.activations.activation import Bounds as Bounds
from rheobase.activations.activation import Constraint as Constraint
from rheobase.activations.activation import QuantisedActivation as QuantisedActivation
from rheobase.activations.activation import Rounding as Rounding
from rheobase.activations.learned_staircase import LearnedStaircase as LearnedStaircase
from rheobase.activations.slip import SlipReLU as SlipReLU
from rheobase.activations.staircase import QCFS as QCFS
from rheobase.activations.staircase import Staircase as Staircase
from rheobase.activations.step_target import StepTarget as StepTarget
