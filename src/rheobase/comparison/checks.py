"""Checks of the arguments of a comparison, before anything runs; :func:`rheobase.compare` lists their errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from rheobase.comparison.images import Images
from rheobase.core.checks import is_whole
from rheobase.core.errors import DataError, RecipeError
from rheobase.methods import Recipe
from rheobase.network.checks import check_input
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.tasks import Task
from rheobase.training import Training

MAX_REPEATED = 0.01
"""Maximum fraction of images that may occur in another data set: published data sets contain some duplicates."""


def by_name(recipes: Sequence[Recipe] | Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Return the recipes by name; refuse no recipe, other objects, and names that occur twice."""
    if isinstance(recipes, Recipe) or not isinstance(recipes, Iterable):
        raise RecipeError.typed(
            f"is a {type(recipes).__name__}, not a list", where="recipes", remedy="give a list, such as [rb.FTBC()]"
        )
    pairs = list(recipes.items()) if isinstance(recipes, Mapping) else [(getattr(r, "name", ""), r) for r in recipes]
    if not pairs:
        raise RecipeError("is empty", where="recipes", remedy="give at least one recipe, such as rb.FTBC()")
    found: dict[str, Recipe] = {}
    for name, recipe in pairs:
        if not isinstance(recipe, Recipe):
            raise RecipeError.typed(
                f"contains a {type(recipe).__name__}", where="recipes", remedy="give recipes, such as rb.FTBC()"
            )
        check_name(name, "recipes")
        if name in found:
            raise RecipeError(
                f"contains {name!r} twice", where="recipes", remedy="give a mapping with other names: {'a': recipe}"
            )
        found[name] = recipe
    return found


def check_name(name: object, where: str) -> None:
    """Refuse a name that would break a table or a file, such as one with line breaks or lone surrogates."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise RecipeError(f"has the name {name!r}", where=where, remedy="use names of printable characters in one line")


def whole_numbers(values: Sequence[int], least: int, where: str, most: int) -> tuple[int, ...]:
    """Return whole numbers from ``least`` to ``most``; refuse other values, none, and one that occurs twice."""
    given = tuple(values) if isinstance(values, Iterable) else None
    if not given or not all(is_whole(value, least, most) for value in given) or len(set(given)) < len(given):
        shown = values if given is None else ", ".join(map(repr, given)) or "empty"
        remedy = f"give a list of whole numbers from {least} to {most}, each once"
        raise RecipeError(f"is {shown}", where=where, remedy=remedy)
    return tuple(map(int, given))


def check_validation(labelled: bool | None) -> None:
    """Check that there are validation images (None: there are none) with labels, to choose by."""
    if not labelled:
        raise DataError(
            f"{'are missing' if labelled is None else 'have no labels'}, but a method is chosen by its score on them",
            where="validation images",
            remedy="give validation=... (--validation): images with labels, none of them in the other data sets",
        )


def check_apart(parts: Mapping[str, Images]) -> list[str]:
    """Return notes on images that occur in two of the data sets; refuse more than :data:`MAX_REPEATED` of a set's."""
    notes = []
    for name, other in combinations([name for name in ("test", "validation", "calibration") if name in parts], 2):
        part, known = parts[name].hashes, set(parts[other].hashes)
        found = sum(image in known for image in part)
        repeated = f"{found} of {len(part)} occur among the {other} images"
        if found > MAX_REPEATED * len(part):
            raise DataError(
                f"{repeated}, so that the measured accuracy would be too high",
                where=f"{name} images",
                remedy="split the data so that no image is in two of the data sets",
            )
        if found:
            notes.append(f"{name} images: {repeated}")
    return notes


def check_fits(network: SpikingNetwork, part: str, data: Images, task: Task) -> None:
    """Check that images and labels fit the network."""
    images, labels = data.first
    try:
        check_input(network.graph, images[:1])
    except DataError as error:
        raise DataError(error.reason, where=f"{part} {error.where}", remedy=error.remedy) from None
    if labels is not None:
        task.check(network.ann.output_shape, labels, f"{part} data")


def check_training(training: Training | None, recipes: Mapping[str, Recipe], quantised: bool) -> None:
    """Check that settings for the training have an effect."""
    if training is None:
        return
    if not isinstance(training, Training):
        raise RecipeError.typed(
            f"is a {type(training).__name__}",
            where="training",
            remedy="give rb.Training(epochs=..., learning_rate=...)",
        )
    if quantised or all(recipe.activation is None for recipe in recipes.values()):
        why = "the network is already quantised" if quantised else "no recipe has an activation to train"
        raise RecipeError(f"has no effect: {why}", where="training", remedy="leave it out")
