"""Registration of parts and methods from outside the package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from rheobase.activations import ACTIVATIONS, Activation
from rheobase.core.errors import RecipeError, RheobaseError
from rheobase.core.values import Value
from rheobase.graph.operations import OPERATIONS, OnNumbers, Operation
from rheobase.graph.rewrites.alignment import OPERATION as ALIGN
from rheobase.graph.trace.builder import TRACED
from rheobase.methods.activation_part import ACTIVATION_PARTS, ActivationPart
from rheobase.methods.neuron_part import NEURON_PARTS, NeuronPart
from rheobase.methods.recipe import METHODS, published
from rheobase.network import Protocol
from rheobase.network.protocol import PROTOCOLS
from rheobase.neurons import NEURONS, Neuron
from rheobase.passes import PASSES, CalibrationPass

T = TypeVar("T", bound=Callable[..., Any])
_NODES = ("input", "site", "refused", ALIGN)


def register(part: T) -> T:
    """Register a pass, neuron, activation, protocol, operation or method for recipes, files and the command line.

    Use it as a decorator. It runs when the module is imported, so import the module before you read a recipe or a
    network that uses the part (``rheobase --import my_module ...``). Registering the same class again, as in a
    notebook, replaces the earlier one.

    Args:
        part: a :class:`rheobase.passes.CalibrationPass`; a :class:`rheobase.methods.NeuronPart`, with the neurons
            that it ``builds``; a :class:`rheobase.methods.ActivationPart`; a :class:`rheobase.network.Protocol`; a
            :class:`rheobase.graph.operations.Operation`; a :class:`rheobase.activations.Activation`; or a function that
            returns a recipe, whose arguments all have defaults.

    Returns:
        The class unchanged; the function with its options validated.

    Raises:
        RecipeError: if the name is missing or taken, or the class is incomplete.

    Example:
        >>> import rheobase as rb
        >>> @rb.register
        ... def Early(timesteps: int = 4):
        ...     return rb.RateCoding(timesteps=timesteps).replace(name="Early")
        >>> rb.Recipe.from_yaml("{method: Early, timesteps: 2}").timesteps
        2
    """
    cls: Any = part
    base = next((base for base in _TABLES if isinstance(part, type) and issubclass(part, base)), None)
    if base is None:
        return cast(T, _register_method(part))
    table, name = _TABLES[base], _name(cls)
    _check_complete(cls)
    _check_free(table, name, cls)
    if base is NeuronPart:
        _register_neuron(cls)
    if base not in (Operation, Activation):
        table[name] = cls
        return part
    _check_traced(cls, table, name)
    try:
        table[name] = cls()
    except RheobaseError:
        raise
    except TypeError as error:
        raise RecipeError(
            f"cannot be constructed without arguments ({error})",
            where=cls.__name__,
            remedy="give every argument of its constructor a default",
        ) from None
    return part


_TABLES: dict[type, dict[str, Any]] = {
    CalibrationPass: PASSES,
    NeuronPart: NEURON_PARTS,
    ActivationPart: ACTIVATION_PARTS,
    Protocol: PROTOCOLS,
    Operation: OPERATIONS,
    Activation: ACTIVATIONS,
}


_RULES = (
    # (method, method that must be redefined with it, remedy): the inherited one would follow another rule
    ("step", "run", "write run = Neuron.run, which repeats step"),
    ("step", "count", "define count(potential, threshold, sent) in place of step; MembraneNeuron has the step"),
    ("rate", "response", "define response too; return None if rate is not a staircase"),
)


def _register_method(part: Any) -> Callable[..., Any]:
    if not inspect.isfunction(part):
        raise RecipeError(
            "is not a pass, neuron, activation, protocol or operation, nor a function that returns a recipe",
            where=getattr(part, "__name__", repr(part)),
            remedy="derive it from CalibrationPass, NeuronPart, ActivationPart, Activation, Protocol or Operation; a "
            "Neuron is registered by the NeuronPart that builds it",
        )
    needed = [name for name, p in inspect.signature(part).parameters.items() if p.default is p.empty]
    if needed:
        raise RecipeError("has no default", where=f"{part.__name__} {needed[0]}", remedy="give every option a default")
    _check_free(METHODS, part.__name__, part)
    return published(part)


def _register_neuron(part: type[NeuronPart]) -> None:
    """Check and register the neurons that a part builds."""
    neuron = getattr(part, "builds", None)
    if not (isinstance(neuron, type) and issubclass(neuron, Neuron)):
        raise RecipeError("names no class of neurons", where=f"{part.__name__}.builds", remedy="set builds = MyNeuron")
    _check_complete(neuron)
    for method in (neuron.run, neuron.rate):
        parameters = inspect.signature(method).parameters
        if "overwrite" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise RecipeError(
                "has no argument overwrite, which networks pass",
                where=method.__qualname__,
                remedy="add *, overwrite=False: True if the result may be written over the currents",
            )
    for own, inherited, remedy in _RULES:
        new, old = (next((cls for cls in neuron.__mro__ if name in vars(cls)), None) for name in (own, inherited))
        if new and old and new is not old and old is not Neuron and issubclass(new, old):
            raise RecipeError(
                f"defines {own} and inherits {inherited} from {old.__name__}, which follows another rule",
                where=neuron.__name__,
                remedy=remedy,
            )
    _check_free(NEURONS, _name(neuron), neuron)
    NEURONS[neuron.kind] = neuron


def _check_traced(part: type[Operation] | type[Activation], kin: dict[str, Any], name: str) -> None:
    """Check that the traced calls of an operation or activation are not taken, and that an operation is affine."""
    where, calls = f"{part.__name__}.traced_from", part.traced_from
    remedy = 'name the calls in a tuple, such as ("mylib::flip_channels",)'
    if not isinstance(calls, tuple) or not all(isinstance(call, str) for call in calls):
        raise RecipeError(f"is {calls!r}", where=where, remedy=remedy)
    taken = dict.fromkeys(TRACED, "the tracer")
    for known in (OPERATIONS, ACTIVATIONS):
        for key, found in known.items():
            if known is not kin or key != name:  # except an earlier part of the same name
                taken |= dict.fromkeys(found.traced_from, _place(found))
    for call in calls:
        if call in taken:
            raise RecipeError(
                f"the call {call!r} is taken by {taken[call]}", where=part.__name__, remedy="name another call"
            )
    if issubclass(part, Activation):
        return
    if name in _NODES:
        raise RecipeError(
            f"the name {name!r} is taken by the graph itself", where=part.__name__, remedy="choose another name"
        )
    if not calls:
        raise RecipeError("is empty, so no traced call becomes this operation", where=where, remedy=remedy)
    if not part.affine and not issubclass(part, OnNumbers):
        raise RecipeError(
            "is not affine: the time-mean of its output is not a function of the time-mean of its input",
            where=part.__name__,
            remedy="derive it from rheobase.graph.operations.OnNumbers",
        )


def _name(part: Any) -> Any:
    if issubclass(part, Value):
        return part.model_fields["kind"].default
    return getattr(part, "name" if issubclass(part, Operation) else "kind", None)


def _check_free(known: dict[str, Any], name: Any, part: Any) -> None:
    """Check that a name is an identifier and is not taken by another part."""
    if not isinstance(name, str) or not name.isidentifier():
        of_operation = isinstance(part, type) and issubclass(part, Operation)
        line = 'name = "my_operation"' if of_operation else 'kind: Literal["my_part"] = "my_part"'
        raise RecipeError("has no name", where=part.__name__, remedy=f"write {line}")
    if name in known and _place(known[name]) != _place(part):
        raise RecipeError(
            f"the name {name!r} is taken by {_place(known[name])}", where=_place(part), remedy="choose another name"
        )


def _place(part: Any) -> str:
    part = part if hasattr(part, "__qualname__") else type(part)
    return f"{part.__module__}.{part.__qualname__}"


def _check_complete(part: type) -> None:
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        raise RecipeError(
            f"does not define {', '.join(missing)}", where=part.__name__, remedy="define all abstract methods"
        )
