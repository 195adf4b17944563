"""Registration of parts and methods from outside the package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from rheobase.activations import ACTIVATIONS, Activation
from rheobase.core.errors import RecipeError, RheobaseError
from rheobase.graph.operations import OPERATIONS, Operation
from rheobase.graph.rewrites.alignment import OPERATION as ALIGN
from rheobase.graph.trace.builder import TRACED
from rheobase.methods.activation_part import ACTIVATION_PARTS, ActivationPart
from rheobase.methods.neuron_part import NEURON_PARTS, NeuronPart
from rheobase.methods.recipe import METHODS, published
from rheobase.network.protocol import PROTOCOLS, Protocol
from rheobase.neurons import NEURONS, Neuron
from rheobase.passes import PASSES, CalibrationPass

T = TypeVar("T", bound=Callable[..., Any])
_NODES = ("input", "site", "refused", ALIGN)


def register(part: T) -> T:
    """Register a pass, neuron, activation, protocol, operation or method of your own by its name.

    Recipes, files and the command line can then use that name.

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
    if isinstance(part, type) and issubclass(part, NeuronPart):
        _register_neuron(part)
    elif isinstance(part, type) and issubclass(part, tuple(_REGISTRIES)):
        _complete(part)
        known = next(known for base, known in _REGISTRIES.items() if issubclass(part, base))
        _put(known, _kind(part), part)
    elif isinstance(part, type) and issubclass(part, Operation | Activation):
        _complete(part)
        name = _check_operation(part) if issubclass(part, Operation) else _check_activation(part)
        registry: dict[str, Any] = OPERATIONS if issubclass(part, Operation) else ACTIVATIONS
        try:
            registry[name] = part()
        except RheobaseError:
            raise
        except TypeError as error:
            raise RecipeError(
                f"cannot be constructed without arguments ({error})",
                where=part.__name__,
                remedy="give every argument of its constructor a default",
            ) from None
    elif inspect.isfunction(part):
        needed = [name for name, p in inspect.signature(part).parameters.items() if p.default is p.empty]
        if needed:
            raise RecipeError(
                "has no default", where=f"{part.__name__} {needed[0]}", remedy="give every option a default"
            )
        _free(METHODS, part.__name__, part)
        return cast(T, published(part))
    else:
        raise RecipeError(
            "is not a pass, neuron, activation, protocol or operation, nor a function that returns a recipe",
            where=getattr(part, "__name__", repr(part)),
            remedy="derive it from CalibrationPass, NeuronPart, ActivationPart, Activation, Protocol or Operation; a "
            "Neuron is registered by the NeuronPart that builds it",
        )
    return part


_REGISTRIES: dict[type, dict[str, Any]] = {
    CalibrationPass: PASSES,
    ActivationPart: ACTIVATION_PARTS,
    Protocol: PROTOCOLS,
}


def _register_neuron(part: type[NeuronPart]) -> None:
    _complete(part)
    neuron = getattr(part, "builds", None)
    if not (isinstance(neuron, type) and issubclass(neuron, Neuron)):
        raise RecipeError("names no class of neurons", where=f"{part.__name__}.builds", remedy="set builds = MyNeuron")
    _complete(neuron)
    _check_overwrite(neuron.run)
    _check_overwrite(neuron.rate)
    _check_rules(neuron)
    kind = _kind(part)
    _free(NEURON_PARTS, kind, part)
    _put(NEURONS, getattr(neuron, "kind", None), neuron)
    _put(NEURON_PARTS, kind, part)


def _check_operation(operation: type[Operation]) -> str:
    """Check that an operation has a name and traced calls that are not taken, and is affine."""
    where, name = operation.__name__, getattr(operation, "name", None)
    if name in _NODES:
        raise RecipeError(f"the name {name!r} is taken by the graph itself", where=where, remedy="choose another name")
    _free({known: type(found) for known, found in OPERATIONS.items()}, name, operation, 'name = "my_operation"')
    if not operation.traced_from:
        raise RecipeError(
            "is empty, so no traced call becomes this operation",
            where=f"{where}.traced_from",
            remedy='name the calls in a tuple, such as ("mylib::flip_channels",)',
        )
    _check_calls(operation, OPERATIONS, name)
    if not operation.affine:
        raise RecipeError(
            "is not affine: the time-mean of its output is not a function of the time-mean of its input",
            where=where,
            remedy="register affine operations only",
        )
    return str(name)


def _check_activation(activation: type[Activation]) -> str:
    """Check that an activation has a name, and that its traced calls are not taken."""
    name = getattr(activation, "kind", None)
    _free({known: type(found) for known, found in ACTIVATIONS.items()}, name, activation, 'kind = "my_activation"')
    _check_calls(activation, ACTIVATIONS, name)
    return str(name)


def _check_calls(part: type[Operation] | type[Activation], kin: Mapping[str, Any], name: Any) -> None:
    """Check that the calls in ``traced_from`` are not taken, except by an earlier part of the same name."""
    calls = part.traced_from
    if not isinstance(calls, tuple) or not all(isinstance(call, str) for call in calls):
        raise RecipeError(
            f"is {calls!r}",
            where=f"{part.__name__}.traced_from",
            remedy='name the calls in a tuple, such as ("mylib::flip_channels",)',
        )
    taken = dict.fromkeys(TRACED, "the tracer")
    for known in (OPERATIONS, ACTIVATIONS):
        for key, found in known.items():
            if known is not kin or key != name:
                taken |= dict.fromkeys(found.traced_from, _place(type(found)))
    for call in calls:
        if call in taken:
            raise RecipeError(
                f"the call {call!r} is taken by {taken[call]}", where=part.__name__, remedy="name another call"
            )


def _kind(part: Any) -> Any:
    return part.model_fields["kind"].default


def _put(known: dict[str, Any], kind: Any, part: type) -> None:
    _free(known, kind, part)
    known[kind] = part


def _free(known: dict[str, Any], kind: Any, part: Any, remedy: str = 'kind: Literal["my_part"] = "my_part"') -> None:
    """Check that a name is an identifier and is not taken by another part."""
    if not isinstance(kind, str) or not kind.isidentifier():
        raise RecipeError("has no name", where=part.__name__, remedy=f"write {remedy}")
    there = known.get(kind)
    if there is not None and _place(there) != _place(part):
        raise RecipeError(
            f"the name {kind!r} is taken by {_place(there)}", where=_place(part), remedy="choose another name"
        )


def _place(part: Any) -> str:
    return f"{part.__module__}.{part.__qualname__}"


def _complete(part: type) -> None:
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        raise RecipeError(
            f"does not define {', '.join(missing)}", where=part.__name__, remedy="define all abstract methods"
        )


def _check_overwrite(method: Callable[..., Any]) -> None:
    """Check that a method accepts the argument ``overwrite``."""
    parameters = inspect.signature(method).parameters
    if "overwrite" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise RecipeError(
            "has no argument overwrite, which networks pass",
            where=method.__qualname__,
            remedy="add *, overwrite=False: True if the result may be written over the currents",
        )


_RULES = (
    # (method, method that must be redefined with it, remedy): the inherited one would follow another rule
    ("step", "run", "write run = Neuron.run, which repeats step"),
    ("step", "count", "define count(potential, threshold, sent) in place of step; MembraneNeuron has the step"),
    ("rate", "response", "define response too; return None if rate is not a staircase"),
)


def _check_rules(neuron: type[Neuron]) -> None:
    """Refuse a neuron that redefines a method but inherits one that follows the old rule."""
    for own, inherited, remedy in _RULES:
        owner = {name: _owner(neuron, name) for name in (own, inherited)}
        if owner[own] is None or owner[inherited] is None or owner[inherited] is Neuron:
            continue
        if owner[own] is not owner[inherited] and issubclass(owner[own], owner[inherited]):
            raise RecipeError(
                f"defines {own} and inherits {inherited} from {owner[inherited].__name__}, which follows another rule",
                where=neuron.__name__,
                remedy=remedy,
            )


def _owner(neuron: type[Neuron], name: str) -> Any:
    """The class that defines a method, or None."""
    return next((cls for cls in neuron.__mro__ if name in vars(cls)), None)
