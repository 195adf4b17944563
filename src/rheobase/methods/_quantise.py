"""Quantised activations for a trained ReLU network, before a few epochs of training."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from rheobase.core.checks import check_choice
from rheobase.core.errors import RecipeError
from rheobase.data import Batches, CalibrationData
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES
from rheobase.graph import fold_batch_norm
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.graph.sites import site_table
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods._convert import class_notes, traced
from rheobase.methods.activation_part import ActivationPart
from rheobase.methods.recipe import Recipe


def quantise(
    model: nn.Module,
    recipe: Recipe,
    *,
    calibration: Batches | Dataset[Any],
    example: Tensor | None = None,
    max_pool: MaxPool = "refuse",
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    seed: int = 0,
) -> TrainableGraph:
    """Replace every activation of a trained network by the recipe's quantised activation, with θ fitted to data.

    By default, the initial θ of a site minimises the squared error of the quantised activation over the calibration
    images, so a trained ReLU network needs only a few epochs of training. Learned levels are also initialised from
    the images.

    Args:
        model: a trained network; not changed. Sites that are already quantised, such as those of a network returned by
            this function, keep their θ.
        recipe: a recipe whose activation has levels, such as ``rb.Pascal(levels=4)``, or learns them, such as
            ``rb.QAC(mean_timesteps=3)``.
        calibration: training images, as for :func:`rheobase.convert`.
        example: a batch of the input's shape, to trace the network; default: the first calibration images.
        max_pool: as for :func:`rheobase.convert`.
        num_calibration_images: size of the random sample of them to use, drawn by the seed.
        seed: seed of the sample.

    Returns:
        A module to train, and then to convert with the same recipe. ``notes`` lists what was rewritten; dropout is
        removed.

    Raises:
        RecipeError: if the recipe has no quantised activation, or its levels do not fit the sites.
        TraceError: if operations of the network cannot become spiking.
        CalibrationError: if a site is never active on the calibration images.

    Warns:
        RheobaseWarning: if labels show that classes are missing among the calibration images.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> net = rb.quantise(zoo.resnet20(), rb.Pascal(levels=4), calibration=torch.rand(16, 3, 32, 32))
        >>> net(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    activation = _activation(recipe)
    check_choice(max_pool, MaxPool, "max_pool")
    data = CalibrationData.pool(calibration, num_calibration_images=num_calibration_images, seed=seed)
    if isinstance(model, TrainableGraph):
        graph, notes = model.to_graph(), list(model.notes)
    else:
        graph, notes = traced(model, data.fit, example, max_pool)
    known = {s.name: graph.tensor(s.parameters["threshold"]) for s in graph.sites if "threshold" in s.parameters}
    folded, _ = fold_batch_norm(graph)
    modules = activation.modules(folded, data.fit, site_table(graph), known)
    return TrainableGraph(graph, modules, [*notes, *class_notes(data, graph)], activation.constraint).to(graph.device)


def _activation(recipe: Recipe) -> ActivationPart:
    if not isinstance(recipe, Recipe):
        raise RecipeError.typed(
            f"is a {type(recipe).__name__}", where="recipe", remedy="pass a recipe such as rb.Pascal(4)"
        )
    if recipe.activation is None:
        raise RecipeError(
            f"{recipe.name} has no quantised activation",
            where="recipe",
            remedy="use a method that trains one: rb.Pascal(levels=4), rb.QVM(levels=4), rb.QAC(mean_timesteps=3)",
        )
    return recipe.activation
