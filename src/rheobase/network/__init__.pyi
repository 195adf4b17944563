from .folding import fold_thresholds as fold_thresholds
from .inference import InferenceNetwork as InferenceNetwork
from .inference import for_inference as for_inference
from .integer_network import IntegerNetwork as IntegerNetwork
from .integer_network import Units as Units
from .protocol import Phase as Phase
from .protocol import Protocol as Protocol
from .simulation import Simulation as Simulation
from .spiking_network import Monitor as Monitor
from .spiking_network import Provenance as Provenance
from .spiking_network import SpikingNetwork as SpikingNetwork
from .target import TARGETS as TARGETS
from .target import Target as Target
from .target import generic as generic
from .trainable import TrainableNetwork as TrainableNetwork
from .two_phase import Shift as Shift
from .two_phase import Silence as Silence

__all__ = [
    "TARGETS",
    "InferenceNetwork",
    "IntegerNetwork",
    "Monitor",
    "Phase",
    "Protocol",
    "Provenance",
    "Shift",
    "Silence",
    "Simulation",
    "SpikingNetwork",
    "Target",
    "TrainableNetwork",
    "Units",
    "fold_thresholds",
    "for_inference",
    "generic",
]
