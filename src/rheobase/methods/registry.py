"""Parts and methods from outside the package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from rheobase.activations import ACTIVATIONS, Activation
from rheobase.core.errors import RecipeError, RheobaseError
from rheobase.graph.operations import OPERATIONS, Operation
from rheobase.graph.rewrites.alignment import OPERATION as ALIGN
from rheobase.graph.trace.activations import TRACED
from rheobase.graph.trace.no_effect import NO_EFFECT
from rheobase.methods.activation_part import ACTIVATION_PARTS, ActivationPart
from rheobase.methods.neuron_part import NEURON_PARTS, NeuronPart
from rheobase.methods.recipe import METHODS, published
from rheobase.network.protocol import PROTOCOLS, Protocol
from rheobase.neurons import NEURONS, Neuron
from rheobase.passes import PASSES, CalibrationPass

T = TypeVar("T", bound=Callable[..., Any])
_NODES = ("input", "site", "refused", ALIGN)


def register(part: T) -> T:
    """Make a pass, a neuron, an activation, a protocol or a method of your own known by its name.

    Recipes, files and the command line then know it.

    Use it as a decorator. It runs when the module is imported, so whoever reads a recipe or a network with the part
    imports the module first (``rheobase --import my_module ...``). The same class registered again, in a notebook,
    replaces the earlier one.

    Args:
        part: a :class:`rheobase.passes.CalibrationPass`; a :class:`rheobase.methods.NeuronPart`, with the neurons
            that it ``builds``; a :class:`rheobase.methods.ActivationPart`; a :class:`rheobase.network.Protocol`; a
            :class:`rheobase.graph.operations.Operation`; a :class:`rheobase.activations.Activation`; or a function that
            returns a recipe, whose arguments all have defaults.

    Returns:
        The class as it is; the function with its options validated.

    Raises:
        RecipeError: if the name is missing or taken, or the class could not do its work.

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
            raise RecipeError(f"cannot be made without arguments ({error})", where=part.__name__) from None
    elif inspect.isfunction(part):
        needed = [name for name, p in inspect.signature(part).parameters.items() if p.default is p.empty]
        if needed:
            raise RecipeError("has no default", where=f"{part.__name__} {needed[0]}", remedy="give every option one")
        _free(METHODS, part.__name__, part)
        return cast(T, published(part))
    else:
        raise RecipeError(
            "is no pass, neuron, activation, protocol or operation, and no function that returns a recipe",
            where=getattr(part, "__name__", repr(part)),
            remedy="derive it from CalibrationPass, NeuronPart, ActivationPart, Activation, Protocol or Operation; a "
            "Neuron is registered by the part that builds it",
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
        raise RecipeError("does not say which neurons", where=f"{part.__name__}.builds", remedy="builds = MyNeuron")
    _complete(neuron)
    _check_overwrite(neuron.run)
    _check_overwrite(neuron.rate)
    _check_rules(neuron)
    kind = _kind(part)
    _free(NEURON_PARTS, kind, part)
    _put(NEURONS, getattr(neuron, "kind", None), neuron)
    _put(NEURON_PARTS, kind, part)


def _check_operation(operation: type[Operation]) -> str:
    """See that an operation has a name and torch calls of its own, and that networks can run it."""
    where, name = operation.__name__, getattr(operation, "name", None)
    if name in _NODES:
        raise RecipeError(f"the name {name!r} is taken by the graph itself", where=where, remedy="choose another")
    _free({known: type(found) for known, found in OPERATIONS.items()}, name, operation, 'name = "my_operation"')
    if not operation.traced_from:
        raise RecipeError(
            "is empty: no torch call would become this operation",
            where=f"{where}.traced_from",
            remedy='name the calls in a tuple, such as ("mylib::flip_channels",)',
        )
    _check_calls(operation, OPERATIONS, name)
    if not operation.affine:
        raise RecipeError(
            "is not affine, and a spike train has no time-mean through it",
            where=where,
            remedy="register affine operations only",
        )
    return str(name)


def _check_activation(activation: type[Activation]) -> str:
    """See that an activation has a name, and calls of its own if any."""
    name = getattr(activation, "kind", None)
    _free({known: type(found) for known, found in ACTIVATIONS.items()}, name, activation, 'kind = "my_activation"')
    _check_calls(activation, ACTIVATIONS, name)
    return str(name)


def _check_calls(part: type[Operation] | type[Activation], kin: Mapping[str, Any], name: Any) -> None:
    """See that ``traced_from`` names calls that nothing else is traced from; another of the same name may have them."""
    calls = part.traced_from
    if not isinstance(calls, tuple) or not all(isinstance(call, str) for call in calls):
        raise RecipeError(
            f"is {calls!r}",
            where=f"{part.__name__}.traced_from",
            remedy='name the calls in a tuple, such as ("mylib::flip_channels",)',
        )
    taken = dict.fromkeys((*TRACED, *NO_EFFECT), "the tracer")
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
    """See that a name is one, and not that of something else."""
    if not isinstance(kind, str) or not kind.isidentifier():
        raise RecipeError("has no name to be called by in files", where=part.__name__, remedy=remedy)
    there = known.get(kind)
    if there is not None and _place(there) != _place(part):
        raise RecipeError(f"the name {kind!r} is taken by {_place(there)}", where=_place(part), remedy="choose another")


def _place(part: Any) -> str:
    return f"{part.__module__}.{part.__qualname__}"


def _complete(part: type) -> None:
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        raise RecipeError(f"does not define {', '.join(missing)}", where=part.__name__)


def _check_overwrite(method: Callable[..., Any]) -> None:
    """See that a method takes what networks pass to it."""
    parameters = inspect.signature(method).parameters
    if "overwrite" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise RecipeError(
            "has no argument overwrite, which networks pass",
            where=method.__qualname__,
            remedy="add *, overwrite=False: whether the result may be written over the currents",
        )


_RULES = (
    # what a class that redefines the first must redefine too, because it would say something else
    ("step", "run", "run = Neuron.run repeats step"),
    ("step", "count", "give the rule as count(potential, threshold, sent); MembraneNeuron has the step"),
    ("rate", "response", "define response too; return None if rate is no staircase"),
)


def _check_rules(neuron: type[Neuron]) -> None:
    """See that what a neuron inherits says the same as what it defines."""
    for own, inherited, remedy in _RULES:
        owner = {name: _owner(neuron, name) for name in (own, inherited)}
        if owner[own] is None or owner[inherited] is None or owner[inherited] is Neuron:
            continue
        if owner[own] is not owner[inherited] and issubclass(owner[own], owner[inherited]):
            raise RecipeError(
                f"has a {own} of its own and inherits {inherited} from {owner[inherited].__name__}, which has another "
                "rule",
                where=neuron.__name__,
                remedy=remedy,
            )


def _owner(neuron: type[Neuron], name: str) -> Any:
    """The class that defines a method, or None."""
    return next((cls for cls in neuron.__mro__ if name in vars(cls)), None)
