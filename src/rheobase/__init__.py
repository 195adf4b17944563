"""Turn a trained PyTorch network into a spiking network with the fewest time-steps, and measure what was lost."""

from rheobase.calibrate import ScaleThresholds, Thresholds
from rheobase.convert import convert
from rheobase.errors import RheobaseError, RheobaseWarning
from rheobase.evaluate import Evaluation, evaluate
from rheobase.inspect import Inspection, inspect
from rheobase.network import SpikingNetwork
from rheobase.neurons.fused import set_fusion
from rheobase.recipes import IntegrateFireNeuron, RateCoding, Recipe
from rheobase.store import load

__all__ = [
    "Evaluation",
    "Inspection",
    "IntegrateFireNeuron",
    "RateCoding",
    "Recipe",
    "RheobaseError",
    "RheobaseWarning",
    "ScaleThresholds",
    "SpikingNetwork",
    "Thresholds",
    "convert",
    "evaluate",
    "inspect",
    "load",
    "set_fusion",
]
