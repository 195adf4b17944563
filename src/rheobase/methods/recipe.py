"""A recipe: neuron, time-steps and calibration passes, as one frozen value that YAML and the command line share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, ParamSpec, get_type_hints

import yaml
from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, validate_call

from rheobase.core.errors import RecipeError
from rheobase.core.values import Value, allows, explained
from rheobase.core.yaml_text import parse_yaml, read_yaml
from rheobase.graph import Graph
from rheobase.graph.sites import Site
from rheobase.methods.activation_part import ACTIVATION_PARTS, ActivationPart
from rheobase.methods.neuron_part import NEURON_PARTS, IntegrateFireNeuron, NeuronPart
from rheobase.network import Protocol
from rheobase.network.protocol import PROTOCOLS
from rheobase.neurons import Neuron
from rheobase.passes import PASSES, CalibrationPass
from rheobase.signals import Alignment


def _known_by(kinds: Mapping[str, type[Value]]) -> BeforeValidator:
    """Build a part from plain values by its ``kind``; refuse a part that is not registered."""

    def look_up(value: Any) -> Any:
        if isinstance(value, Mapping):
            kind = value.get("kind")
            if not isinstance(kind, str) or kind not in kinds:
                raise ValueError(
                    f"kind {kind!r} is unknown; use one of {', '.join(kinds)}, or import the module that registers it"
                )
            return kinds[kind].model_validate(value)
        if isinstance(value, Value) and kinds.get(getattr(value, "kind", "")) is not type(value):
            raise ValueError(f"the class {type(value).__name__} is not registered; put @rb.register before it")
        return value

    return BeforeValidator(look_up)


AnyNeuron = Annotated[SerializeAsAny[NeuronPart], _known_by(NEURON_PARTS)]
AnyPass = Annotated[SerializeAsAny[CalibrationPass], _known_by(PASSES)]
AnyActivation = Annotated[SerializeAsAny[ActivationPart], _known_by(ACTIVATION_PARTS)]
AnyProtocol = Annotated[SerializeAsAny[Protocol], _known_by(PROTOCOLS)]


class Recipe(Value):
    """How to convert a network, as a value: equal recipes convert alike. It holds no data, device or network.

    Args:
        name: name of the method, for tables.
        timesteps: T; None if the levels of the network determine it.
        neuron: the neurons of every site.
        coding: neurons that turn the image into spikes, which the first layers then read; None: these read the image
            itself at every step.
        activation: the activation that the analog network was trained with at every site; None for any.
        alignment: how a spike train is adapted where T changes from site to site; None: by its time-mean. Only for
            streaming neurons.
        protocol: the phases in which every site runs; None: one phase of T steps.
        calibration: passes, run in this order.

    Example:
        >>> import rheobase as rb
        >>> recipe = rb.RateCoding(timesteps=8)
        >>> rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
        True
    """

    place: ClassVar[str | None] = "recipe"

    name: str = Field(min_length=1)
    timesteps: Annotated[int, Field(ge=1, strict=True)] | None
    neuron: AnyNeuron = IntegrateFireNeuron()
    coding: AnyNeuron | None = None
    activation: AnyActivation | None = None
    alignment: Alignment | None = None
    protocol: AnyProtocol | None = None
    calibration: tuple[AnyPass, ...] = ()

    def neurons_at(self, sites: Sequence[Site], graph: Graph) -> list[Neuron]:
        """The neurons of every site of an analog network, the first of which is the image if it is coded."""
        parts = [self.neuron if self.coding is None or site.index else self.coding for site in sites]
        return [part.at(site, graph) for part, site in zip(parts, sites, strict=True)]

    def with_timesteps(self, timesteps: int) -> Recipe:
        """The same method for another T: of the recipe and of its neurons.

        If the levels of the trained network determine T, they become L = T (PASCAL, QVM) or have a mean of T (QAC).
        Levels that were given stay, and QVM then runs for T ≠ L.

        Raises:
            RecipeError: if T or the levels were given site by site, which one T for all would overwrite; or if levels
                were given and determine T of the neurons.

        Example:
            >>> import rheobase as rb
            >>> rb.FTBC(timesteps=8).with_timesteps(4) == rb.FTBC(timesteps=4)
            True
            >>> rb.Pascal().with_timesteps(4) == rb.Pascal(levels=4)
            True
        """
        if self.coding is not None:
            coded = self.replace(coding=None).with_timesteps(timesteps)
            return coded.replace(coding=self.coding.with_timesteps(timesteps, always=True))
        if self.activation is None or self.timesteps is not None:
            return self.replace(timesteps=timesteps, neuron=self.neuron.with_timesteps(timesteps))
        activation = self.activation.with_timesteps(timesteps)
        differs = activation.timesteps not in (None, timesteps)
        neuron = self.neuron.with_timesteps(timesteps, always=differs)
        return self.replace(timesteps=timesteps if differs else None, neuron=neuron, activation=activation)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """As YAML, with every default written out."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """From all fields, or from ``{"method": "RateCoding", ...options}``.

        Raises:
            RecipeError: if ``values`` is not a mapping, or naming every unknown or invalid field.
        """
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise RecipeError("is not a mapping of fields", where="recipe", remedy="begin with `method: RateCoding`")
        if "method" not in values:
            return cls(**values)
        return cls.from_method(**values)

    @classmethod
    def from_method(cls, method: str, timesteps: int | None = None, **options: Any) -> Recipe:
        """The recipe of a published method with options, for ``timesteps`` (:meth:`with_timesteps`) if given.

        Raises:
            RecipeError: if the method or an option is unknown, or the method cannot run for that T.

        Example:
            >>> import rheobase as rb
            >>> rb.Recipe.from_method("QAC", timesteps=3) == rb.QAC(mean_timesteps=3)
            True
        """
        if not isinstance(method, str) or method not in METHODS:
            raise RecipeError(f"{method!r} is unknown", where="method", remedy=f"use one of {', '.join(METHODS)}")
        if timesteps is None:
            return METHODS[method](**options)
        if "timesteps" in inspect.signature(METHODS[method]).parameters:
            return METHODS[method](timesteps=timesteps, **options)
        return METHODS[method](**options).with_timesteps(timesteps)

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """From YAML text, as :meth:`from_dict`."""
        return cls.from_dict(parse_yaml(text, "recipe"))

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """From a YAML file, as :meth:`from_dict`."""
        return cls.from_dict(read_yaml(Path(path)))


METHODS: dict[str, Callable[..., Recipe]] = {}
"""Published methods by name: functions that return a recipe."""

P = ParamSpec("P")


def published(method: Callable[P, Recipe]) -> Callable[P, Recipe]:
    """Register a method by its function's name; validate its options, and raise a RecipeError for an unknown one."""
    validated, hints = validate_call(method), get_type_hints(method, include_extras=True)

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Recipe:
        for name, value in (*zip(hints, args, strict=False), *kwargs.items()):
            if name in hints and not allows(hints[name], value):
                known = ", ".join(inspect.signature(method).parameters)
                reason = f"{name}: is a boolean (got {value!r})"
                raise RecipeError(reason, where=method.__name__, remedy=f"use the known fields: {known}")
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            raise explained(error, method.__name__, inspect.signature(method).parameters) from None

    METHODS[method.__name__] = checked
    return checked
