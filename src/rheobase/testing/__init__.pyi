from ._neuron import check_neuron as check_neuron

__all__ = ["check_neuron"]
