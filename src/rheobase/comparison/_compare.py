"""Comparison of methods on one network: every method × T × seed is converted, measured, stored and reported."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rheobase.comparison import checks
from rheobase.comparison.budget import check_limits
from rheobase.comparison.cells import Cell, Identity
from rheobase.comparison.engine import Engine, Lost, in_this_process
from rheobase.comparison.folder import OnExisting, open_folder
from rheobase.comparison.grid import About, Comparison
from rheobase.comparison.images import Images
from rheobase.comparison.page import write_report
from rheobase.comparison.results_file import Results
from rheobase.comparison.runner import Job, Outcome, Runner, TrainingJob, at, run_job
from rheobase.core.checks import check_choice, check_flag, check_whole
from rheobase.core.devices import find_device, spread
from rheobase.core.errors import DataError, RecipeError
from rheobase.core.folders import as_path
from rheobase.core.progress import track
from rheobase.core.seeds import MAX_SEED
from rheobase.core.versions import versions
from rheobase.data.batches import Batches, Digest, batches
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES
from rheobase.data.value_range import warn_of_another_scale
from rheobase.graph import Graph, capture, replace_max_pool
from rheobase.graph.rewrites.linear_sites import Sites, place_sites
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.graph.rewrites.pieces import replace_functions
from rheobase.graph.sites import site_table
from rheobase.graph.trace.capture import device_of
from rheobase.graph.trace.nonlinear import Nonlinear, check_nonlinear
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure._early_exit import check_classes
from rheobase.measure._energy import GradedSpikes
from rheobase.methods import METHODS, Recipe, SNNCalibration
from rheobase.methods._convert import convert
from rheobase.methods.neuron_part import GradedNeuron
from rheobase.network.spiking_network import MAX_TIMESTEPS, SpikingNetwork
from rheobase.tasks import Task, TaskName, task_for
from rheobase.training import Training


def compare(
    model: nn.Module,
    recipes: Sequence[Recipe] | Mapping[str, Recipe],
    calibration: Batches | Dataset[Any],
    test: Batches | Dataset[Any],
    timesteps: Sequence[int],
    *,
    seeds: Sequence[int] = (0,),
    validation: Batches | Dataset[Any] | None = None,
    budget: Mapping[str, float] | None = None,
    training: Training | None = None,
    folder: str | Path | None = None,
    on_existing: OnExisting = "keep",
    output: str | int | None = None,
    max_pool: MaxPool = "refuse",
    nonlinear: Nonlinear = "refuse",
    sites: Sites = "activations",
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    energy_images: int = 256,
    graded_spikes: GradedSpikes = "additions",
    task: TaskName | None = None,
    early_exit: bool = False,
    name: str | None = None,
    command: str | None = None,
    workers: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Comparison:
    """Convert a network by every recipe, for every T and seed, and measure each conversion.

    Each T is a separate conversion. A recipe that needs a quantised network is quantised with L = T levels (learned
    levels: with a mean of T; or with the levels that the recipe names), trained and converted, once for each seed.
    Recipes with the same activation share the training. A conversion that fails has the reason in its cell, and the
    others continue.

    With a folder, every finished cell is written to ``results.jsonl``; repeat the call to continue an interrupted
    comparison. At the end the folder holds the report (``report.html``), tables and plots of the last call.

    The cells are independent jobs for joblib (:class:`rheobase.comparison.engine.Engine`): with ``workers`` they run in
    processes of this machine, within ``joblib.parallel_config(backend="dask")`` (or Ray's) on a cluster. This process
    alone writes results. A worker that dies costs its cell a second attempt, and nothing else.

    Args:
        model, output, max_pool, nonlinear, sites: as for :func:`rheobase.convert`.
        recipes: the methods, as a list or by name.
        calibration: training images (never test images), with labels if a method trains. Of a data set or loader of
            files, only the images that are drawn are read, or all if a method trains. Images of up to 1 GiB are kept in
            memory, like the test and validation images; larger ones are read again for every use.
        test: images to report on.
        timesteps, seeds: each T, and each seed of the calibration images, splits and training.
        validation: separate images on which a method is chosen; no choice is made on test images.
        budget: ``{"latency": 8}`` (time-steps to the final logits), ``{"energy": 0.5}`` (fraction of the analog
            network's energy), ``{"bits": 3}`` (bits a spike, log2 of the size of the alphabet), or several: the report
            names the best method on the validation images within it, by the first measure of the task: accuracy, mAP,
            mean IoU or R².
        training: settings for the recipes that need a quantised network.
        folder: folder for results and report; None: keep them in memory.
        on_existing: for a folder that holds a comparison: ``"keep"``: continue it, ``"overwrite"``: delete it,
            ``"number"``: use the next free name (``out-2``). A folder that another process has open is not overwritten.
        num_calibration_images: maximum number of calibration images of each conversion, a random sample by its seed.
        energy_images: maximum number of images on which spikes are counted for the energy.
        graded_spikes: how the energy counts spikes of a larger magnitude than 1; see :func:`rheobase.energy`.
        task: what the outputs are for: ``"classification"``, ``"binary"``, ``"multilabel"``, ``"regression"`` or
            ``"segmentation"`` (:mod:`rheobase.tasks`), for all methods. Default: that of a converted network, or as
            inferred from the labels of the test images, else of the calibration images.
        early_exit: also measure each method that streams with images that stop as soon as the network is confident
            (:func:`rheobase.measure.early_exit`), with the confidence chosen on the validation images.
        name: name of the network in the report; default its class.
        command: the command line that repeats the comparison, for the report; default: the report shows this call.
        workers: number of processes, each with its share of the processors; default: that of
            ``joblib.parallel_config``, or 1. Results are the same where PyTorch's do not depend on its threads.
        device: where to convert and measure, as for :func:`rheobase.convert`; all processes use it. Methods that train
            choose a GPU by themselves.
        progress: show a progress bar with the time left, and with what is running.

    Raises:
        TraceError, ModelError: if the network cannot be traced.
        DataError: if data do not fit the network, labels leave the task open, more than 1 % of the test or validation
            images occur in another data set (fewer are a note in the report), or a budget or an early exit needs
            validation images.
        RecipeError: if there is no recipe, T or seed, two recipes have the same name, or an option has no effect.
        StoreError: if the folder cannot be written or holds other files.

    Example:
        >>> import rheobase as rb
        >>> from rheobase.zoo.digits import DigitsResNet, digits
        >>> parts = digits()
        >>> found = rb.compare(DigitsResNet(), [rb.OPI(), rb.RateCoding()], parts.train, parts.test, (1, 2))
        >>> [(entry.method, entry.timesteps) for entry in found.entries]
        [('OPI', 1), ('OPI', 2), ('RateCoding', 1), ('RateCoding', 2)]
    """
    named = checks.by_name(recipes)
    timesteps = checks.whole_numbers(timesteps, 1, "timesteps", MAX_TIMESTEPS)
    seeds = checks.whole_numbers(seeds, 0, "seeds", MAX_SEED)
    if name is not None:
        checks.check_name(name, "name")
    if budget is not None:
        budget = check_limits(budget)
        checks.check_validation(None if validation is None else True)
    check_flag(early_exit, "early_exit")
    if early_exit and validation is None:
        raise DataError(
            "are missing, on which early_exit chooses the confidence",
            where="validation images",
            remedy="give validation=(images, labels)",
        )
    check_choice(graded_spikes, GradedSpikes, "graded_spikes")
    check_nonlinear(nonlinear)
    num_calibration_images = check_whole(num_calibration_images, "num_calibration_images")
    energy_images = check_whole(energy_images, "energy_images")
    workers = None if workers is None else check_whole(workers, "workers")
    if spread() and not in_this_process(workers):
        reason = "are other processes, which rb.spread_over does not reach"
        raise RecipeError(reason, where="workers", remedy="use one worker, or several without rb.spread_over")
    device = None if device is None else find_device(device)
    given = {"calibration": calibration, "test": test, **({} if validation is None else {"validation": validation})}
    trains = training is not None
    parts = {
        part: Images.read(data, f"{part} data", all_are_used=trains or part != "calibration")
        for part, data in given.items()
    }
    if budget is not None:
        checks.check_validation(parts["validation"].labelled)
    network, analog, rewrites = traced_once(
        model, parts["calibration"].first[0], output, max_pool, nonlinear, sites, device
    )
    placed, linear = place_sites(analog.ann, sites)
    table = site_table(placed)
    labelled = next((part for part in ("test", *parts) if parts[part].labelled), "test")
    known = model.provenance.task if isinstance(model, SpikingNetwork) else None
    outputs = analog.ann.output_shape
    chosen = task_for(task, outputs, parts[labelled].first[1], f"{labelled} data", known=known)
    if early_exit:
        check_classes(chosen.name)
    for part, data in parts.items():
        checks.check_fits(analog, part, data, chosen)
        drawn = (num_calibration_images, seeds) if part == "calibration" and not trains else None
        data.look(functools.partial(chosen.check, outputs, where=f"{part} data"), drawn)
    repeated = checks.check_apart(parts)
    for part, data in parts.items():
        if part != "calibration":
            warn_of_another_scale(data.values, parts["calibration"].values.to_dict(), f"{part} data")
    quantised = all("threshold" in node.parameters for node in analog.ann.sites)  # SlipReLU has no levels
    checks.check_training(training, named, quantised)
    digests: dict[str, Any] = {f"{part}_sha256": data.digest for part, data in parts.items()}
    identity = Identity(
        versions=versions(),
        model_sha256=_graph_digest(analog.ann),
        **digests,
        max_pool=max_pool,
        nonlinear=nonlinear if isinstance(nonlinear, str) else tuple(nonlinear),
        sites=sites,
        num_calibration_images=num_calibration_images,
        energy_images=energy_images,
        graded_spikes=graded_spikes,
        task=cast(TaskName, chosen.name),
        early_exit=early_exit,
    )
    grid = [(method, t, seed) for method in named for t in timesteps for seed in seeds]
    with open_folder(None if folder is None else as_path(folder, "folder"), on_existing) as home:
        results = Results(home, identity)
        ann_scores = {part: _scores(analog.ann, data, chosen) for part, data in parts.items()}
        runner = Runner(network, parts, training, quantised, home, identity, device)
        engine: Engine[Any, Any, Any] = Engine(run_job, runner, workers)
        cells = _cells(grid, named, runner, results, engine)
        found = dict(track(cells, "comparing", show=progress, total=len(grid), running=engine.running))
        about = About(
            network=name or type(model).__name__,
            sites=len(table),
            neurons=sum(site.neurons for site in table),
            notes=(*repeated, *rewrites, *map(str, linear), *analog.provenance.notes),
            images={part: data.count for part, data in parts.items()},
            ann_accuracy={part: scores.get("accuracy") for part, scores in ann_scores.items()},
            identity=identity,
            training=runner.settings,
            machine={"processor": platform.machine(), "cpus": os.cpu_count() or 1, "threads": torch.get_num_threads()},
            ann_scores=ann_scores,
            command=command,
        )
        comparison = Comparison(about, named, tuple(found[question] for question in grid), home)
        if budget is not None:
            comparison = dataclasses.replace(comparison, choice=comparison.choose(**budget))
        if home is not None:
            write_report(comparison, home)
    return comparison


Question = tuple[str, int, int]
"""Method, T, seed."""


def _cells(
    grid: list[Question], recipes: Mapping[str, Recipe], runner: Runner, results: Results, engine: Engine[Any, Any, Any]
) -> Iterator[tuple[Question, Cell]]:
    """Yield every cell: those that are known, then the others as they are run.

    In several processes trainings run before the cells that need them.
    """
    questions: dict[str, list[Question]] = {}  # the same recipe may have several names
    jobs: dict[str, Job] = {}
    for question in grid:
        method, t, seed = question
        recipe = recipes[method]
        with contextlib.suppress(RecipeError):  # running its cell records the reason
            recipe = at(recipe, t, runner.quantised)
        key = runner.key(recipe, t, seed)
        cell = results.find(key)
        if cell is not None:
            yield question, cell.model_copy(update={"method": method})
        else:
            questions.setdefault(key, []).append(question)
            jobs.setdefault(key, Job(method, recipe, t, seed))

    def run(waves: list[Any]) -> Iterator[tuple[Question, Cell]]:
        for job, value in engine.run(waves):
            if isinstance(job, TrainingJob):
                outcomes[runner.training_name(job.recipe, job.seed)] = (
                    value.reason if isinstance(value, Lost) else value
                )
                continue
            cell = runner.failed(job, value.reason) if isinstance(value, Lost) else value
            results.add(cell)
            for question in questions[cell.key]:
                yield question, cell.model_copy(update={"method": question[0]})

    outcomes: dict[str, Outcome] = {}
    trained: dict[str, list[Job]] = {}
    if not in_this_process(engine.workers) and runner.training is not None:
        for job in jobs.values():
            if runner.trains(job.recipe):
                trained.setdefault(runner.training_name(job.recipe, job.seed), []).append(job)
    later = [job for group in trained.values() for job in group]
    first = [TrainingJob(group[0].recipe, group[0].seed) for group in trained.values()]
    yield from run([*first, *(job for job in jobs.values() if job not in later)])
    yield from run(
        [dataclasses.replace(job, trained=outcomes[name]) for name, group in trained.items() for job in group]
    )


def all_recipes() -> dict[str, Recipe]:
    """Return every built-in method with its default options, by name.

    Example:
        >>> "FTBC" in all_recipes()
        True
    """
    recipes = [*(method() for method in METHODS.values()), SNNCalibration(pipeline="advanced")]
    return {recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.name)}


def traced_once(
    model: nn.Module,
    images: Tensor,
    output: str | int | None,
    max_pool: MaxPool,
    nonlinear: Nonlinear = "refuse",
    sites: Sites = "activations",
    device: str | torch.device | None = None,
) -> tuple[nn.Module, SpikingNetwork, list[str]]:
    """Return the network to convert, a plain conversion of it, and the rewrites of tracing.

    The network is traced once for all conversions, because tracing takes longer than some conversions.
    """
    plain = Recipe(name="analog", timesteps=1, neuron=GradedNeuron())  # fits any site
    given: dict[str, Any] = {"max_pool": max_pool, "sites": sites, "device": device}
    if isinstance(model, SpikingNetwork | TrainableGraph):
        return model, convert(model, plain, output=output, nonlinear=nonlinear, **given).select(), []
    example = images[:4].to(device_of(model))
    found = capture(model, example, output=output, images=images, nonlinear=nonlinear)
    found = replace_functions(found, nonlinear, images)
    replace_max_pool(found, max_pool).raise_if_refused()
    analog = convert(found.graph, plain, example=example, **given).select()
    return found.graph, analog, [*map(str, found.rewrites)]


def _graph_digest(graph: Graph) -> str:
    nodes = [{**dataclasses.asdict(node), "origin": ""} for node in graph.nodes]  # without the place in the source code
    digest = hashlib.sha256(json.dumps([nodes, graph.output], sort_keys=True).encode())
    for name, value in sorted(graph.tensors.items()):
        tensor = Digest()
        tensor.update(value=value)
        digest.update(f"{name} {list(value.shape)} {tensor.hexdigest()}".encode())
    return digest.hexdigest()


@torch.inference_mode()
def _scores(ann: Graph, data: Images, task: Task) -> dict[str, float]:
    if not data.labelled or not data.is_whole:
        return {}
    scores = task.scores(ann.output_shape)
    for images, labels in batches(data.data, where=data.where):
        scores.update(ann(images.to(ann.device)).cpu(), task.targets(labels).cpu())
    return scores.compute()
