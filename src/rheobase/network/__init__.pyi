from .folding import fold_thresholds as fold_thresholds
from .inference import InferenceNetwork as InferenceNetwork
from .inference import for_inference as for_inference
from .protocol import Phase as Phase
from .protocol import Protocol as Protocol
from .simulation import Simulation as Simulation
from .spiking_network import Monitor as Monitor
from .spiking_network import Provenance as Provenance
from .spiking_network import SpikingNetwork as SpikingNetwork
from .trainable import TrainableNetwork as TrainableNetwork
from .two_phase import Shift as Shift
from .two_phase import Silence as Silence

__all__ = [
    "InferenceNetwork",
    "Monitor",
    "Phase",
    "Protocol",
    "Provenance",
    "Shift",
    "Silence",
    "Simulation",
    "SpikingNetwork",
    "TrainableNetwork",
    "fold_thresholds",
    "for_inference",
]
