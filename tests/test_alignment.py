"""Networks whose sites run for different numbers of steps: alignment of every branch, against plain loops."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import networks
import rheobase as rb
from conftest import grid_images, grid_snn
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.graph.operations import OPERATIONS
from rheobase.graph.trainable import TrainableGraph
from rheobase.methods import ConstantCurrentNeuron
from rheobase.neurons import IntegrateFire
from rheobase.signals.alignment import Alignment
from rheobase.signals.signal import Constant, TimeSeries, along_channels

COMBINATIONS = [
    Alignment(expansion=e, reduction=r)  # type: ignore[arg-type]
    for e in ("average", "replicate")
    for r in ("average", "truncate")
]


def names_of(alignment: Alignment) -> str:
    return f"{alignment.expansion}+{alignment.reduction}"


# -- one train ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),  # each twice, as in section 4.3
        (4, 5, [0, 0, 1, 2, 3]),
        (3, 7, [0, 0, 0, 1, 1, 2, 2]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_replication_by_hand(before: int, after: int, expected: list[int]) -> None:
    train = TimeSeries(torch.arange(float(before)).reshape(-1, 1, 1))
    aligned = Alignment(expansion="replicate").align(train, after)
    assert isinstance(aligned, TimeSeries)
    assert aligned.values.flatten().tolist() == expected


@given(before=st.integers(1, 9), after=st.integers(1, 9), seed=st.integers(0, 99))
def test_what_alignment_keeps(before: int, after: int, seed: int) -> None:
    """Equal T: the train itself. Every step of the result is a mean of steps: weights ≥ 0 that sum to 1."""
    g = torch.Generator().manual_seed(seed)
    train = TimeSeries(torch.randn(before, 2, 3, generator=g, dtype=torch.float64))
    for alignment in COMBINATIONS:
        result = alignment.align(train, after)
        if before == after:
            assert result is train
            continue
        expanding = after > before
        if (alignment.expansion if expanding else alignment.reduction) == "average":
            assert isinstance(result, Constant)
            torch.testing.assert_close(result.values, sum(train.values) / before)
        else:
            assert isinstance(result, TimeSeries)
            assert result.steps == after
            picked = [next(i for i, x in enumerate(train.values) if torch.equal(x, y)) for y in result.values]
            assert picked == sorted(picked)
            if not expanding:
                assert picked == list(range(after))
            else:  # every step is there, ⌊T/T'⌋ or one more times
                assert {picked.count(i) for i in range(before)} <= {after // before, after // before + 1}
        held = Constant(train.values[0])
        assert alignment.align(held, after) is held


# -- whole networks -----------------------------------------------------------------------------------------------


def mixed(name: str, cycle: tuple[int, ...] = (2, 5, 3, 5, 1)) -> dict[str, int]:
    return {site.name: cycle[site.index % len(cycle)] for site in grid_snn(name).sites}


@cache
def thresholds(name: str) -> list[Tensor]:
    return [neuron.threshold.double() for neuron in grid_snn(name).neurons]


@cache
def quantised(name: str, levels: int) -> TrainableGraph:
    return rb.quantise(networks.build(name), rb.QVM(levels=levels), calibration=grid_images(name)).eval()


def integrate_fire(name: str, steps: dict[str, int], alignment: Alignment | None) -> rb.SpikingNetwork:
    """Plain neurons in float64, θ of the plain conversion."""
    neuron = rb.methods.IntegrateFireNeuron(timesteps=steps)
    recipe = rb.Recipe(name="mixed", timesteps=None, neuron=neuron, alignment=alignment)
    snn = rb.convert(copy.deepcopy(grid_snn(name)), recipe).double()
    for layer, theta in zip(snn.neurons, thresholds(name), strict=True):
        layer.threshold = theta
    return snn


def align_loop(values: list[Tensor], steps: int, alignment: Alignment) -> list[Tensor]:
    before = len(values)
    if before == steps:
        return values
    how = alignment.expansion if steps > before else alignment.reduction
    if how == "average":
        return [torch.stack(values).mean(0)] * steps
    if how == "truncate":
        return values[:steps]
    return [values[int(t * before / steps + 1e-9)] for t in range(steps)]


def reference(snn: rb.SpikingNetwork, images: Tensor, steps: dict[str, int], alignment: Alignment) -> Tensor:
    """Every site in turn: its whole past from the sites before it, one step and one branch at a time."""
    graph = snn.graph
    nodes = {node.name: node for node in graph.nodes}
    emitted: dict[str, list[Tensor]] = {}

    def operate(name: str, xs: list[Tensor]) -> Tensor:
        node = nodes[name]
        parameters = {argument: graph.tensor(tensor) for argument, tensor in node.parameters.items()}
        return OPERATIONS[node.operation].apply(*xs, **node.attributes, **parameters)

    def arriving(name: str, wanted: int) -> list[Tensor]:
        node = nodes[name]
        if node.operation == "input":
            return [images] * wanted
        if node.operation == "site":
            return align_loop(emitted[name], wanted, alignment)
        branches = [arriving(source, wanted) for source in node.inputs]
        if node.operation != "max_pool":
            return [operate(name, [branch[t] for branch in branches]) for t in range(wanted)]
        total = torch.stack(branches[0]).mean(0)
        _, winners = OPERATIONS["max_pool"].apply(total, **node.attributes, return_indices=True)
        return [x.flatten(2).gather(2, winners.flatten(2)).reshape(winners.shape) for x in branches[0]]

    def mean(name: str) -> Tensor:
        node = nodes[name]
        if node.operation == "max_pool":
            (source,) = node.inputs
            return OPERATIONS["max_pool"].apply(mean(source), **node.attributes)
        if node.operation == "site":
            return torch.stack(emitted[name]).mean(0)
        return images if node.operation == "input" else operate(name, [mean(source) for source in node.inputs])

    for site in snn.sites:
        neuron = snn.neuron(site.name)
        theta = along_channels(neuron.threshold, 1 + len(site.shape))
        amplitude = torch.where(theta.isinf(), 0.0, theta)
        potential: Tensor | float = 0.5 * amplitude
        emitted[site.name] = []
        for current in arriving(nodes[site.name].inputs[0], steps[site.name]):
            potential = potential + current
            spikes = (potential >= theta).to(current.dtype) * amplitude
            potential = potential - spikes
            emitted[site.name].append(spikes)
    return mean(graph.output)


@pytest.mark.slow
@pytest.mark.parametrize("alignment", COMBINATIONS, ids=names_of)
@pytest.mark.parametrize("name", ["PreActResNet", "DenseNet", "UNet", "Inception"])
def test_every_branch_is_aligned_to_the_site_it_feeds(name: str, alignment: Alignment) -> None:
    """Residual streams, concats and skips that several sites with different T read."""
    steps, images = mixed(name), grid_images(name)[:3].double()
    snn = integrate_fire(name, steps, alignment)
    assert not snn.streams
    assert snn.timesteps == 5
    torch.testing.assert_close(snn(images), reference(snn, images, steps, alignment))
    again = {site: 2 * t for site, t in steps.items()}
    torch.testing.assert_close(snn(images, timesteps=10), reference(snn, images, again, alignment))


def test_the_combinations_differ() -> None:
    name = "PreActResNet"
    images = grid_images(name)[:3].double()
    answers = [integrate_fire(name, mixed(name), alignment)(images) for alignment in COMBINATIONS]
    for i, a in enumerate(answers):
        for b in answers[:i]:
            assert float((a - b).abs().max()) > 1e-3
    torch.testing.assert_close(integrate_fire(name, mixed(name), None)(images), answers[0])


@pytest.mark.parametrize("alignment", COMBINATIONS[::3], ids=names_of)
def test_max_pool_gates_are_aligned(alignment: Alignment) -> None:
    images = grid_images("MaxPoolVGG")[:3]
    gated = rb.convert(networks.build("MaxPoolVGG"), rb.RateCoding(timesteps=4), calibration=images, max_pool="gate")
    steps = {site.name: (3, 2, 4, 1)[site.index] for site in gated.sites}
    neuron = rb.methods.IntegrateFireNeuron(timesteps=steps)
    snn = rb.convert(gated, rb.Recipe(name="mixed", timesteps=None, neuron=neuron, alignment=alignment)).double()
    images = images.double()
    torch.testing.assert_close(snn(images), reference(snn, images, steps, alignment))


@pytest.mark.slow
def test_equal_steps_of_their_own_change_nothing() -> None:
    name = "OptionAResNet"
    plain, own = copy.deepcopy(grid_snn(name)).double(), integrate_fire(name, mixed(name, (4,)), None)
    images = grid_images(name)[:4].double()
    assert own.streams
    assert torch.equal(own(images), plain(images))
    assert torch.equal(own.readouts(images, (1, 3, 6)), plain.readouts(images, (1, 3, 6)))


@pytest.mark.slow
def test_averaging_everywhere_is_a_constant_current() -> None:
    """Where T changes on every edge, plain neurons with averaging are those of QVM and QAC: no new neuron."""
    name = "MLP"
    qnet = quantised(name, 4)
    names = list(qnet.activations)
    steps = dict(zip(names, (2, 5, 3), strict=True))
    constant = rb.Recipe(name="constant", timesteps=None, neuron=ConstantCurrentNeuron(timesteps=steps))
    plain = rb.Recipe(
        name="plain",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps=steps),
        alignment=Alignment(),
        calibration=(rb.passes.Thresholds(method="saturation", granularity="layer"),),
    )
    images = grid_images(name).double()
    a = rb.convert(qnet, constant).double()
    b = rb.convert(qnet, plain, calibration=grid_images(name)).double()
    assert (a.execution_mode, b.execution_mode) == ("counts", "steps")
    assert a.mean_steps() == b.mean_steps() == 10 / 3
    torch.testing.assert_close(a(images), b(images))


def test_levels_as_steps_and_a_saved_network(tmp_path: Path) -> None:
    name = "MLP"
    levels = dict(zip((site.name for site in grid_snn(name).sites), (2, 5, 3), strict=True))
    qnet = rb.quantise(networks.build(name), rb.QVM(levels=levels), calibration=grid_images(name)).eval()
    recipe = rb.Recipe(
        name="plain",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps="levels"),
        alignment=Alignment(expansion="replicate", reduction="truncate"),
        calibration=(rb.passes.Thresholds(method="saturation", granularity="layer"), rb.passes.BiasCorrection()),
    )
    assert rb.Recipe.from_yaml(recipe.to_yaml()) == recipe
    snn = rb.convert(qnet, recipe, calibration=grid_images(name))
    assert {site.name: snn.steps_of(site.name) for site in snn.sites} == levels
    (note,) = (note for note in snn.provenance.notes if "alignment" in note)
    assert note == "alignment: expansion 'replicate' on 1 of 2 edges, reduction 'truncate' on 1 of 2 edges"
    again = rb.load(rb.save(snn, tmp_path / "net"))
    assert again.alignment == recipe.alignment
    assert torch.equal(again(grid_images(name)), snn(grid_images(name)))
    evaluation = rb.evaluate(snn, grid_images(name), timesteps=(5, 10))
    assert [row.mean_timesteps for row in evaluation.rows] == [10 / 3, 20 / 3]
    assert " mean T |" in str(evaluation)
    assert "mean T" not in str(rb.evaluate(grid_snn(name), grid_images(name)))


@pytest.mark.slow
def test_pascs_neurons_with_mixed_steps_and_averaging_on_qcfs() -> None:
    """Recipes of existing parts: PASC at learned levels, QAC's averaging on a QCFS network, at any T."""
    name = "OptionAResNet"
    qnet = rb.quantise(networks.build(name), rb.Pascal(levels=mixed(name)), calibration=grid_images(name)).eval()
    images = grid_images(name)[:6]
    for recipe in (rb.Pascal(), rb.QVM()):
        snn = rb.convert(qnet, recipe)
        assert snn.mean_steps() == sum(mixed(name).values()) / len(mixed(name))
        with torch.no_grad():
            assert torch.equal(snn(images), snn.ann(images))
    uniform = quantised(name, 4)
    averaged = rb.convert(uniform, rb.QVM())
    plain = rb.convert(
        uniform, rb.RateCoding(timesteps=4, threshold="saturation", granularity="layer"), calibration=grid_images(name)
    )
    with torch.no_grad():
        reference = averaged.ann(images)
    assert torch.equal(averaged(images), reference)
    assert float((plain(images) - reference).norm()) > 0.05 * float(reference.norm())


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        rb.passes.BiasCorrection(images=8),
        rb.passes.PotentialCorrection(images=8),
        rb.passes.ScaleThresholds(images=8, sweeps=1),
        rb.passes.LocalThresholdBalancing(images=8, rounds=1),
    ],
)
def test_passes_on_mixed_steps(part: rb.passes.BiasCorrection) -> None:
    """They help, or are undone; what they change is the network that runs."""
    name = "DenseNet"
    recipe = rb.Recipe(
        name="mixed",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps=mixed(name)),
        alignment=Alignment(expansion="replicate", reduction="truncate"),
        calibration=(rb.passes.Thresholds(), part),
    )
    snn = rb.convert(grid_snn(name), recipe, calibration=grid_images(name))
    record = snn.provenance.passes[1]
    assert record["changed"] or "original network kept" in record["notes"][-1]
    if part.kind == "bias_correction":  # after it, each channel's mean output is nearer the ANN's
        before, after = record["error_before"], record["error_after"]
        assert sum(after) < sum(before)


def test_no_pass_through_time_for_mixed_steps() -> None:
    name, part = "MLP", rb.passes.TemporalBias(batch_size=4, batches=1)
    neuron = rb.methods.IntegrateFireNeuron(timesteps=mixed(name))
    recipe = rb.Recipe(name="mixed", timesteps=None, neuron=neuron, calibration=(rb.passes.Thresholds(), part))
    with pytest.raises(CalibrationError, match="different numbers of steps"):
        rb.convert(grid_snn(name), recipe, calibration=grid_images(name))
    snn = integrate_fire(name, mixed(name), None)
    with pytest.raises(RecipeError, match="wait for their whole input"):
        rb.measure.potentials(snn, grid_images(name).double(), snn.sites[0].name, 1)


# -- bad input ----------------------------------------------------------------------------------------------------


def test_alignment_without_effect() -> None:
    name, images = "MLP", grid_images("MLP")
    equal = rb.Recipe(name="own", timesteps=4, alignment=Alignment(), calibration=(rb.passes.Thresholds(),))
    with pytest.raises(RecipeError, match="alignment: has no effect"):
        rb.convert(grid_snn(name), equal, calibration=images)
    qnet = quantised(name, 4)
    averaging = rb.Recipe(name="own", timesteps=None, neuron=ConstantCurrentNeuron(), alignment=Alignment())
    with pytest.raises(RecipeError, match="alignment: has no effect: ConstantCurrent"):
        rb.convert(qnet, averaging)
    growing = dict(zip((site.name for site in grid_snn(name).sites), (1, 2, 3), strict=True))
    snn = integrate_fire(name, growing, Alignment(reduction="truncate"))
    assert "reduction 'truncate' has no effect, on no edge" in snn.provenance.notes[-1]


def test_steps_that_do_not_fit_the_sites() -> None:
    name, images = "MLP", grid_images("MLP")
    steps = mixed(name)
    last = list(steps)[-1]
    short = {site: t for site, t in steps.items() if site != last}
    for wrong, message in ((short, f"no timesteps for {last}"), ({**steps, "conv9": 2}, "conv9")):
        for neuron in (rb.methods.IntegrateFireNeuron(timesteps=wrong), ConstantCurrentNeuron(timesteps=wrong)):
            recipe = rb.Recipe(name="own", timesteps=None, neuron=neuron)
            with pytest.raises(RecipeError, match=message):
                rb.convert(quantised(name, 4), recipe)
    for wrong in (0, -1, 1.5, {**steps, last: 0}, "many"):
        with pytest.raises(RecipeError, match="timesteps"):
            rb.Recipe(name="own", timesteps=None, neuron={"kind": "integrate_fire", "timesteps": wrong})
    with pytest.raises(RecipeError, match="timesteps: is 0"):
        IntegrateFire(torch.tensor(1.0), torch.tensor(0.5), timesteps=0)
    recipe = rb.Recipe(name="own", timesteps=None, neuron=rb.methods.IntegrateFireNeuron(timesteps="levels"))
    with pytest.raises(RecipeError, match="is not a quantised activation"):
        rb.convert(grid_snn(name), recipe)
    with pytest.raises(RecipeError, match=r"would be 1\.6"):
        integrate_fire(name, steps, None)(images.double(), timesteps=4)
    with pytest.raises(RecipeError, match="expansion"):
        rb.Recipe(name="own", timesteps=4, alignment={"expansion": "repeat"})  # type: ignore[arg-type]
