"""From a trained network and a recipe to a calibrated spiking network."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import get_args

import torch
from torch import Tensor, nn

from rheobase.batches import Batches
from rheobase.calibrate import CalibrationData
from rheobase.calibrate.passes import site_errors
from rheobase.errors import RecipeError
from rheobase.graph import Graph, capture, fold_batch_norm, replace_max_pool
from rheobase.graph.maxpool import MaxPool
from rheobase.graph.trace import relative_difference
from rheobase.network import Provenance, SpikingNetwork
from rheobase.recipes import Recipe
from rheobase.sites import site_table


def convert(
    model: nn.Module,
    recipe: Recipe,
    *,
    calibration: Batches,
    example: Tensor | None = None,
    max_pool: MaxPool = "refuse",
    limit: int = 1024,
    seed: int = 0,
    progress: bool = False,
) -> SpikingNetwork:
    """Convert a trained network into a spiking one.

    Args:
        model: a trained network of one float tensor [B, ...]; neither it nor its training mode is changed. A spiking
            network stands for the analog network it was made from, to be converted anew (for another T, say).
        recipe: the method, e.g. ``rb.RateCoding(timesteps=8)``.
        calibration: training images (never test images): a tensor [N, ...], a pair (images, labels), or a loader.
        example: a batch that shows the input's size; default: the first calibration images.
        max_pool: what max-pooling becomes: ``"gate"``, ``"average"``, or ``"refuse"``.
        limit: how many calibration images to read at most; a fifth of them is held out to measure each pass.
        seed: of the split into fitted and held-out images, and of whatever a pass samples.
        progress: show a progress bar, with the time left, for what takes long.

    Returns:
        The network; ``provenance.passes`` tells what each pass changed and the error of every site after it.

    Raises:
        TraceError: if the network has parts that cannot become spiking; all are listed, each with a remedy.
        ModelError: if a weight is NaN or infinite.
        DataError: if the calibration images do not fit.
        CalibrationError: if an activation is NaN or infinite on them (naming the first such site).
        RecipeError: if ``recipe`` is not a recipe.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=torch.rand(16, 3, 32, 32))
        >>> len(snn.sites)
        19
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(
            f"is a {type(recipe).__name__}",
            where="recipe",
            remedy="pass a recipe such as rb.RateCoding(timesteps=8)",
        )
    if max_pool not in get_args(MaxPool):
        raise RecipeError(f"is {max_pool!r}", where="max_pool", remedy=f"use one of {', '.join(get_args(MaxPool))}")
    if limit < 1:
        raise RecipeError(f"is {limit}", where="limit", remedy="read at least one calibration image")
    data = CalibrationData.pool(calibration, limit=limit, seed=seed)
    if isinstance(model, SpikingNetwork):
        if max_pool != "refuse" or example is not None:
            raise RecipeError(
                "have no effect on a network that is converted already",
                where="max_pool and example",
                remedy="leave them out, or convert the original network",
            )
        model.check_images(data.fit[:1])
        notes: list[str] = []
        graph = model.ann.replace()
    else:
        graph, notes = _graph(model, data.fit, example, max_pool)
    provenance = Provenance(
        seed=seed,
        versions=versions(),
        calibration={
            "images": len(data.fit) + len(data.held_out),
            "held_out": len(data.held_out),
            "sha256": data.digest,
            "complete": data.complete,
        },
        notes=notes,
    )
    if not data.complete:
        provenance.notes.append(f"calibration data: only the first {limit} images were read (limit={limit})")
    if len(data.held_out) == 0:
        provenance.notes.append("calibration data: fewer than five images, none held out; site errors are not measured")

    neurons = [recipe.neuron.build(site) for site in site_table(graph)]
    network = SpikingNetwork(graph, graph, neurons, recipe.timesteps, recipe.to_dict(), provenance)
    network.to(graph.device)
    before = None
    for calibration_pass in recipe.calibration:
        changes = calibration_pass.apply(network, data, progress)
        after = site_errors(network, data.held_out)
        provenance.passes.append(
            {
                "pass": calibration_pass.model_dump(mode="json"),
                "changed": changes.changed,
                "notes": changes.notes,
                "history": changes.history,
                "error_before": before,
                "error_after": after,
            }
        )
        before = after
    return network


def _graph(model: nn.Module, images: Tensor, example: Tensor | None, max_pool: MaxPool) -> tuple[Graph, list[str]]:
    """The folded graph of a network, and what was rewritten on the way."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    found = replace_max_pool(capture(model, (images[:4] if example is None else example).to(device)), max_pool)
    found.raise_if_refused()
    graph, folded = fold_batch_norm(found.graph)
    notes = [*map(str, found.rewrites), *folded]
    if max_pool == "average" and any("average pooling" in note.text for note in found.rewrites):
        notes.append(_cost_of_average(model, graph, images[:32].to(device)))
    return graph, notes


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    return {
        "rheobase": version("rheobase"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
    }


@torch.inference_mode()
def _cost_of_average(model: nn.Module, graph: nn.Module, images: Tensor) -> str:
    training = model.training
    try:
        original = model.eval()(images)
    finally:
        model.train(training)
    replaced = graph(images)
    agree = float((original.argmax(1) == replaced.argmax(1)).float().mean())
    return (
        f"max-pooling by average: on {len(images)} calibration images the analog network's logits change by up to "
        f"{relative_difference(replaced, original):.2g} of their largest, and {agree:.0%} of the predictions stay"
    )
