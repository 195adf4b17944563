"""Forward temporal bias correction."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import networks
import rheobase as rb
from conftest import grid_data, grid_images, grid_snn
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.passes import TemporalBias
from rheobase.passes.held_out import logit_error
from rheobase.passes.temporal_bias import firing_excess, least_firing, relative_depths, step_targets

SMALL = TemporalBias(batch_size=8, iterations=3)


# -- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(seed=st.integers(0, 2**31), rate=st.floats(0.02, 0.98), theta=st.floats(0.1, 5.0))
def test_the_iteration_finds_the_bias_that_gives_the_rate(seed: int, rate: float, theta: float) -> None:
    """Proposition 1 for a continuous distribution with a positive density: b* exists, is unique, and is found."""
    g = torch.Generator().manual_seed(seed)
    # a mixture of two uniform distributions, one of them over the whole support: density positive everywhere
    width = 4 * theta
    potential = theta * (torch.rand((), generator=g) * 3 - 2) + width * torch.rand(4000, generator=g)
    inner = torch.rand(1000, generator=g) * width * 0.3 + potential.mean()
    potential = torch.cat([potential, inner]).double().reshape(-1, 1)
    threshold, target = torch.tensor(theta).double(), torch.tensor([rate * theta]).double()
    bias = torch.zeros(1, dtype=torch.float64)
    for _ in range(400):
        bias = bias + firing_excess(potential, bias, threshold, target)
    achieved = float((potential - bias >= threshold).double().mean())
    assert achieved == pytest.approx(rate, abs=0.005)
    assert float(bias) == pytest.approx(float(torch.quantile(potential, 1 - rate)) - theta, abs=0.03 * width)


def test_a_step_worked_out_by_hand() -> None:
    """Potentials 0.2, 0.6, 1.2, 1.6 with θ = 1: half of them fire; the ANN gives 0.25, so b rises by α · 0.25."""
    potential = torch.tensor([0.2, 0.6, 1.2, 1.6]).reshape(4, 1)
    excess = firing_excess(potential, torch.zeros(1), torch.tensor(1.0), torch.tensor([0.25]))
    assert excess.tolist() == [0.25]
    silent = firing_excess(potential, torch.zeros(1), torch.tensor([float("inf")]), torch.tensor([0.0]))
    assert silent.tolist() == [0.0]


def test_the_printed_sign_diverges() -> None:
    """Eq. 4 and line 25 add B, of which line 3 says B = s − a: the rate leaves its target, to 0 or 1."""
    potential = torch.linspace(-1, 2, 301).double().reshape(-1, 1)
    threshold, target = torch.tensor(1.0).double(), torch.tensor([0.25]).double()
    ours = printed = torch.zeros(1, dtype=torch.float64)
    for _ in range(100):
        ours = ours + 0.5 * firing_excess(potential, ours, threshold, target)
        printed = printed + 0.5 * firing_excess(potential, -printed, threshold, target)
    assert float(firing_excess(potential, ours, threshold, target).abs()) < 0.005
    assert float(firing_excess(potential, -printed, threshold, target)) == 0.75  # all fire
    assert float(printed) > 30


def test_a_target_above_the_threshold_is_never_met() -> None:
    """A spike a step is worth θ: without the clip at θ, b falls by as much in every update, for good."""
    potential = torch.linspace(-1, 2, 301).double().reshape(-1, 1)
    threshold = torch.tensor(1.0).double()
    biases = {}
    for target in (1.0, 1.5):
        bias = torch.zeros(1, dtype=torch.float64)
        for _ in range(100):
            bias = bias + 0.5 * firing_excess(potential, bias, threshold, torch.tensor([target]).double())
        biases[target] = float(bias)
    assert biases[1.0] == pytest.approx(-2.0, abs=0.1)  # the smallest potential, -1, is lifted to θ
    assert biases[1.5] < -20


@given(seed=st.integers(0, 2**31), images=st.integers(1, 9), places=st.sampled_from([(), (3,), (200, 130)]))
def test_spikes_are_counted_exactly_in_any_pieces(seed: int, images: int, places: tuple[int, ...]) -> None:
    """Also where the potentials of one image are more than a piece."""
    g = torch.Generator().manual_seed(seed)
    potential, bias = torch.randn(images, 6, *places, generator=g), torch.randn(6, generator=g)
    threshold = torch.rand(6, generator=g) + 0.1
    excess = firing_excess(potential, bias, threshold, torch.zeros(6))
    for channel in range(6):
        fired = int((potential[:, channel] - bias[channel] >= threshold[channel]).sum())
        expected = float(threshold[channel].double()) * fired / potential[:, channel].numel()
        assert float(excess[channel]) == pytest.approx(expected, rel=1e-14)


FLOATS = {"allow_nan": False, "allow_infinity": False, "width": 32}


@given(
    bias=st.floats(-1000, 1000, **FLOATS),
    threshold=st.floats(0.0009765625, 1000, **FLOATS),
)
@example(bias=-1.0, threshold=1.0)
@example(bias=0.0, threshold=2.0)
def test_the_smallest_firing_potential_is_exact(bias: float, threshold: float) -> None:
    """It fires after rounding, and the next smaller float32 does not."""
    b, theta = torch.tensor([bias]), torch.tensor([threshold])
    least = least_firing(b, theta)
    assert bool(least - b >= theta)
    assert not bool(torch.nextafter(least, torch.tensor([-torch.inf])) - b >= theta)


def slow(
    snn: rb.SpikingNetwork, images: Tensor, alpha: float, iterations: int, updates: int, ramp: float, batch_size: int
) -> list[list[list[float]]]:
    """Algorithm 1 in its own order: layers, batches, steps; with plain loops over neurons, in float64."""
    weights = [snn.graph.tensor(n.parameters["weight"]).double() for n in snn.graph.nodes if n.operation == "linear"]
    offsets = [snn.graph.tensor(n.parameters["bias"]).double() for n in snn.graph.nodes if n.operation == "linear"]
    steps, count = snn.timesteps, len(images)
    batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    thetas = [neuron.threshold.double() for neuron in snn.neurons]
    biases = [[[0.0] * len(theta) for _ in range(steps)] for theta in thetas]
    for _ in range(iterations):
        ann = images.double().flatten(1)
        arriving = ann.expand(steps, *ann.shape)
        for layer, theta in enumerate(thetas):
            ann = (ann @ weights[layer].T + offsets[layer]).clamp(0, snn.sites[layer].upper)
            current = arriving @ weights[layer].T + offsets[layer]
            leaving = torch.zeros_like(current)
            for channel in range(len(theta)):
                limit = float(theta[channel])
                if limit == float("inf"):
                    continue
                for batch in batches:
                    mean_target = sum(min(float(ann[i, channel]), limit) for i in batch) / len(batch)
                    rise = ramp * layer / (len(thetas) - 1)
                    if mean_target * (1 + rise) > limit:
                        rise = limit / mean_target - 1
                    potential = dict.fromkeys(batch, 0.5 * limit)
                    for t in range(steps):
                        target = mean_target * (1 + rise * (2 * t - (steps - 1)) / (steps - 1))
                        before = {i: potential[i] + float(current[t, i, channel]) for i in batch}
                        for _ in range(updates):
                            spikes = sum(before[i] - biases[layer][t][channel] >= limit for i in batch)
                            biases[layer][t][channel] += alpha * (limit * spikes / len(batch) - target)
                        for i in batch:
                            potential[i] = before[i] - biases[layer][t][channel]
                            potential[i] -= limit * (potential[i] >= limit)
                for i in range(count):
                    v = 0.5 * limit
                    for t in range(steps):
                        v += float(current[t, i, channel]) - biases[layer][t][channel]
                        if v >= limit:
                            leaving[t, i, channel] = limit
                            v -= limit
            arriving = leaving
    return biases


@pytest.mark.parametrize(
    ("iterations", "updates", "ramp"), [(1, 1, 0.0), (3, 1, 0.0), (1, 7, 0.0), (3, 4, 0.0), (2, 3, 1.0), (1, 2, 0.6)]
)
@pytest.mark.parametrize("pooled", [True, False])
def test_against_algorithm_1_in_plain_loops(iterations: int, updates: int, ramp: float, pooled: bool) -> None:
    """All layers in one simulation, step by step, is layer after layer: a bias depends on earlier layers and steps."""
    snn = copy.deepcopy(grid_snn("MLP"))
    data = grid_data("MLP", held_out=False)
    count = len(data.fit)
    size = -(-count // 3)  # the last of three batches is smaller
    expected = slow(snn, data.fit, 0.5, iterations, updates, ramp, count if pooled else size)
    correction = TemporalBias(
        batch_size=size, batches=3, pooled=pooled, iterations=iterations, updates=updates, ramp=ramp
    )
    correction.apply(snn, data)
    for neuron, biases in zip(snn.neurons, expected, strict=True):
        torch.testing.assert_close(neuron.bias, torch.tensor(biases), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("iterations", "updates"), [(60, 1), (1, 60)])
def test_each_step_emits_on_average_what_the_ann_does(iterations: int, updates: int) -> None:
    """Theorem 1: with converged biases the channel means agree at every step, where there are many places."""
    snn = copy.deepcopy(grid_snn("VGG"))
    data = grid_data("VGG", held_out=False)

    def gap() -> float:
        trains: dict[int, list[Tensor]] = {}
        snn.readouts(data.fit, (4,), monitor=lambda site, train: trains.setdefault(site.index, []).append(train.values))
        activations: dict[int, Tensor] = {}
        rb.passes.statistics.observe(snn.ann, data.fit, lambda site, a: activations.__setitem__(site.index, a))
        worst = 0.0
        for site, neuron in list(zip(snn.sites, snn.neurons, strict=True))[:2]:  # many places: rates are fine-grained
            theta = neuron.threshold.reshape(-1, *[1] * (len(site.shape) - 1))
            target = torch.minimum(activations[site.index], theta).movedim(1, 0).flatten(1).mean(1)
            emitted = torch.cat(trains[site.index], 1).movedim(2, 0).flatten(2).mean(2)  # [C, T]
            worst = max(worst, float(((emitted - target.unsqueeze(1)).abs() / neuron.threshold.unsqueeze(1)).mean()))
        return worst

    before = gap()
    TemporalBias(batch_size=len(data.fit), batches=1, iterations=iterations, updates=updates, alpha=0.3).apply(
        snn, data
    )
    assert gap() < 0.15 * before


@given(
    means=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    theta=st.floats(0.1, 5.0),
    steps=st.integers(1, 33),
    slope=st.floats(0, 1),
)
def test_a_ramp_asks_for_as_much_in_all(means: list[float], theta: float, steps: int, slope: float) -> None:
    """Every step between 0 and θ, rising, and the even target on average; without a slope the even target itself."""
    mean = torch.tensor(means, dtype=torch.float64) * theta
    targets = step_targets(mean, torch.tensor(theta, dtype=torch.float64), steps, slope)
    torch.testing.assert_close(targets.mean(0), mean, rtol=1e-12, atol=1e-12)
    assert bool((targets >= -1e-12).all() and (targets <= theta * (1 + 1e-12)).all())
    assert bool((targets.diff(dim=0) >= -1e-12).all())
    even = step_targets(mean, torch.tensor(theta, dtype=torch.float64), steps, 0.0)
    assert torch.equal(even, mean.expand(steps, -1))


def test_a_ramp_worked_out_by_hand() -> None:
    """Mean 0.2 under θ = 1: T = 3, slope ½: 0.1, 0.2, 0.3; mean 0.8 can rise by a quarter only, to θ."""
    targets = step_targets(torch.tensor([0.2, 0.8, 0.0]).double(), torch.tensor(1.0).double(), 3, 0.5)
    expected = [[0.1, 0.6, 0.0], [0.2, 0.8, 0.0], [0.3, 1.0, 0.0]]
    torch.testing.assert_close(targets, torch.tensor(expected).double())


@pytest.mark.parametrize("held_out", [True, False])
def test_the_ramp_is_the_better_of_two(held_out: bool) -> None:
    """After one iteration each, on held-out images or else on the fitted ones; then as if it had been given."""
    data = grid_data("VGG", held_out=held_out)
    judging = data.held_out if held_out else data.fit
    size = len(data.fit)
    errors, biases = {}, {}
    for ramp in (0.0, 1.0):
        snn = copy.deepcopy(grid_snn("VGG"))
        changes = TemporalBias(ramp=ramp, batch_size=size, batches=1, iterations=1).apply(snn, data)
        errors[ramp] = changes.history[1]["logit_error"] if held_out else logit_error(snn, judging)
        snn = copy.deepcopy(grid_snn("VGG"))
        TemporalBias(ramp=ramp, batch_size=size, batches=1, iterations=2).apply(snn, data)
        biases[ramp] = [neuron.bias for neuron in snn.neurons]
    assert errors[0.0] != errors[1.0]
    better = min(errors, key=lambda ramp: errors[ramp])
    snn = copy.deepcopy(grid_snn("VGG"))
    changes = TemporalBias(ramp=None, batch_size=size, batches=1, iterations=2).apply(snn, data)
    assert any(note.startswith(f"ramp {better:g} chosen") for note in changes.notes)
    for neuron, expected in zip(snn.neurons, biases[better], strict=True):
        torch.testing.assert_close(neuron.bias, expected)


def test_without_patience_every_iteration_runs() -> None:
    """Steps of α = 5 overshoot and gain nothing; the default stops after three such iterations."""
    data = grid_data("MLP")
    size = len(data.fit)
    runs = {}
    for patience in (3, None):
        correction = TemporalBias(alpha=5.0, updates=1, iterations=9, batch_size=size, batches=1, patience=patience)
        runs[patience] = len(correction.apply(copy.deepcopy(grid_snn("MLP")), data).history) - 1
    assert runs[None] == 9
    assert runs[3] < 9


@pytest.mark.slow
def test_depth_is_the_longest_way() -> None:
    """A residual network's site behind a sum is as deep as its longer branch."""
    depths = relative_depths(grid_snn("OptionAResNet").sites)
    values = list(depths.values())
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert values == sorted(values)  # a chain of blocks: the order of execution
    assert relative_depths(grid_snn("MLP").sites[:1]) == {grid_snn("MLP").sites[0].name: 0.0}


# -- what it promises -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.GRID)
def test_never_worse_than_it_was_given(name: str) -> None:
    snn, data = copy.deepcopy(grid_snn(name)), grid_data(name)
    before = logit_error(snn, data.held_out)
    changes = SMALL.apply(snn, data)
    after = logit_error(snn, data.held_out)
    assert after <= before
    kept = [note for note in changes.notes if "original network kept" in note]
    assert bool(kept) == (not changes.changed)
    assert [record["iteration"] for record in changes.history] == list(range(len(changes.history)))
    assert min(record["logit_error"] for record in changes.history) == pytest.approx(after, rel=1e-12)


@pytest.mark.slow
def test_the_result_does_not_depend_on_how_the_data_came() -> None:
    images = grid_images("OptionAResNet")
    recipe = rb.FTBC(timesteps=3, batch_size=8, iterations=2)
    whole = rb.convert(networks.build("OptionAResNet"), recipe, calibration=images)
    parts = rb.convert(networks.build("OptionAResNet"), recipe, calibration=list(images.split([3, 1, 9, 7])))
    for a, b in zip(whole.neurons, parts.neurons, strict=True):
        assert torch.equal(a.bias, b.bias)
    together = whole(images)
    for size in (1, 3, 7):
        assert torch.equal(together, torch.cat([whole(sub_batch) for sub_batch in images.split(size)]))


def test_stepwise_and_saved_networks_keep_the_biases(tmp_path) -> None:  # type: ignore[no-untyped-def]
    images = grid_images("VGG")
    snn = rb.convert(networks.build("VGG"), rb.FTBC(timesteps=4, batch_size=8, iterations=2), calibration=images)
    again = rb.load(rb.save(snn, tmp_path / "snn"))
    assert torch.equal(again(images), snn(images))
    *_, (_, last) = snn.stream(images)
    assert torch.equal(last, snn(images))


def test_composes_with_a_constant_shift() -> None:
    images = grid_images("VGG")
    recipe = rb.Recipe(
        name="FTBC on RTS",
        timesteps=4,
        neuron=rb.methods.IntegrateFireNeuron(initial_potential=0),
        calibration=(rb.passes.Thresholds(), rb.passes.ShiftCurrent(), SMALL),
    )
    snn = rb.convert(networks.build("VGG"), recipe, calibration=images)
    assert all(neuron.bias.shape == (4, site.channels) for neuron, site in zip(snn.neurons, snn.sites, strict=True))


def test_ftbc_starts_from_a_current_in_place_of_an_initial_potential() -> None:
    recipe = rb.FTBC(timesteps=4, initial_potential=0, shift=0.5)
    thresholds, shift, _ = recipe.calibration
    assert (thresholds.shift, shift) == (0.5, rb.passes.ShiftCurrent(shift=0.5))  # type: ignore[attr-defined]
    assert recipe.calibration[:2] == rb.SNNCalibration(timesteps=4).calibration[:2]
    assert recipe.neuron == rb.SNNCalibration(timesteps=4).neuron
    assert len(rb.FTBC(timesteps=4).calibration) == 2


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fewer_images_than_one_batch() -> None:
    with pytest.raises(CalibrationError, match=r"16 images to fit on \(4 are held out\), fewer than one batch of 128"):
        rb.convert(networks.build("MLP"), rb.FTBC(timesteps=2, pooled=False), calibration=grid_images("MLP"))


def test_pooled_batches_are_all_that_there_is() -> None:
    """One pool of all images, however many were asked for."""
    found = [
        rb.convert(networks.build("MLP"), rb.FTBC(timesteps=2, batch_size=size), calibration=grid_images("MLP"))
        for size in (8, 128)
    ]
    assert torch.equal(*(snn.neurons[1].bias for snn in found))


@pytest.mark.parametrize(
    ("option", "value"),
    [*(("alpha", value) for value in (0.0, -0.5, float("nan"), float("inf"))), ("updates", 0), ("iterations", 0)],
)
def test_impossible_options(option: str, value: float) -> None:
    with pytest.raises(RecipeError, match=option):
        rb.FTBC(timesteps=2, **{option: value})


@pytest.mark.slow
def test_another_number_of_steps_and_how_to_get_it() -> None:
    images = grid_images("MLP")
    snn = rb.convert(networks.build("MLP"), rb.FTBC(timesteps=8, batch_size=8, iterations=2), calibration=images)
    with pytest.raises(RecipeError, match=r"calibrated for T = 8.*FTBC\(timesteps=4\)"):
        snn(images, timesteps=4)
    with pytest.raises(RecipeError, match="calibrated for T = 8"):
        rb.evaluate(snn, images, timesteps=(4, 8))
    assert [row.timesteps for row in rb.evaluate(snn, images).rows] == [8]
    other = rb.convert(snn, rb.FTBC(timesteps=4, batch_size=8, iterations=2), calibration=images)
    fresh = rb.convert(networks.build("MLP"), rb.FTBC(timesteps=4, batch_size=8, iterations=2), calibration=images)
    assert torch.equal(other(images), fresh(images))
    with pytest.raises(RecipeError, match="max_pool, nonlinear, example and output: have no effect"):
        rb.convert(snn, rb.OPI(timesteps=4), calibration=images, max_pool="average")


def test_diverging_biases_stop_and_the_last_good_stay() -> None:
    snn, data = copy.deepcopy(grid_snn("MLP")), grid_data("MLP", held_out=False)
    before = snn(data.fit)
    changes = TemporalBias(batch_size=8, alpha=1e6).apply(snn, data)
    (note,) = [note for note in changes.notes if "diverge" in note]
    assert "iteration 1" in note
    assert snn.sites[0].name in note
    assert torch.equal(snn(data.fit), before)


@pytest.mark.slow
def test_a_site_without_activity() -> None:
    model = networks.build("MLP")
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        first.weight.zero_()
        first.bias.fill_(-1.0)
    snn = rb.convert(model, rb.FTBC(timesteps=2, batch_size=8), calibration=grid_images("MLP"))
    notes = snn.provenance.passes[1]["notes"]
    assert any(note == f"{snn.sites[0].name}: no activity on the calibration images" for note in notes)
    assert not bool(snn.neurons[0].bias.any())


def test_thresholds_do_not_move_under_biases() -> None:
    recipe = rb.Recipe(
        name="x", timesteps=2, calibration=(rb.passes.Thresholds(), SMALL, rb.passes.Thresholds(method="max"))
    )
    with pytest.raises(CalibrationError, match="put the thresholds first"):
        rb.convert(networks.build("MLP"), recipe, calibration=grid_images("MLP"))


def test_a_comparison_gives_the_corrections_of_counted_spikes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Binary neurons are corrected by comparisons with θ; by their spikes, the biases have the same bits."""
    images = grid_images("MLP")
    recipe = rb.FTBC(timesteps=4, batch_size=8)
    snn = rb.convert(networks.build("MLP"), recipe, calibration=images)
    assert all(neuron.fires_at_threshold for neuron in snn.neurons)
    monkeypatch.setattr(rb.neurons.MembraneNeuron, "fires_at_threshold", False)
    other = rb.convert(networks.build("MLP"), recipe, calibration=images)
    for one, two in zip(snn.neurons, other.neurons, strict=True):
        assert torch.equal(one.bias, two.bias)
    assert not rb.neurons.Graded(torch.tensor(1.0), torch.tensor(0.5), magnitude=2).fires_at_threshold
