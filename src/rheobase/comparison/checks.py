"""Checks of the arguments of a comparison, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from rheobase.comparison.images import Images
from rheobase.core.checks import check_positive, is_whole
from rheobase.core.errors import DataError, RecipeError
from rheobase.data.batches import check_logits
from rheobase.methods import Recipe
from rheobase.network.checks import check_input
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.training import Training

MAX_REPEATED = 0.01
"""Maximum fraction of images that may occur in another data set: published data sets contain some duplicates."""


def named(recipes: Sequence[Recipe] | Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Return the recipes by name.

    Raises:
        RecipeError: if there are no recipes, two have the same name, or an entry is not a recipe.
    """
    if isinstance(recipes, Recipe) or not isinstance(recipes, Mapping | Iterable):
        raise RecipeError.typed(
            f"is a {type(recipes).__name__}, not a list", where="recipes", remedy="give a list, such as [rb.FTBC()]"
        )
    pairs = list(recipes.items()) if isinstance(recipes, Mapping) else [(getattr(r, "name", ""), r) for r in recipes]
    if not pairs:
        raise RecipeError("is empty", where="recipes", remedy="give at least one recipe, such as rb.FTBC()")
    for _, recipe in pairs:
        if not isinstance(recipe, Recipe):
            raise RecipeError.typed(
                f"contains a {type(recipe).__name__}", where="recipes", remedy="give recipes, such as rb.FTBC()"
            )
    names = [name for name, _ in pairs]
    for method in names:
        check_name(method, "recipes")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(
            f"contains {twice!r} twice",
            where="recipes",
            remedy="give a mapping with other names: {'a': recipe}",
        )
    return dict(pairs)


def check_name(name: object, where: str) -> None:
    """Refuse a name that would break a table or a file.

    Raises:
        RecipeError: if the name is not a string, is empty, or has line breaks, control characters or lone surrogates.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise RecipeError(f"has the name {name!r}", where=where, remedy="use names of printable characters in one line")


def whole_numbers(values: Sequence[int], least: int, where: str, most: int) -> tuple[int, ...]:
    """Check whole numbers from ``least`` to ``most``.

    Raises:
        RecipeError: if a value is no such number or occurs twice, or if there are no values.
    """
    if not isinstance(values, Iterable):
        raise RecipeError(
            f"is {values!r}, not a list", where=where, remedy=f"give a list of whole numbers from {least}"
        )
    values = tuple(values)
    good = [int(v) for v in values if is_whole(v, least, most)]
    if not values or len(good) < len(values) or len(set(values)) < len(values):
        raise RecipeError(
            f"is {', '.join(map(repr, values)) or 'empty'}",
            where=where,
            remedy=f"give whole numbers from {least} to {most}, each once",
        )
    return tuple(good)


def check_budget(budget: Mapping[str, float] | None, validation: object) -> None:
    """Check the fields of a budget, and that validation images are given.

    Raises:
        RecipeError: if the budget is not a mapping, is empty, or has an unknown or non-positive field.
        DataError: if there are no validation images.
    """
    if budget is None:
        return
    if not isinstance(budget, Mapping):
        raise RecipeError(f"is {budget!r}", where="budget", remedy='give a mapping, such as {"latency": 8}')
    unknown = [name for name in budget if name not in ("latency", "energy")]
    if unknown or not budget:
        raise RecipeError(
            f"has the unknown field {unknown[0]!r}" if unknown else "is empty",
            where="budget",
            remedy="give latency (time-steps), energy (a fraction of the analog network's), or both",
        )
    for name, value in budget.items():
        check_positive(value, f"budget {name}")
    if validation is None:
        raise DataError(
            "are missing, but the budget chooses a method on them",
            where="validation images",
            remedy="give validation=... (--validation), images that are neither calibration nor test images",
        )


def check_apart(parts: Mapping[str, Images | None]) -> list[str]:
    """Return notes on images that occur in two of the data sets.

    Raises:
        DataError: if more than :data:`MAX_REPEATED` of a data set's images do.
    """
    notes = []
    for name, other in (("test", "calibration"), ("test", "validation"), ("validation", "calibration")):
        part, known = parts[name], parts[other]
        if part is None or known is None:
            continue
        found = sum(image in known.each for image in part.hashes)
        repeated = f"{found} of {len(part.hashes)} occur among the {other} images"
        if found > MAX_REPEATED * len(part.hashes):
            raise DataError(
                f"{repeated}, so that the measured accuracy would be too high",
                where=f"{name} images",
                remedy="split the data so that no image is in two of the data sets",
            )
        if found:
            notes.append(f"{name} images: {repeated}")
    return notes


def check_fits(network: SpikingNetwork, part: str, data: Images) -> None:
    """Check that images and labels fit the network.

    Raises:
        DataError: if the shape, the dtype or a label does not fit.
    """
    try:
        check_input(network.graph, data.images[:1])
    except DataError as error:
        raise DataError(error.reason, where=f"{part} {error.where}", remedy=error.remedy) from None
    if data.labels is None:
        return
    with torch.inference_mode():
        logits = network.ann(data.images[:1].to(network.graph.device))
    check_logits(logits, data.labels, f"{part} data")


def check_training(training: Training | None, recipes: Mapping[str, Recipe], quantised: bool) -> None:
    """Check that settings for the training have an effect.

    Raises:
        RecipeError: if nothing would be trained, or the settings are not a :class:`rheobase.Training`.
    """
    if training is None:
        return
    if not isinstance(training, Training):
        raise RecipeError.typed(
            f"is a {type(training).__name__}",
            where="training",
            remedy="give rb.Training(epochs=..., learning_rate=...)",
        )
    if quantised:
        reason = "has no effect on a network that is already quantised"
    elif all(recipe.activation is None for recipe in recipes.values()):
        reason = "has no effect: no recipe has an activation to train"
    else:
        return
    raise RecipeError(reason, where="training", remedy="leave it out")
