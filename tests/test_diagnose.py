"""The error of every site: its parts worked by hand and their sum against the measured error; residual potentials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import networks
import rheobase as rb
from conftest import grid_images, grid_network, grid_snn
from rheobase.core.errors import StoreError
from rheobase.measure._diagnose import TERMS
from rheobase.measure.plots import diagnosis_plot
from rheobase.methods import METHODS
from rheobase.neurons import ConstantCurrent, IntegrateFire, ParallelIF
from rheobase.signals.signal import TimeSeries
from rheobase.zoo.digits import digits, train
from tables import drawn
from test_evaluate import VARIANTS


def scale(*weights: float, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """One neuron a layer."""
    parts: list[nn.Module] = []
    for i, weight in enumerate(weights):
        linear = nn.Linear(1, 1, bias=False)
        linear.weight = nn.Parameter(torch.tensor([[weight]]))
        parts += [linear] if i == len(weights) - 1 else [linear, activation()]
    return nn.Sequential(*parts).eval()


def integrate_fire(net: nn.Module, potential: float = 0.5) -> rb.SpikingNetwork:
    """θ = the largest activation for the image 1."""
    recipe = rb.RateCoding(timesteps=4, threshold="max", granularity="layer")
    recipe = rb.Recipe(
        name="plain",
        timesteps=4,
        neuron=rb.methods.IntegrateFireNeuron(initial_potential=potential),
        calibration=recipe.calibration[:1],
    )
    return rb.convert(net, recipe, calibration=torch.ones(4, 1))


def parts(snn: rb.SpikingNetwork, image: float) -> list[dict[str, float]]:
    found = rb.diagnose(snn, torch.tensor([[image]]))
    return [{name: term.mean for name, term in row.terms.items() if abs(term.mean) > 1e-9} for row in found.rows]


@pytest.mark.parametrize(
    ("potential", "image", "expected"),
    [
        # θ = 1, T = 4. 0.3: u = 0.8, 1.1 fires, 0.4, 0.7: one spike, the nearest quarter; 0.25 in place of 0.3
        (0.5, 0.3, [{"quantisation": -0.05}, {"inherited": -0.05}]),
        # 1.4: a spike at every step is 1
        (0.5, 1.4, [{"clipping": -0.4}, {"inherited": -0.4}]),
        # V0 = 0 and 0.2: no spike within 0.8; the nearest quarter would be 0.25
        (0.0, 0.2, [{"quantisation": 0.05, "offset": -0.25}, {"inherited": -0.2}]),
    ],
)
def test_worked_by_hand(potential: float, image: float, expected: list[dict[str, float]]) -> None:
    found = parts(integrate_fire(scale(1.0, 1.0, 1.0), potential), image)
    for site, wanted in zip(found, expected, strict=True):
        assert site == pytest.approx(wanted, abs=1e-6)


def test_unevenness_worked_by_hand() -> None:
    """The example of test_unevenness: N = 1 and M = 0 at the second site, whose activation is 0."""
    first, second, last = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False), nn.Linear(1, 1)
    first.weight = nn.Parameter(torch.tensor([[0.5], [0.25]]))
    second.weight = nn.Parameter(torch.tensor([[2.0, -4.0]]))
    net = nn.Sequential(first, rb.QCFS(4, 1.0), second, rb.QCFS(4, 1.0), last).eval()
    recipe = rb.RateCoding(timesteps=4, threshold="saturation", granularity="layer")
    snn = rb.convert(net, recipe, calibration=torch.tensor([[1.0], [1.4]]))
    assert parts(snn, 1.0) == [{}, {"unevenness": 0.25}]
    row = rb.diagnose(snn, torch.ones(1, 1)).rows[1]
    assert row.error == row.own == row.terms["unevenness"]
    assert row.spike_rate == 0.25
    # v[4] = ½ + 0 - 1: a spike too many
    assert row.residual is not None
    assert (row.residual.mean, row.residual.below, row.residual.above) == (-0.5, 1.0, 0.0)


def measured(snn: rb.SpikingNetwork, images: Tensor) -> list[Tensor]:
    """Mean output less analog activation at every site, from two plain runs."""
    execution, snn.execution = snn.execution, "steps"
    emitted: dict[str, list[Tensor]] = {site.name: [] for site in snn.sites}
    snn.readouts(images, (snn.timesteps,), monitor=lambda site, train: emitted[site.name].append(train.mean()))
    snn.execution = execution
    found: dict[str, Tensor] = {}

    def keep(node, z: Tensor, overwrite: bool) -> Tensor:  # type: ignore[no-untyped-def]
        found[node.name] = snn.ann.activate(node, z.clone())
        return found[node.name].clone()

    with torch.no_grad():
        snn.ann.on_means(images, keep)
    return [torch.cat(emitted[site.name]).double() - found[site.name].double() for site in snn.sites]


def check_sums(snn: rb.SpikingNetwork, images: Tensor) -> rb.measure.Diagnosis:
    found = rb.diagnose(snn, images)
    for row, error in zip(found.rows, measured(snn, images), strict=True):
        size = float(error.abs().mean())
        assert list(row.terms) == [name for name in TERMS if name != "rounding"]
        assert sum(term.mean for term in row.terms.values()) == pytest.approx(float(error.mean()), abs=1e-5)
        assert sum(term.share for term in row.terms.values()) == pytest.approx(size, abs=1e-5)
        assert row.error.mean == pytest.approx(float(error.mean()), abs=1e-5)
        assert row.error.size == row.error.share == pytest.approx(size, abs=1e-5)
        assert row.own.mean == pytest.approx(row.error.mean - row.terms["inherited"].mean, abs=1e-9)
        assert row.terms["clipping"].mean == -row.terms["clipping"].size
    assert found.rows[0].terms["inherited"].size == 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["MLP", "PreActResNet"])
def test_the_parts_add_up_for_every_method(variant: str, name: str) -> None:
    method, options = VARIANTS[variant]
    images = grid_images(name)
    snn = rb.convert(networks.build(name), METHODS[method](timesteps=4, **options), calibration=images)
    check_sums(snn, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.GRID)
def test_the_parts_add_up_on_every_network(name: str) -> None:
    found = check_sums(grid_snn(name), grid_images(name))
    # least-squares thresholds, V0 = θ/2 and no bias: a current is rounded to the nearest level, but for ties
    for row in found.rows:
        assert row.terms["offset"].size <= 1e-3 * row.error.size
        assert row.terms["segment"].size == 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [rb.QVM(), rb.QVM(timesteps=6), rb.Pascal()], ids=["QVM", "QVM T=6", "Pascal"])
def test_exact_methods(recipe: rb.Recipe) -> None:
    images = grid_images("QCFSResNet")
    snn = rb.convert(networks.build("QCFSResNet"), recipe, calibration=images)
    found = check_sums(snn, images)
    for row in found.rows:
        assert row.terms["unevenness"].size == 0
        assert row.residual is not None
        assert row.residual.below == row.residual.above == 0
        if recipe.timesteps is None:
            assert row.own.size == 0
    assert found.summary().startswith("No site differs") == (recipe.timesteps is None)


def mixed(name: str, *steps: int) -> dict[str, int]:
    """T or L from site to site."""
    return {site.name: steps[site.index % len(steps)] for site in grid_snn(name).sites}


TRAINED = {
    "QAC": lambda name: rb.QAC(mean_timesteps=2.5),
    "QAC by channel": lambda name: rb.QAC(mean_timesteps=2, granularity="channel"),
    "Pascal": lambda name: rb.Pascal(levels=3, granularity="channel"),
    "Pascal adapted": lambda name: rb.Pascal(levels=mixed(name, 1, 5, 3)),
    "QVM": lambda name: rb.QVM(levels=4, rounding="floor"),
    "QVM adapted": lambda name: rb.QVM(levels=mixed(name, 5, 2)),
}


APPROXIMATE = {
    "QCFS": rb.methods.QCFS(timesteps=4, levels=4, granularity="channel"),
    "SlipReLU": rb.SlipReLU(timesteps=4, levels=4, granularity="channel"),
}


def test_every_method_is_taken_apart_here() -> None:
    """Those that are trained below, the others in ``VARIANTS``."""
    assert {*(variant.split()[0] for variant in (*TRAINED, *APPROXIMATE, *VARIANTS))} == set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", APPROXIMATE.values(), ids=APPROXIMATE)
@pytest.mark.parametrize("name", networks.GRID)
def test_the_parts_add_up_for_methods_that_train_and_approximate(name: str, recipe: rb.Recipe) -> None:
    images = grid_images(name)
    snn = rb.convert(rb.quantise(grid_network(name), recipe, calibration=images).eval(), recipe, calibration=images)
    check_sums(snn, images)


@pytest.mark.slow
@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("name", ["MLP", "OptionAResNet"])
def test_the_parts_add_up_for_methods_that_train(name: str, method: str) -> None:
    """Of a network whose T differs from site to site too; exact, so nothing is added anywhere."""
    recipe, images = TRAINED[method](name), grid_images(name)
    snn = rb.convert(rb.quantise(grid_network(name), recipe, calibration=images).eval(), recipe)
    steps = [snn.steps_of(site.name) for site in snn.sites]
    found = check_sums(snn.double(), images.double())
    assert [row.timesteps for row in found.rows] == steps
    assert (len(set(steps)) > 1) == ("adapted" in method or method == "QAC")
    assert all(row.own.size < 1e-12 for row in found.rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["OptionAResNet", "QCFSResNet"])
@pytest.mark.parametrize("method", ["ParallelConversion", "DAParallel"])
def test_parallel_neurons_lose_nothing_to_timing(method: str, name: str) -> None:
    """They spike by the mean of what arrives."""
    images = grid_images(name)
    snn = rb.convert(networks.build(name), METHODS[method](timesteps=4), calibration=images)
    found = check_sums(snn, images)
    assert all(row.terms["unevenness"].size == 0 for row in found.rows)
    assert found.rows[-1].error.size > 0


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True])
def test_trains_that_are_cut_or_stretched_are_the_segments(cut: bool) -> None:
    """T = 2, 5, 3: with means nothing is lost on the way; replicated and truncated trains have other means."""
    images = grid_images("MLP")
    recipe = rb.Recipe(
        name="mixed",
        timesteps=None,
        neuron=rb.methods.IntegrateFireNeuron(timesteps=mixed("MLP", 2, 5, 3)),
        alignment=rb.signals.Alignment(expansion="replicate", reduction="truncate") if cut else None,
        calibration=rb.RateCoding(threshold="max").calibration[:1],
    )
    found = check_sums(rb.convert(networks.build("MLP"), recipe, calibration=images), images)
    assert [row.timesteps for row in found.rows] == [2, 5, 3]
    assert [row.terms["segment"].size > 1e-3 for row in found.rows] == [False, cut, cut]


def test_changed_weights_and_gates_are_the_segments() -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    weight = next(name for name in snn.graph.tensor_names if "fc2" in name and "weight" in name)
    changed = snn.graph.replace(tensors={weight: 1.5 * snn.graph.tensor(weight)})
    other = rb.SpikingNetwork(changed, snn.ann, list(snn.neurons), 4, snn.recipe)  # type: ignore[arg-type]
    found = check_sums(other, images)
    assert [row.terms["segment"].size > 1e-3 for row in found.rows] == [False, True, False]
    images = grid_images("VGG")
    net = networks.build("MaxPoolVGG")
    gated = rb.convert(net, rb.RateCoding(timesteps=4), calibration=images, max_pool="gate")
    found = check_sums(gated, images)
    assert [row.terms["segment"].size > 1e-3 for row in found.rows] == [False, True, False, True]


@pytest.mark.slow
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 9), bias=st.sampled_from([None, 1, 2]))
def test_the_residual_is_the_potential_after_the_last_step(seed: int, steps: int, bias: int | None) -> None:
    g = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, 2, 3, 4, generator=g, dtype=torch.float64)
    drawn = None if bias is None else torch.randn((3,) if bias == 1 else (steps, 3), generator=g, dtype=torch.float64)
    theta = torch.rand(3, generator=g, dtype=torch.float64) + 0.1
    neuron = IntegrateFire(theta, torch.rand(3, 4, generator=g, dtype=torch.float64), drawn)
    values, (potential,) = neuron.run(currents, neuron.init(currents.shape[1:], currents[0]))
    residual = neuron.residual(currents.mean(0), (values != 0).sum(0), steps)
    torch.testing.assert_close(residual, potential / theta[:, None])
    drawn = torch.rand(3, generator=g, dtype=torch.float64)
    for window in (
        ConstantCurrent(theta, steps, initial_potential=drawn),
        ParallelIF(theta, steps, pre=drawn - 0.5, post=0.1 * drawn, output_bias=0.5 * drawn * theta),
    ):
        spikes = (window.fire(TimeSeries(currents), steps) != 0).sum(0)
        left = window.residual(currents.mean(0), spikes, steps)
        assert bool((left >= -1e-9).logical_or(spikes == 0).all())
        assert bool((left < 1 + 1e-9).logical_or(spikes == steps).all())


def test_dead_and_saturated_channels() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    net[0].weight = nn.Parameter(torch.tensor([[1.0], [0.0], [0.0], [0.05]]))
    # channel 0 varies, 1 is never active, 2 is always 1, 3 is active and too weak for a spike
    net[0].bias = nn.Parameter(torch.tensor([0.0, -1.0, 1.0, 0.0]))
    recipe = rb.RateCoding(timesteps=4, threshold="max", granularity="layer")
    images = torch.linspace(0.2, 1, 8)[:, None]
    (row,) = rb.diagnose(rb.convert(net, recipe, calibration=images), images).rows
    assert row.dead_channels == (1, 3)
    assert row.dead_in_ann == (1,)
    assert 2 in row.saturated_channels
    assert 0 not in row.saturated_channels
    assert 0.25 <= row.saturated < 0.5


@pytest.mark.slow
def test_on_digits_the_error_falls_with_time() -> None:
    data = digits()
    net = train(data.train, epochs=1, seed=0)
    images = data.test[0][:100]
    found = {
        t: rb.diagnose(rb.convert(net, rb.RateCoding(timesteps=t), calibration=data.train), images) for t in (2, 32)
    }
    for few, many in zip(found[2].rows, found[32].rows, strict=True):
        assert many.error.size < 0.5 * few.error.size
        assert many.terms["quantisation"].size < 0.2 * few.terms["quantisation"].size
    last = found[2].rows[-1]
    assert last.terms["inherited"].share > 0.3 * last.error.size


def test_it_does_not_depend_on_batches_and_leaves_the_network_as_it_was() -> None:
    snn, images = grid_snn("MLP"), grid_images("MLP")
    before = snn(images)
    whole = rb.diagnose(snn, images)
    parts = rb.diagnose(snn, [images[:3], (images[3:], torch.zeros(len(images) - 3))])
    assert torch.equal(snn(images), before)
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert one.error.size == pytest.approx(other.error.size)
        assert one.dead_channels == other.dead_channels
        assert one.spike_rate == pytest.approx(other.spike_rate)
    rates = rb.evaluate(snn, images, timesteps=(4,)).site_rates
    assert {row.site: row.spike_rate for row in whole.rows} == pytest.approx(rates)
    assert [row.terms["unevenness"].size for row in whole.rows] == pytest.approx(
        [row.error for row in rb.measure.unevenness(snn, images).rows]
    )


def test_table_json_and_plot(tmp_path: Path) -> None:
    snn, images = grid_snn("OptionAResNet"), grid_images("OptionAResNet")
    found = rb.diagnose(snn, images)
    written = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert written["rows"][1]["terms"]["unevenness"]["size"] == found.rows[1].terms["unevenness"].size
    assert written["entry"] == found.entry.site
    assert found.entry.relative_own == max(row.relative_own for row in found.rows)
    table = str(found).splitlines()
    assert len(table) == 2 + len(found.rows) + 2
    assert all(line.count("|") == table[0].count("|") for line in table[:-2])
    assert f"Largest added error at {found.entry.site}" in table[-1]
    diagnosis_plot(found, tmp_path / "diagnosis.png")
    assert drawn(tmp_path / "diagnosis.png")
    with pytest.raises(StoreError, match="end the name in"):
        diagnosis_plot(found, tmp_path / "x.foo")
