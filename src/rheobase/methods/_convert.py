"""Conversion of a trained network into a calibrated spiking network, and quantised activations before it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rheobase.core.checks import check_choice, check_whole
from rheobase.core.devices import find_device
from rheobase.core.errors import DataError, RecipeError, RheobaseWarning
from rheobase.core.seeds import check_seed
from rheobase.core.versions import versions
from rheobase.data import Batches
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES
from rheobase.graph import Capture, Graph, capture, fold_batch_norm, replace_max_pool
from rheobase.graph.rewrites.linear_sites import Sites, place_sites
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.graph.rewrites.pieces import replace_functions
from rheobase.graph.sites import site_table
from rheobase.graph.trace.agreement import relative_difference
from rheobase.graph.trace.capture import check_example, check_no_output, device_of
from rheobase.graph.trace.nonlinear import Nonlinear, check_nonlinear
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods.recipe import Recipe
from rheobase.network import Provenance, SpikingNetwork
from rheobase.network.checks import check_input
from rheobase.network.resize import resized
from rheobase.neurons import Neuron
from rheobase.passes import CalibrationData, CalibrationPass
from rheobase.passes.calibration_pass import site_errors
from rheobase.signals import Alignment
from rheobase.tasks import TaskName, inferred, named, task_for, uncertain


def convert(
    model: nn.Module,
    recipe: Recipe,
    *,
    calibration: Batches | Dataset[Any] | None = None,
    example: Tensor | None = None,
    output: str | int | None = None,
    max_pool: MaxPool = "refuse",
    nonlinear: Nonlinear = "refuse",
    sites: Sites = "activations",
    task: TaskName | None = None,
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> SpikingNetwork:
    """Convert a trained network into a spiking one.

    Args:
        model: a trained network of one float tensor [B, ...]; the network and its training mode are not changed. For
            a spiking network, the analog network that it was converted from is converted again, for example for
            another T. A quantised network (:func:`rheobase.quantise`) keeps its activations.
        recipe: the method, e.g. ``rb.RateCoding(timesteps=8)``.
        calibration: training images (never test images), in any order: a tensor [N, ...], a pair (images, labels), a
            map-style ``Dataset`` of (image, label), a loader, or any other iterable of batches, which is read to its
            end (:func:`rheobase.data.sample`). Recipes without calibration passes need none.
        example: a batch of the input's shape, to trace the network; default: the first calibration images. A network
            that runs on images of any size may be calibrated on crops: it is then converted for the example's size.
        output: the output to convert, if the network returns several: its key in a dict, field of a dataclass or
            position in a tuple ("aux.0": position 0 of the key "aux"); or "all": ``snn(images)`` returns them in the
            network's structure. Default: the only one, or the one named "logits" or "out".
        max_pool: what max-pooling becomes: ``"gate"``, ``"average"``, or ``"refuse"``.
        nonlinear: what becomes of operations that are not affine and have no neurons, such as SiLU, gates, softmax,
            layer normalisation and attention: ``"refuse"``; or ``"numbers"``: they are computed on numbers at every
            step, on the running means of their inputs, so that the network streams and its time-means are exact
            (:class:`rheobase.graph.operations.OnNumbers`). A list of module paths allows it in these modules only. The
            notes list every such node. Use it with ``sites="all"``, so that weighted layers read spikes. ``"neurons"``:
            functions of one variable become sums of clips, each a layer of neurons, which changes the network; the
            notes state the errors.
        sites: where neurons are placed: at the ``"activations"``; or, with ``"all"``, also at every linear output that
            another weighted layer reads, such as the bottlenecks of MobileNetV2 and EfficientNet (a residual sum fires
            once, after its additions). Every weighted layer but the first then receives spikes only. Linear outputs
            need neurons that emit spikes of both signs; the readout remains affine. ``"products"``: also what products
            of two activations read, such as the queries, keys and values of attention.
        task: what the outputs are for, which decides on the loss of passes that train, and on what labels are:
            ``"classification"``, ``"binary"`` (one logit), ``"multilabel"``, ``"regression"`` or ``"segmentation"``;
            see :mod:`rheobase.tasks`. Default: as inferred from labels, if these leave no doubt; without labels,
            several outputs are logits of classes, one output is a quantity.
        num_calibration_images: size of the random sample of them to use, drawn by the seed. A fifth, at most 2,000, is
            held out to measure each pass. Passes that train (:func:`rheobase.DAParallel`) benefit from more images.
            All are kept in memory, twice.
        seed: seed of the sample, of its split into fitted and held-out images, and of the random choices of a pass.
        device: where to convert, and where the spiking network then is: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``
            or ``"auto"``. Default: where the network is. Its images are moved there as they are needed.
        progress: show a progress bar with the remaining time.

    Returns:
        The network; ``provenance.passes`` records what each pass changed and the error of every site after it.

    Raises:
        TraceError: if operations of the network cannot become spiking, listing all, each with a remedy.
        ModelError: if a weight is NaN or infinite.
        DataError: if the calibration images, or labels of the task, do not fit.
        CalibrationError: if an activation is NaN or infinite on the calibration images, naming the first such site.
        RecipeError: if ``recipe`` is not a recipe; if ``sites="all"`` changes nothing, or the neurons cannot emit the
            negative values of linear outputs; if a network calibrated on crops cannot run at the example's size.

    Warns:
        RheobaseWarning: if labels show that classes are missing among the calibration images; if labels are ignored,
            because they do not tell the task.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> snn = rb.convert(zoo.resnet20(), rb.RateCoding(timesteps=4), calibration=torch.rand(16, 3, 32, 32))
        >>> len(snn.sites)
        19
    """
    _check_recipe(recipe)
    check_choice(max_pool, MaxPool, "max_pool")
    check_nonlinear(nonlinear)
    if calibration is None and recipe.calibration:
        raise DataError(
            f"is needed: {recipe.name} fits {', '.join(part.kind for part in recipe.calibration)} to data",
            where="calibration",
            remedy="pass training images",
        )
    number, seed = check_whole(num_calibration_images, "num_calibration_images"), check_seed(seed)
    place = None if device is None else find_device(device)
    data = None if calibration is None else CalibrationData.pool(calibration, num_calibration_images=number, seed=seed)
    if example is not None:
        check_example(example)
    resizes = data is not None and example is not None and example.shape[1:] != data.fit.shape[1:]
    written, notes = _analog(model, data, None if resizes else example, output, max_pool, nonlinear, task)
    written = written if place is None else written.on(place)
    coded = recipe.coding is not None
    written, linear = place_sites(written, sites, at_image=coded)
    notes += map(str, linear)
    graph, folded = fold_batch_norm(written)
    known = model.provenance.task if isinstance(model, SpikingNetwork) else None
    needed = any(part.needs_labels for part in recipe.calibration)
    data, task = _with_task(data, graph, known if task is None else task, notes, needed)
    provenance = Provenance(seed=seed, versions=versions(), calibration={}, notes=notes, sites=sites, task=task)
    if data is not None:
        notes += [note for note in class_notes(data, graph, task) if note not in notes]
        _record(data, provenance)
    notes += folded

    table = site_table(graph)
    if recipe.activation is not None:
        recipe.activation.check(table)
    neurons = recipe.neurons_at(table, graph)
    start = written if any(part.needs_batch_norm for part in recipe.calibration) else graph
    steps = _timesteps(recipe, neurons)
    network = SpikingNetwork(
        start, graph, neurons, steps, recipe.to_dict(), provenance, recipe.alignment, recipe.protocol
    )
    if recipe.alignment is not None:
        provenance.notes.append(_alignment_note(network, recipe.alignment))
    network.to(graph.device)
    if data is not None:
        _calibrate(network, recipe.calibration, data, progress)
    if resizes:
        larger, _ = place_sites(traced(model, None, example, max_pool, nonlinear, output)[0], sites, at_image=coded)
        return resized(network, fold_batch_norm(larger.on(graph.device))[0])
    return network


def quantise(
    model: nn.Module,
    recipe: Recipe,
    *,
    calibration: Batches | Dataset[Any],
    example: Tensor | None = None,
    output: str | int | None = None,
    max_pool: MaxPool = "refuse",
    nonlinear: Nonlinear = "refuse",
    task: TaskName | None = None,
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    seed: int = 0,
    device: str | torch.device | None = None,
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
        output, max_pool, nonlinear, task: as for :func:`rheobase.convert`.
        num_calibration_images: size of the random sample of them to use, drawn by the seed.
        seed: seed of the sample.
        device: as for :func:`rheobase.convert`.

    Returns:
        A module to train, and then to convert with the same recipe. ``notes`` lists what was rewritten. Dropout
        (``nn.Dropout`` and its forms for channels) acts while the module trains, with the p of the network, and is no
        part of the converted network.

    Raises:
        RecipeError: if the recipe has no quantised activation, its levels do not fit the sites, or there are no sites.
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
    _check_recipe(recipe)
    activation = recipe.activation
    if activation is None:
        raise RecipeError(
            f"{recipe.name} has no quantised activation",
            where="recipe",
            remedy="use a method that trains one: rb.Pascal(levels=4), rb.QVM(levels=4), rb.QAC(mean_timesteps=3)",
        )
    check_choice(max_pool, MaxPool, "max_pool")
    check_nonlinear(nonlinear)
    place = None if device is None else find_device(device)
    data = CalibrationData.pool(calibration, num_calibration_images=num_calibration_images, seed=seed)
    if isinstance(model, TrainableGraph):
        check_no_output(output, "a quantised network")
        graph, notes = model.to_graph(), list(model.notes)
    else:
        graph, notes = traced(model, data.fit, example, max_pool, nonlinear, output)
    if not graph.sites:
        remedy = 'convert it with sites="all", without quantisation'
        raise RecipeError("has no activation that can be quantised", where="the network", remedy=remedy)
    graph = graph if place is None else graph.on(place)
    check_input(graph, data.fit[:1])
    known = {s.name: graph.tensor(s.parameters["threshold"]) for s in graph.sites if "threshold" in s.parameters}
    folded, _ = fold_batch_norm(graph)
    modules = activation.modules(folded, data.fit, site_table(graph), known)
    data, task = _with_task(data, graph, task, notes)
    notes += class_notes(data, graph, task)
    return TrainableGraph(graph, modules, notes, activation.constraint).to(graph.device)


def _check_recipe(recipe: object) -> None:
    if not isinstance(recipe, Recipe):
        raise RecipeError.typed(
            f"is a {type(recipe).__name__}", where="recipe", remedy="pass a recipe such as rb.RateCoding(timesteps=8)"
        )


def _analog(
    model: nn.Module,
    data: CalibrationData | None,
    example: Tensor | None,
    output: str | int | None,
    max_pool: MaxPool,
    nonlinear: Nonlinear,
    task: str | None,
) -> tuple[Graph, list[str]]:
    """The graph of the analog network before folding, and notes on it."""
    if not isinstance(model, SpikingNetwork | TrainableGraph):
        images = None if data is None else data.fit
        return traced(model, images, example, max_pool, nonlinear, output, task)
    if (max_pool, nonlinear) != ("refuse", "refuse") or example is not None or output is not None:
        raise RecipeError(
            "have no effect on a network that is already converted or quantised",
            where="max_pool, nonlinear, example and output",
            remedy="leave them out, or pass the original network",
        )
    if isinstance(model, SpikingNetwork):
        graph, notes = model.ann, []
    else:
        graph, notes = model.to_graph(), [*model.notes, *model.constraint_notes()]
    if data is not None:
        check_input(graph, data.fit[:1])
    return graph, notes


def _record(data: CalibrationData, provenance: Provenance) -> None:
    """Record the calibration images, with notes."""
    provenance.calibration |= {
        "images": len(data),
        "held_out": len(data.held_out),
        "sha256": data.digest,
        "complete": data.complete,
        "values": data.values().to_dict(),
    }
    if not data.complete:
        drawn = f"a random sample of {len(data)} of {data.given} images, drawn by seed {provenance.seed}"
        provenance.notes.append(f"calibration data: {drawn}")
    if len(data.held_out) == 0:
        provenance.notes.append(
            "calibration data: fewer than five images, so none is held out; site errors are not measured"
        )


D = TypeVar("D", CalibrationData, CalibrationData | None)


def _with_task(
    data: D, graph: Graph, task: str | None, notes: list[str], needed: bool = False
) -> tuple[D, TaskName | None]:
    """The data with labels of the task, and its name; without labels if these do not tell it, with a note and warning.

    Raises:
        DataError: if the task does not fit the outputs, labels are not those of the task, or ``needed`` labels do not
            tell it.
    """
    if graph.structure is not None:  # the task is that of the output that is measured; labels belong to none of them
        main = None if task is None else named(task, graph.select().output_shape).name
        return (None if data is None else replace(data, fit_labels=None, held_out_labels=None)), cast(TaskName, main)
    outputs = graph.output_shape
    found = None if task is None else named(task, outputs)
    if data is None or data.fit_labels is None or data.held_out_labels is None:
        return data, None if found is None else cast(TaskName, found.name)
    where = "calibration images, in their seeded order"
    labels = torch.cat([data.fit_labels, data.held_out_labels])
    found = found or inferred(outputs, labels)
    if found is not None:
        found.check(outputs, labels, where)
        return data, cast(TaskName, found.name)
    problem = uncertain(outputs, labels, "calibration data")
    if needed:
        raise problem
    notes.append(f"ignored: {problem}")
    warnings.warn(f"ignored: {problem}", RheobaseWarning, stacklevel=3)
    return replace(data, fit_labels=None, held_out_labels=None), None


def class_notes(data: CalibrationData, graph: Graph, task: str | None) -> list[str]:
    """A note and a warning if labels show that classes are missing among the calibration images."""
    if graph.structure is not None or task != "classification":
        return []
    missing = data.missing_classes(graph.output_shape[0])
    if missing is None:
        return []
    warnings.warn(f"{missing}.", RheobaseWarning, stacklevel=3)
    return [missing]


def _calibrate(
    network: SpikingNetwork, passes: Sequence[CalibrationPass], data: CalibrationData, progress: bool
) -> None:
    """Run the passes in order, and record the changes of each and the error of every site after it."""
    last_with_batch_norm = max((i for i, one in enumerate(passes) if one.needs_batch_norm), default=None)
    before = None
    for i, calibration_pass in enumerate(passes):
        changes = calibration_pass.apply(network, data, progress)
        if i == last_with_batch_norm:
            network.graph = fold_batch_norm(network.graph)[0]
            network.plan()
        after = site_errors(network, data.held_out)
        record = {"pass": calibration_pass.model_dump(mode="json"), **asdict(changes)}
        network.provenance.passes.append({**record, "error_before": before, "error_after": after})
        before = after


def _timesteps(recipe: Recipe, neurons: Sequence[Neuron]) -> int:
    """T of the network: that of the recipe, or the largest T of its neurons."""
    own = [neuron.timesteps for neuron in neurons if neuron.timesteps is not None]
    longest = max(own) if own else recipe.timesteps
    if longest is None:
        raise RecipeError("is not given", where="timesteps", remedy="give T, as in rb.RateCoding(timesteps=8)")
    if recipe.timesteps not in (None, longest):
        raise RecipeError(
            f"is {recipe.timesteps}, but the neurons run for {longest} steps",
            where="timesteps",
            remedy="leave it out of the recipe; rb.QVM(timesteps=...) sets it for its neurons too",
        )
    return longest


def _alignment_note(network: SpikingNetwork, alignment: Alignment) -> str:
    """A note on how many edges T grows and shrinks; refuse an alignment without effect."""
    for site in network.sites:
        neuron = network.neuron(site.name)
        if not neuron.streams:
            raise RecipeError(
                f"has no effect: {type(neuron).__name__} neurons at {site.name} wait for their whole input",
                where="alignment",
                remedy="leave it out, or use integrate_fire neurons",
            )
    steps = {site.name: network.steps_of(site.name) for site in network.sites}
    edges = [(steps[source], steps[site.name]) for site in network.sites for source in site.previous]
    grow, shrink = sum(a < b for a, b in edges), sum(a > b for a, b in edges)
    if grow + shrink == 0:
        raise RecipeError(
            "has no effect: T is the same at both ends of every edge",
            where="alignment",
            remedy='leave it out, or give T site by site: IntegrateFireNeuron(timesteps={"site": T, ...})',
        )
    options = ((f"expansion {alignment.expansion!r}", grow), (f"reduction {alignment.reduction!r}", shrink))
    effects = (f"on {number} of {len(edges)} edges" if number else "has no effect, on no edge" for _, number in options)
    return "alignment: " + ", ".join(f"{name} {effect}" for (name, _), effect in zip(options, effects, strict=True))


def traced(
    model: nn.Module,
    images: Tensor | None,
    example: Tensor | None,
    max_pool: MaxPool,
    nonlinear: Nonlinear = "refuse",
    output: str | int | None = None,
    task: str | None = None,
) -> tuple[Graph, list[str]]:
    """The graph of a network, traced on ``example`` or on the first images, and notes on what was rewritten."""
    batch = images[:4] if example is None and images is not None else example
    if batch is None:
        raise DataError("is needed to trace the network", where="example", remedy="pass a batch of images")
    check_example(batch)
    original = capture(model, batch.to(device_of(model)), output=output, images=images, nonlinear=nonlinear)
    seen = batch if images is None else images
    found = rewritten(original, max_pool, nonlinear, seen)
    notes = [*map(str, found.rewrites)]
    average = max_pool == "average" and any(node.operation == "max_pool" for node in original.graph.nodes)
    if average or nonlinear == "neurons":
        notes.append(_cost_of_rewriting(original.graph, found.graph, seen, task, average))
    return found.graph, notes


def rewritten(found: Capture, max_pool: MaxPool, nonlinear: Nonlinear, images: Tensor) -> Capture:
    """A captured network with max-pooling and functions as the caller chose.

    Raises:
        TraceError: if something remains that cannot become spiking.
    """
    found = replace_max_pool(replace_functions(found, nonlinear, images), max_pool)
    found.raise_if_refused()
    return found


@torch.inference_mode()
def _cost_of_rewriting(before: Graph, graph: Graph, images: Tensor, task: str | None, average: bool) -> str:
    images = images[:32].to(graph.device)
    original = before(images)
    replaced = graph(images)
    agree = task_for(task, graph.output_shape, None, "network").agreement(replaced, original)
    same = "" if agree is None else f", and {float(agree.mean()):.0%} of the predictions are the same"
    what = "max-pooling by average" if average else "functions by neurons"
    return (
        f"{what}: on {len(images)} calibration images the analog network's logits change by up to "
        f"{relative_difference(replaced, original):.2g} of the largest{same}"
    )
