"""Conversion within a budget: time-steps and magnitude chosen on held-out calibration images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset

from rheobase.comparison._compare import traced_once
from rheobase.comparison.budget import Candidate, Choice, check_limits, choose
from rheobase.comparison.checks import check_fits, whole_numbers
from rheobase.comparison.images import Images
from rheobase.comparison.runner import measured
from rheobase.core.checks import check_choice, check_whole
from rheobase.core.devices import find_device
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.progress import track
from rheobase.core.results import Column, Result, Table, plain_values
from rheobase.core.seeds import check_seed, generator
from rheobase.data import Batches
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES, RandomSample, sample
from rheobase.graph.rewrites.linear_sites import Sites, place_sites
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.graph.sites import site_table
from rheobase.graph.trace.nonlinear import Nonlinear
from rheobase.measure._energy import COUNTED, GradedSpikes
from rheobase.measure._latency import latency
from rheobase.methods import Graded, Recipe
from rheobase.methods._convert import convert
from rheobase.network.spiking_network import MAX_TIMESTEPS, SpikingNetwork
from rheobase.neurons.graded import MAX_MAGNITUDE
from rheobase.neurons.response import Alphabet
from rheobase.tasks import TASKS, TaskName, task_for

HELD_OUT = 4
"""One of this many calibration images is held out to choose by."""


@dataclass(frozen=True)
class BudgetedConversion(Result):
    """A network within a budget, and everything that was tried for it.

    Attributes:
        network: the chosen network.
        choice: the budget, the chosen method and T, and why.
        rows: one candidate for each T and magnitude that could fit, in the order in which they were tried.
        images: number of held-out images on which the candidates were measured.
        graded_spikes: how the energy counts spikes of a larger magnitude than 1.
        task: name of the task.
    """

    network: SpikingNetwork
    choice: Choice
    rows: tuple[Candidate, ...]
    images: int
    graded_spikes: GradedSpikes
    task: TaskName = "classification"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the network."""
        names = ("choice", "rows", "images", "graded_spikes", "task")
        return {name: plain_values(getattr(self, name)) for name in names}

    def table(self) -> Table:
        """One row for each candidate."""

        def fits(row: Candidate) -> str:
            if (row.method, row.timesteps) == (self.choice.method, self.choice.timesteps):
                return "chosen"
            over = row.exceeded(self.choice.budget)
            return f"no: {', '.join(over)}" if over else "yes"

        task, measure = TASKS[self.task], self.rows[0].measure
        scored = measure is not None and measure in task.measures
        columns = (
            Column("method", "method", align="left"),
            Column("T", "timesteps"),
            Column("alphabet", "alphabet", align="left"),
            Column("bits / spike", "bits", "{:.2f}"),
            *((Column(measure.heading, "value", measure.form, scale=measure.scale),) if measure and scored else ()),
            *((Column("agreement with ANN", "agreement", "{:.2f} %", scale=100),) if task.decides else ()),
            *((Column("output error", "output_error", "{:.3f}"),) if not task.decides else ()),
            Column("latency (steps)", "latency", "{:.0f}"),
            Column("energy / ANN", "energy", "{:.3f}"),
            Column("fits", fits, align="left"),
        )
        return Table(columns, self.rows, f"Candidates, on {self.images} held-out calibration images")

    def summary(self) -> str:
        """The choice, and how the energy is counted."""
        return f"{self.choice.reason} For the energy, {COUNTED[self.graded_spikes]}."


def convert_within_budget(
    model: nn.Module,
    budget: Mapping[str, float],
    *,
    calibration: Batches | Dataset[Any],
    method: Callable[..., Recipe] = Graded,
    timesteps: Sequence[int] = (1, 2, 4, 8),
    magnitudes: Sequence[int] = (1, 2, 4),
    graded_spikes: GradedSpikes = "additions",
    energy_images: int = 64,
    output: str | int | None = None,
    max_pool: MaxPool = "refuse",
    nonlinear: Nonlinear = "refuse",
    sites: Sites = "activations",
    task: TaskName | None = None,
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> BudgetedConversion:
    """Convert a network with the time-steps T and the magnitude m that are the best within a budget.

    Every (T, m) that can fit is converted with three quarters of the calibration images. The other quarter is held out
    from the conversions: on it the candidates are measured and the choice is made, by accuracy (mAP, mean IoU or R² for
    other tasks), or without labels by the agreement with the analog network (regression: the output error); of equal
    candidates the cheaper one is taken. The chosen network has not seen the held-out images, and no test image is used.
    A candidate whose T or alphabet alone exceeds the budget is not converted.

    Args:
        model: a trained network, as for :func:`rheobase.convert`.
        budget: the limits, at least one of ``"latency"`` (time-steps until the final logits), ``"energy"`` (a fraction
            of the analog network's) and ``"bits"`` (bits a spike: log2 of the size of the alphabet; 2m + 1 for −m..m,
            so that m = 1, 2, 4 have 1.58, 2.32 and 3.17).
        calibration: training images (never test images), with or without labels.
        method: a function of ``timesteps`` and ``magnitude`` that returns a recipe, for example ``rb.Burst``.
        timesteps: each T to try.
        magnitudes: each m to try.
        graded_spikes: how the energy counts spikes of a larger magnitude than 1; see :func:`rheobase.energy`.
        energy_images: maximum number of held-out images on which spikes are counted.
        output, max_pool, nonlinear, sites, task, device: as for :func:`rheobase.convert`.
        num_calibration_images: size of the random sample of the images to use, held-out ones included.
        seed: seed of the sample, of what is held out, and of the conversions.
        progress: show a progress bar over the candidates.

    Returns:
        The network and a table of the candidates. The network's provenance notes the choice.

    Raises:
        RecipeError: if no candidate fits the budget, with the numbers of the nearest one, or an argument is invalid.
        DataError: if there are fewer than eight calibration images, or they do not fit the network.
        TraceError, ModelError, CalibrationError: as for :func:`rheobase.convert`.

    Example:
        >>> import rheobase as rb
        >>> from rheobase.zoo.digits import DigitsResNet, digits
        >>> images, _ = digits().train
        >>> budget = {"latency": 2, "bits": 2}
        >>> found = rb.convert_within_budget(DigitsResNet(), budget, calibration=images[:240])
        >>> found.network.timesteps <= 2, str(found.network.alphabet)
        (True, '{-1, 0, 1}')
    """
    limits = check_limits(budget)
    device = None if device is None else find_device(device)
    grid = (
        whole_numbers(timesteps, 1, "timesteps", MAX_TIMESTEPS),
        whole_numbers(magnitudes, 1, "magnitudes", MAX_MAGNITUDE),
    )
    check_choice(graded_spikes, GradedSpikes, "graded_spikes")
    energy_images, seed = check_whole(energy_images, "energy_images"), check_seed(seed)
    drawn = sample(calibration, num_calibration_images, seed)
    fit, held_out = _split(drawn, seed)
    network, analog, notes = traced_once(model, fit.first[0], output, max_pool, nonlinear, sites, device)
    known = model.provenance.task if isinstance(model, SpikingNetwork) else None
    chosen_task = task_for(task, analog.ann.output_shape, drawn.labels, "calibration data", known=known)
    check_fits(analog, "calibration", Images(drawn.batch), chosen_task)
    task = cast(TaskName, chosen_task.name)
    number = len(held_out.first[0])
    images = f"{number} held-out calibration images"
    recipes = [(f"{(made := _recipe(method, t, m)).name}, m = {m}", made) for t, m in product(*grid)]
    expected = [_before_conversion(name, recipe, analog) for name, recipe in recipes]
    possible = [pair for pair, row in zip(recipes, expected, strict=True) if not row.exceeded(limits)]
    if not possible:
        raise _nothing_fits(choose(expected, limits, images))
    rows: list[Candidate] = []
    chosen: SpikingNetwork | None = None
    for name, recipe in track(possible, "converting", show=progress, total=len(possible)):
        found = convert(
            network,
            recipe,
            calibration=fit.data,
            max_pool=max_pool,
            sites=sites,
            task=task,
            num_calibration_images=len(fit.first[0]),
            seed=seed,
            device=device,
        )
        result = measured(found, held_out, found.timesteps, "held-out", energy_images, graded_spikes, task)
        measure = chosen_task.measures[0] if result.scores else chosen_task.without_targets
        value = result.value(measure.name)
        rows.append(
            Candidate(
                method=name,
                timesteps=found.timesteps,
                alphabet=found.alphabet,
                latency=latency(found).final,
                energy=result.energy_ratio,
                measure=measure,
                value=math.nan if value is None else value,
                accuracy=result.accuracy,
                agreement=result.agreement,
                output_error=result.logit_error,
            )
        )
        choice = choose(rows, limits, images)
        if (choice.method, choice.timesteps) == (name, found.timesteps):
            chosen = found  # one network is kept at a time
    if chosen is None:
        raise _nothing_fits(choice)
    chosen.provenance.notes[:0] = [*notes, f"budget: {choice.reason}"]
    return BudgetedConversion(chosen, choice, tuple(rows), number, graded_spikes, task)


def _recipe(method: Callable[..., Recipe], timesteps: int, magnitude: int) -> Recipe:
    """Call ``method``; refuse one that has no magnitude, or returns something else."""
    remedy = "give a function of timesteps and magnitude that returns a recipe, such as rb.Graded or rb.Burst"
    try:
        recipe = method(timesteps=timesteps, magnitude=magnitude)
    except TypeError as error:
        raise RecipeError.typed(f"cannot be called ({error})", where="method", remedy=remedy) from error
    if not isinstance(recipe, Recipe):
        raise RecipeError.typed(f"returns a {type(recipe).__name__}", where="method", remedy=remedy)
    return recipe


def _split(found: RandomSample, seed: int) -> tuple[Images, Images]:
    """Divide the images at random into those to convert with and those to choose by."""
    count = len(found.images)
    if count < 2 * HELD_OUT:
        raise DataError(
            f"has {count} images, of which one in {HELD_OUT} is held out to choose by",
            where="calibration",
            remedy=f"give at least {2 * HELD_OUT} images, better some hundred",
        )
    order = torch.randperm(count, generator=generator(seed))
    fit, held_out = (
        Images(found.images[part] if found.labels is None else (found.images[part], found.labels[part]))
        for part in (order[count // HELD_OUT :], order[: count // HELD_OUT])
    )
    return fit, held_out


def _before_conversion(name: str, recipe: Recipe, analog: SpikingNetwork) -> Candidate:
    """The candidate as far as it is known without a conversion: T, the least latency, and the alphabet."""
    graph, _ = place_sites(analog.ann, "activations", at_image=recipe.coding is not None)
    neurons = recipe.neurons_at(site_table(graph), graph)
    steps = recipe.timesteps or max(neuron.timesteps or 1 for neuron in neurons)
    return Candidate(name, steps, Alphabet.union(neuron.alphabet for neuron in neurons), steps)


def _nothing_fits(choice: Choice) -> RecipeError:
    reason = choice.reason.removesuffix(".")
    return RecipeError(reason[0].lower() + reason[1:], where="budget", remedy="raise a limit, or try other T and m")
