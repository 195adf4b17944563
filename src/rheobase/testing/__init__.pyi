from ._activation import check_activation as check_activation
from ._neuron import check_neuron as check_neuron
from ._operation import check_operation as check_operation
from ._pass import check_pass as check_pass

__all__ = ["check_activation", "check_neuron", "check_operation", "check_pass"]
