"""Conversion of a spiking network to whole numbers."""

from __future__ import annotations

import copy
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rheobase.core.checks import check_choice, check_whole
from rheobase.core.errors import DataError, RecipeError
from rheobase.data.batches import Batches
from rheobase.data.readers import Preprocessing
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES, sample
from rheobase.exchange.whole_numbers.grids import READOUT, SHIFTS, choose_grids, constant_bias, round_weights
from rheobase.exchange.whole_numbers.learned import fit_weights
from rheobase.exchange.whole_numbers.tables import check_numbers, make_tables
from rheobase.graph.graph import Graph
from rheobase.graph.operations.lookup import GAIN_BITS
from rheobase.graph.sites import Site
from rheobase.network.integer_network import PIXELS, IntegerNetwork, Units
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.network.target import Target
from rheobase.network.target import target as profile
from rheobase.neurons import MembraneNeuron, Neuron
from rheobase.neurons.integer import FiresWhen, IntegerCount, IntegerFire, IntegerNeuron

Rounding = Literal["nearest", "learned"]
EXACT = {torch.float32: 2**24, torch.float64: 2**53}
"""Whole numbers up to these are exact."""


def integers(
    network: SpikingNetwork,
    target: str | Target = "generic",
    *,
    calibration: Batches,
    rounding: Rounding = "nearest",
    fires_when: FiresWhen = "reached",
    preprocessing: Preprocessing | None = None,
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    seed: int = 0,
) -> IntegerNetwork:
    r"""Make a network whose weights, biases, thresholds and potentials are whole numbers of a chip's widths.

    The threshold of a channel is the largest whole number for which its weights fit; it is exact, and the weights are
    rounded to its grid (:func:`rheobase.exchange.whole_numbers.grids.choose_grids`). Mean pooling becomes sum pooling.
    Images become pixels from 0 to 255. Functions of one variable (``nonlinear="numbers"``) become lookup tables
    (:class:`rheobase.graph.operations.lookup.Lookup`) over the range of their inputs on the images. All sums are sums
    of whole numbers, so the result does not depend on the machine, on the order of additions, or on ``execution``.

    Args:
        network: a converted network; not modified. Its neurons need a firing rule or a closed form.
        target: ``"generic"`` (8-bit weights, 24-bit potentials), ``"speck"``, ``"loihi2"``, ``"xylo"``,
            ``rb.network.generic(weights=4)``, or a :class:`rheobase.network.Target`.
        calibration: training images, on which potentials beyond their width are counted, weights are fitted, and the
            ranges of pixels and of tables are measured; without labels.
        rounding: ``"nearest"``, or ``"learned"``: the weights of a layer are fitted to the spikes that it receives, and
            rounded so that the errors cancel on them (:func:`rheobase.exchange.whole_numbers.learned.fit_weights`).
        fires_when: when the neurons of the chip or simulator fire: θ is ``"reached"`` (v >= θ: Speck, sinabs), or
            ``"exceeded"`` (v > θ: NIR's definition, snnTorch). Whole potentials reach θ exactly in many steps. With
            ``"exceeded"`` every V0 is 1 less, which gives the spikes of neurons that fire at v > θ.
        preprocessing: how pixels became images (a :class:`rheobase.data.Preprocessing`); default: as stored with the
            network by the command line, or else the range of the calibration images.
        num_calibration_images, seed: maximum number of images, drawn at random.

    Raises:
        RecipeError: if a neuron, an operation or a width does not fit the target, naming the site and the channel.
        DataError: if the images do not fit the network.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(8, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20(), rb.ParallelConversion(timesteps=4), calibration=images)
        >>> whole = rb.integers(snn, calibration=images)
        >>> all(bool((tensor % 1 == 0).all()) for tensor in whole.graph.tensors.values())
        True
    """
    check_converted(network)
    chip = profile(target)
    check_choice(rounding, Rounding, "rounding")
    check_choice(fires_when, FiresWhen, "fires_when")
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        remedy = "give rb.data.Preprocessing(mean=..., std=...)"
        raise DataError.typed(f"is a {type(preprocessing).__name__}", where="preprocessing", remedy=remedy)
    number = check_whole(num_calibration_images, "num_calibration_images")
    _check_network(network)
    check_numbers(network, chip)
    drawn = sample(calibration, number, seed, where="calibration data").images
    images = network.check_images(drawn).to(network.graph.device)
    neurons = [_check_neuron(site, network.neuron(site.name), network, chip) for site in network.sites]
    pixel, zero, fraction = _pixels(network, images, preprocessing)
    tables = make_tables(network, images, chip)
    grids = choose_grids(network, chip, pixel, fraction, tables)
    strict = fires_when == "exceeded"
    whole = [
        _neuron(site, neuron, grids.thresholds[site.name], network, chip, strict)
        for site, neuron in zip(network.sites, neurons, strict=True)
    ]
    unit = 1 / float(grids.thresholds[READOUT])
    scales: dict[str, Any] = {"pixel": pixel.tolist(), "zero": zero.int().tolist(), "fraction": fraction.tolist()}
    units = Units(target=chip, logit=unit, **scales)
    found = _network(network, grids.graph, round_weights(grids), whole, units)
    if rounding == "learned":
        fitted = round_weights(grids, fit_weights(found, network, grids, images))
        found = _network(network, grids.graph, fitted, whole, units)
    above = ", V0 less 1 for neurons that fire when θ is exceeded" if fires_when == "exceeded" else ""
    note = f"whole numbers for {chip.name}: thresholds in the weights, spikes of amplitude 1{above}"
    sizes = [f"{name} ({table.values.shape[-1]} entries)" for name, table in tables.items()]
    looked_up = [f"lookup tables: {', '.join(sizes)}"] if sizes else []
    found.provenance.notes += [note, *looked_up, *_counted(found, images)]
    return found


def _check_network(network: SpikingNetwork) -> None:
    for name, tensor in network.graph.tensors.items():
        if not bool(tensor.isfinite().all()):
            remedy = "load weights from before a training diverged, and convert again"
            raise RecipeError("holds NaN or infinite values", where=name, remedy=remedy)
    if isinstance(network, IntegerNetwork):
        raise RecipeError("is already in whole numbers", where="network", remedy="use the network before rb.integers")
    if network.protocol is not None:
        name = type(network.protocol).__name__
        reason = f"runs in the phases of {name}, which have no form in whole numbers"
        raise RecipeError(reason, where="network", remedy="use a method with one phase, such as rb.Graded or rb.FTBC")
    steps = {network.steps_of(site.name) for site in network.sites}
    if len(steps) > 1:
        reason = f"has sites that run for different numbers of steps ({', '.join(map(str, sorted(steps)))})"
        raise RecipeError(reason, where="network", remedy="use one T for all sites: their means have no common unit")
    if len({network.neuron(site.name).streams for site in network.sites}) > 1:
        reason = "has neurons that stream and neurons that wait"
        raise RecipeError(reason, where="network", remedy="use one kind of neurons at all sites")


def _check_neuron(site: Site, neuron: Neuron, network: SpikingNetwork, chip: Target) -> Neuron:
    """The neuron, if the target can run it."""
    kind, alphabet = type(neuron).__name__, neuron.alphabet
    bias = neuron._buffers.get("bias")

    def refuse(what: str, remedy: str) -> None:
        raise RecipeError(f"has {kind} neurons {what}", where=site.name, remedy=remedy)

    known = isinstance(neuron, MembraneNeuron) and type(neuron).count is MembraneNeuron.count
    if not known and (neuron.streams or neuron.response(network.timesteps) is None):
        refuse("without a response, so that they have no form in whole numbers", "use other neurons, such as rb.Graded")
    if alphabet.least < 0 and not chip.signed:
        refuse(f"with the alphabet {alphabet}, but {chip.name} has no negative spikes", "use rb.FTBC or another method")
    if alphabet.magnitude > chip.spikes:
        most = f"at most {chip.spikes} spike{'s' if chip.spikes > 1 else ''} a step"
        refuse(f"with the alphabet {alphabet}, but {chip.name} has {most}", "use a smaller magnitude")
    if not neuron.streams and not chip.waits:
        refuse(f"which wait for their whole input; {chip.name} fires at every step", "use a method that streams")
    if bias is not None and bias.dim() == 2 and not chip.step_biases:
        refuse(f"with a bias for each step; {chip.name} has one for all", "use a method without, such as rb.RateCoding")
    return neuron


def _neuron(
    site: Site, neuron: Neuron, threshold: Tensor, network: SpikingNetwork, chip: Target, strict: bool
) -> IntegerNeuron:
    """The neuron with a whole threshold; V0 and biases are rounded. ``strict``: it fires when θ is exceeded."""
    amplitude = neuron.amplitude.double().cpu()
    silent = amplitude.isinf().expand(threshold.shape)
    factor = torch.where(
        silent, 0.0, threshold / torch.where(silent, 1.0, amplitude)
    )  # whole units per unit of activation
    dtype = network.graph.dtype
    value = torch.where(silent, 0.0, amplitude.expand(threshold.shape)).to(dtype)
    alphabet = neuron.alphabet.values
    if isinstance(neuron, MembraneNeuron):
        steps = neuron.bias is not None and constant_bias(neuron) is None  # one for each step
        bias = (cast(Tensor, neuron.bias).double().cpu() * factor).round().to(dtype) if steps else None
        if bias is not None and float(bias.abs().max()) > chip.largest_bias:
            reason = f"has a bias of {float(bias.abs().max()):g} at a step, which {chip.biases} bits cannot hold"
            raise RecipeError(reason, where=site.name, remedy="use a target with more bits for biases")
        start = _in_thresholds(torch.as_tensor(neuron.v0), threshold, silent) - int(strict)
        width = {"bits": chip.state, "overflow": chip.overflow}
        options: dict[str, Any] = {"fires": neuron.fires, "remembers": neuron.remembers, "spike_value": value, **width}
        return IntegerFire(threshold.to(dtype), start.to(dtype), bias, alphabet, **options)
    response = neuron.response(network.timesteps)
    assert response is not None
    start = _in_thresholds(torch.as_tensor(response.offset), threshold, silent)
    start = start - int(strict or response.strict)
    limits = network.timesteps, response.lower, response.upper
    return IntegerCount(threshold.to(dtype), start.to(dtype), *limits, alphabet=alphabet, spike_value=value)


def _in_thresholds(offset: Tensor, threshold: Tensor, silent: Tensor) -> Tensor:
    """An offset in units of θ, [], [C] or [C, ...], as whole units; 0 for silent channels."""
    offset = offset.double().cpu()
    shape = (-1,) + (1,) * max(0, offset.dim() - 1)
    return torch.where(silent.reshape(shape), 0.0, (offset * threshold.reshape(shape)).round())


def _pixels(
    network: SpikingNetwork, images: Tensor, preprocessing: Preprocessing | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The value of a pixel unit, the pixel that stands for 0, and what is missing to it; [1] or [C], float64.

    The stored preprocessing is used only if the images are pixels in it: arrays of other numbers are preprocessed too.
    """
    stored = network.provenance.calibration.get("preprocessing")
    how = preprocessing if preprocessing is not None or stored is None else Preprocessing.model_validate(stored)
    if how is not None:
        scale = how.scale or PIXELS
        mean = torch.tensor(how.mean or [0.0], dtype=torch.float64)
        mean, std = torch.broadcast_tensors(mean, torch.tensor(how.std or [1.0], dtype=torch.float64))
        unit, start = 1 / (scale * std), mean * scale
        if _are_pixels(images, unit, start):
            return unit, start.round().clamp(0, PIXELS), start - start.round().clamp(0, PIXELS)
        if preprocessing is not None:
            reason = "are not made of pixels from 0 to 255 by this preprocessing"
            remedy = "give the preprocessing of these images, or none: their range then decides"
            raise DataError(reason, where="calibration images", remedy=remedy)
    low, high = min(0.0, float(images.min())), max(0.0, float(images.max()))
    if high == low:
        raise DataError("are all 0", where="calibration images", remedy="give real images")
    unit = torch.tensor([(high - low) / PIXELS], dtype=torch.float64)
    zero = (-low / unit).round()
    return unit, zero, torch.zeros_like(zero)


def _are_pixels(images: Tensor, unit: Tensor, start: Tensor) -> bool:
    """True if the images are whole pixels within their range, or resized ones, which cover many levels."""
    shape = (-1,) + (1,) * (images.dim() - 2)
    pixels = images.double().cpu() / unit.reshape(shape) + start.reshape(shape)
    within = bool((pixels > -1).all()) and bool((pixels < PIXELS + 1).all())
    whole = float((pixels - pixels.round()).abs().mean()) < 0.01
    return within and (whole or float(pixels.max() - pixels.min()) > PIXELS / 2)


def _network(
    network: SpikingNetwork, unrounded: Graph, graph: Graph, neurons: list[IntegerNeuron], units: Units
) -> IntegerNetwork:
    """The network, in the smallest dtype that holds all its sums exactly."""
    provenance = copy.deepcopy(network.provenance)
    made = (network.ann, neurons, network.timesteps, network.recipe, provenance)
    bound = _largest_sum(graph, neurons, network.timesteps)
    dtype = next((dtype for dtype, most in EXACT.items() if bound < most), None)
    if dtype is None:
        reason = f"has sums of up to {bound:.3g}, which float64 does not hold exactly"
        raise RecipeError(reason, where="network", remedy="use fewer bits for the weights")
    exact, whole = (
        one.replace(tensors={n: t.to(dtype) + 0.0 for n, t in one.tensors.items() if t.is_floating_point()})  # no -0.0
        for one in (unrounded, graph)
    )
    found = IntegerNetwork(whole, *made, units=units, unrounded=exact)
    for neuron in found.neurons:
        neuron.to(dtype)
    found.execution, found.memory_budget = network.execution, network.memory_budget
    return found.to(network.graph.device)


def _largest_sum(graph: Graph, neurons: list[IntegerNeuron], steps: int) -> float:
    """An upper bound of every partial sum over all steps: absolute weights on the largest spikes and pixels."""
    biases = {n for node in graph.nodes for argument, n in node.parameters.items() if argument in SHIFTS}
    tensors = {name: t.abs() * (steps if name in biases else 1) for name, t in graph.tensors.items()}
    absolute = graph.replace(tensors=tensors)
    largest = [0.0]
    most = iter(max(map(abs, one.capacity(steps))) + one.alphabet.magnitude for one in neurons)
    held = iter(float(one.threshold.max() + one.initial.abs().max()) for one in neurons)
    own = iter(_sum_of_biases(one) for one in neurons)

    def emit(node: Any, current: Tensor, overwrite: bool) -> Tensor:
        largest.append(float(current.max()) + next(held) * (steps + 1) + next(own))
        return torch.full_like(current, next(most))

    def look_up(node: Any, total: Tensor) -> Tensor:
        """The sum of the absolute differences over all steps is at most T² f."""
        largest.append(float(total.max()))
        entry, gain = (graph.tensor(node.parameters[name]).abs().max() for name in ("table", "gain"))
        return torch.full_like(total, steps**2 * (float(entry * gain) / 2**GAIN_BITS + 1))

    image = torch.full((1, *graph.input_shape), float(PIXELS * steps), dtype=torch.float64, device=graph.device)
    output = absolute.on_means(image, emit, look_up)
    return max(*largest, float(output.max()))


def _sum_of_biases(neuron: IntegerNeuron) -> float:
    """The largest sum of a neuron's own biases, one for each step."""
    bias = neuron.bias if isinstance(neuron, IntegerFire) else None
    return 0.0 if bias is None else float(bias.abs().sum(0).max())


def _counted(network: IntegerNetwork, images: Tensor) -> list[str]:
    """A note on potentials beyond their width on the calibration images."""
    if not any(isinstance(neuron, IntegerFire) for neuron in network.neurons):
        return []
    network.overflows = 0
    network(images)
    where = [s.name for s in network.sites if cast(IntegerFire, network.neuron(s.name)).overflows]
    count, network.overflows = network.overflows, 0
    places = f" (first at {where[0]})" if where else ""
    return [f"{count} potentials beyond {network.units.target.state} bits on {len(images)} calibration images{places}"]
