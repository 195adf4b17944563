"""The closed form with its factors in the weights: the same answers as the network it was made from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import networks
import rheobase as rb
from conftest import grid_images, grid_network
from rheobase.core.errors import DataError, RecipeError
from rheobase.methods import METHODS, Recipe
from rheobase.neurons.constant_current import ConstantCurrent
from rheobase.neurons.integrate_fire import IntegrateFire

pytestmark = pytest.mark.usefixtures("traced_once")

RECIPES = {
    "Pascal by channel": rb.Pascal(levels=3, granularity="channel"),
    "QVM floor": rb.QVM(levels=8, rounding="floor"),
    "QVM ceil": rb.QVM(levels=2, rounding="ceil"),
    "QAC": rb.QAC(mean_timesteps=2.5),
    "ParallelConversion": rb.ParallelConversion(timesteps=5),
    "DAParallel": rb.DAParallel(timesteps=3, learning_rate=0.02, batch_size=4),
}


def converted(name: str, recipe: Recipe) -> rb.SpikingNetwork:
    network = grid_network(name)
    if recipe.activation is not None:
        network = rb.quantise(network, recipe, calibration=grid_images(name)).eval()
    return rb.convert(network, recipe, calibration=grid_images(name))


def test_every_method_with_a_closed_form_is_here() -> None:
    closed = {name for name in METHODS if METHODS[name]().neuron.builds.closed_form}
    assert {recipe.name for recipe in RECIPES.values()} == closed - {"TPP"}  # its counts are random


def test_random_counts_have_no_staircase() -> None:
    snn = converted("MLP", rb.TPP(timesteps=4))
    with pytest.raises(RecipeError, match="Probabilistic"):
        rb.for_inference(snn)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("name", networks.GRID)
def test_it_answers_what_the_network_answers(name: str, recipe: Recipe) -> None:
    if name == "QCFSResNet" and recipe.name == "QVM":
        pytest.skip("its sites were trained to round to the nearest")
    # float64, in which no count stands so close to the next that the order of operations tips it
    snn = converted(name, recipe).double()
    images = grid_images(name).double()
    ready = rb.for_inference(snn)
    torch.testing.assert_close(ready(images), snn(images))
    assert ready.timesteps == snn.timesteps
    assert {name: r.upper for name, r in ready.responses.items()} == {s.name: snn.steps_of(s.name) for s in snn.sites}
    bare = [node for node in ready.graph.nodes if node.operation == "site"]
    assert [node.name for node in bare] == [site.name for site in snn.sites]


def test_counts_by_hand() -> None:
    """One neuron, T = 4, θ = 2: z = 0.74 · 1.5 − 0.1 = 1.01, n = ⌊2.02 + ½⌋ = 2; the readout is 3 · 2 · 2/4 + 0.25."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).eval()
    with torch.no_grad():
        for layer, weight, bias in ((model[0], 1.5, -0.1), (model[2], 3.0, 0.25)):
            layer.weight.fill_(weight)  # type: ignore[union-attr, operator]
            layer.bias.fill_(bias)  # type: ignore[union-attr, operator]
    snn = rb.convert(model, rb.ParallelConversion(timesteps=4, errors=False), calibration=torch.rand(64, 1))
    snn.neurons[0].threshold.fill_(2.0)  # type: ignore[union-attr, operator]
    ready = rb.for_inference(snn)
    weights = [float(ready.graph.tensor(n.parameters[k])) for n in ready.graph.nodes[1::2] for k in ("weight", "bias")]
    assert weights == pytest.approx([3.0, -0.2 + 0.5, 1.5, 0.25])
    assert float(ready(torch.tensor([[0.74]]))) == pytest.approx(3.25)


def test_max_pooling_and_other_t() -> None:
    images = grid_images("MaxPoolVGG").double()
    snn = rb.convert(
        networks.build("MaxPoolVGG"),
        rb.ParallelConversion(timesteps=4, errors=False),
        calibration=images.float(),
        max_pool="gate",
    ).double()
    for steps in (1, 4, 7):
        ready = rb.for_inference(snn, steps)
        torch.testing.assert_close(ready(images), snn(images, steps))
        assert ready.timesteps == steps


@pytest.mark.slow
def test_it_is_apart_from_the_network_and_from_the_batch() -> None:
    images = grid_images("OptionAResNet")
    snn = converted("OptionAResNet", RECIPES["ParallelConversion"])
    before = snn(images)
    ready = rb.for_inference(snn)
    whole = ready(images)
    assert torch.equal(snn(images), before)
    assert torch.equal(torch.cat([ready(part) for part in images.split(3)]), whole)
    kept = images.clone()
    ready(images)
    assert torch.equal(images, kept)
    for neuron in snn.neurons:
        neuron.threshold.mul_(3.0)  # type: ignore[union-attr, operator]
    assert torch.equal(ready(images), whole)
    assert torch.equal(copy.deepcopy(ready)(images), whole)


@pytest.mark.slow
def test_a_silent_channel_stays_silent() -> None:
    model, images = networks.build("OptionAResNet"), grid_images("OptionAResNet")
    snn = rb.convert(model, rb.ParallelConversion(timesteps=3, errors=False), calibration=images).double()
    snn.neurons[2].threshold[1] = torch.inf  # type: ignore[index, operator]
    ready = rb.for_inference(snn)
    torch.testing.assert_close(ready(images.double()), snn(images.double()))


@pytest.mark.slow
def test_what_has_no_closed_form_is_refused() -> None:
    images = grid_images("OptionAResNet")
    snn = rb.convert(networks.build("OptionAResNet"), rb.RateCoding(timesteps=4), calibration=images)
    assert isinstance(snn.neurons[0], IntegrateFire)
    with pytest.raises(RecipeError, match=rf"{snn.sites[0].name}: has IntegrateFire .* run the network itself"):
        rb.for_inference(snn)
    snn = converted("OptionAResNet", RECIPES["QVM floor"])
    neuron = snn.neurons[3]
    assert isinstance(neuron, ConstantCurrent)
    neuron.initial_potential = torch.tensor(1.5)
    with pytest.raises(RecipeError, match=rf"{snn.sites[3].name}: has ConstantCurrent neurons whose .* outside"):
        rb.for_inference(snn)
    snn = converted("OptionAResNet", RECIPES["ParallelConversion"])
    with pytest.raises(RecipeError, match="calibrated for T = 5"):
        rb.for_inference(snn, 4)
    with pytest.raises(DataError, match="shape"):
        rb.for_inference(snn)(images[:, :, :5])
