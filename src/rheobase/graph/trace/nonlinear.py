"""What the caller chose for operations that are not affine and have no neurons: refused, or computed on numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Literal

from rheobase.core.errors import RecipeError
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS, OnNumbers
from rheobase.graph.operations.numbers import function_of
from rheobase.graph.trace.call import Note

Nonlinear = Literal["refuse", "numbers", "neurons"] | Collection[str]
"""Refuse them; compute all of them on numbers, or those in the modules of these paths; or functions of one variable by
neurons, as sums of clips (:func:`rheobase.graph.rewrites.pieces.as_pieces`), and refuse the others."""
ON_NUMBERS = 'compute it on numbers: nonlinear="numbers"'
"""A remedy, as an imperative."""


def check_nonlinear(chosen: Any, modules: Collection[str] | None = None) -> None:
    """Refuse any other choice, and paths that are not among ``modules``.

    Raises:
        RecipeError: naming the value.
    """
    remedy = 'use "refuse", "numbers", "neurons" or a list of module paths, such as ["features.3"]'
    if isinstance(chosen, str):
        if chosen not in ("refuse", "numbers", "neurons"):
            raise RecipeError(f"is {chosen!r}", where="nonlinear", remedy=remedy)
        return
    if not isinstance(chosen, Collection) or not chosen or not all(isinstance(path, str) for path in chosen):
        raise RecipeError.typed(f"is {chosen!r}", where="nonlinear", remedy=remedy)
    unknown = [path for path in chosen if modules is not None and path not in modules]
    if unknown:
        raise RecipeError(f"{unknown[0]!r} is no module of the network", where="nonlinear", remedy=remedy)


def allows(chosen: Nonlinear, path: str) -> bool:
    """True if the operations of the module with this path may be computed on numbers."""
    if isinstance(chosen, str):
        return chosen != "refuse"
    return any(path == one or path.startswith(f"{one}.") for one in chosen)


def on_numbers(nodes: Iterable[Node]) -> list[Node]:
    """The nodes that compute on numbers."""
    return [node for node in nodes if isinstance(OPERATIONS.get(node.operation), OnNumbers)]


def notes_on_numbers(nodes: Iterable[Node]) -> list[Note]:
    """A note on every node that computes on numbers."""
    text = "computed on numbers at every step, from the mean of its input so far"
    return [Note(node.origin, f"{function_of(node)}: {text}") for node in on_numbers(nodes)]
