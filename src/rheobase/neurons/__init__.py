"""Neurons: the layer of a site in the spiking network, with explicit state that is passed in and returned."""

from rheobase.neurons.constant_current import ConstantCurrent
from rheobase.neurons.fused import set_fusion
from rheobase.neurons.graded import Burst, Graded, MultiThreshold, Signed
from rheobase.neurons.integer import IntegerCount, IntegerFire
from rheobase.neurons.integrate_fire import IntegrateFire
from rheobase.neurons.membrane import MembraneNeuron
from rheobase.neurons.neuron import Neuron, State
from rheobase.neurons.parallel import ParallelIF
from rheobase.neurons.pasc import Pasc
from rheobase.neurons.probabilistic import Probabilistic
from rheobase.neurons.response import Alphabet, Response
from rheobase.neurons.temporal_switch import TemporalSwitch
from rheobase.neurons.window import WindowNeuron

NEURONS: dict[str, type[Neuron]] = {
    cls.kind: cls
    for cls in (
        IntegrateFire,
        Graded,
        Signed,
        MultiThreshold,
        Burst,
        ConstantCurrent,
        Pasc,
        ParallelIF,
        Probabilistic,
        TemporalSwitch,
        IntegerFire,
        IntegerCount,
    )
}
"""Every neuron class by its name in saved networks; :func:`rheobase.register` adds to it."""

__all__ = [
    "NEURONS",
    "Alphabet",
    "Burst",
    "ConstantCurrent",
    "Graded",
    "IntegerCount",
    "IntegerFire",
    "IntegrateFire",
    "MembraneNeuron",
    "MultiThreshold",
    "Neuron",
    "ParallelIF",
    "Pasc",
    "Probabilistic",
    "Response",
    "Signed",
    "State",
    "TemporalSwitch",
    "WindowNeuron",
    "set_fusion",
]
