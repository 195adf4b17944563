from ._neuron import check_neuron as check_neuron
from ._operation import check_operation as check_operation

__all__ = ["check_neuron", "check_operation"]
