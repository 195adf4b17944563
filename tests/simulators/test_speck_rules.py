"""The rules by which sinabs prepares a network for the Speck chip, on a network that is already in its whole numbers.

The rules are ``sinabs/backend/dynapcnn/discretize.py`` (sinabs 3.1, Apache License 2.0), used in this test only. The
file is loaded alone: its package imports ``samna``, the driver of the chip, whose public release is a stub that
installs the driver from elsewhere when it is imported.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rheobase as rb
from rheobase.zoo.digits import digits

pytestmark = pytest.mark.simulators

for package in ("nir", "nirtorch", "sinabs"):
    pytest.importorskip(package)

import readers  # noqa: E402

IMAGES, TIMESTEPS = 100, 8
LOWEST = -(2**15)  # the lower bound of the potential that the rules assume; the highest is 2^15 - 1


def vendors_rules() -> Any:
    """The module ``discretize``, without its package."""
    package = importlib.util.find_spec("sinabs")
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0]) / "backend" / "dynapcnn" / "discretize.py"
    if not file.is_file():
        pytest.skip("this release of sinabs has its rules elsewhere")
    spec = importlib.util.spec_from_file_location("speck_rules", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Small(nn.Module):
    """Convolutions, pooling and dense layers, each followed by neurons, as Speck's cores have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(8 * 2 * 2, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def for_speck() -> tuple[rb.network.IntegerNetwork, Tensor]:
    """A trained network in whole numbers, and test images."""
    data = digits()
    torch.manual_seed(0)
    net = Small()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
    images, labels = data.train
    for _ in range(5):
        for part in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(images[part]), labels[part]).backward()
            optimiser.step()
    recipe = rb.RateCoding(timesteps=TIMESTEPS, initial_potential=0)
    snn = rb.convert(net.eval(), recipe, calibration=data.train)
    # the digits have 17 grey values: with pixels to 255, biases of 8 bits would leave first weights of one bit
    grey = rb.data.Preprocessing(scale=16)
    whole = rb.integers(snn, "speck", calibration=data.train, preprocessing=grey)
    pictures, labels = (part[:IMAGES] for part in data.test)
    assert float((whole(pictures).argmax(1) == labels).float().mean()) > 0.5
    return whole, pictures


def discretise(rules: Any, layer: nn.Module, neurons: Any) -> None:
    """Apply the rules to a layer and its neurons; a dense layer is a 1x1 convolution to them."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    conv = layer
    if isinstance(layer, nn.Linear):
        conv = nn.Conv2d(layer.in_features, layer.out_features, 1)
        conv.weight.data = layer.weight.data.reshape(conv.weight.shape)
        conv.bias.data = layer.bias.data
    (theta,) = neurons.spike_threshold.unique()  # one threshold a layer, which the rules require
    neurons.spike_threshold = nn.Parameter(theta.float(), requires_grad=False)
    rules.discretize_conv_spike_(conv, neurons)
    layer.weight.data = conv.weight.data.reshape(layer.weight.shape)
    layer.bias.data = conv.bias.data


def test_the_vendors_rules_leave_the_network_unchanged(tmp_path: Path) -> None:
    """Weights, biases and thresholds are the same after them, and so is every spike of every neuron at every step."""
    rules = vendors_rules()
    whole, images = for_speck()
    written = rb.exchange.export_nir(whole, tmp_path / "net.nir", reset="subtract", fires_when="reached")
    model = readers.load_sinabs(tmp_path / "net.nir", len(images))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    thresholds = {site.name: int(whole.neuron(site.name).threshold[0]) for site in whole.sites}
    graph = readers.nir.read(tmp_path / "net.nir")
    feeds = {target: source for source, target in graph.edges}
    trains: dict[str, Tensor] = {}

    def keep(site: str, _layer: nn.Module, _inputs: Any, spikes: Tensor) -> None:
        trains[site] = spikes.unflatten(0, (len(images), TIMESTEPS)).transpose(0, 1)

    for site, name in written.sites.items():
        neurons: Any = model.get_submodule(name)
        discretise(rules, model.get_submodule(feeds[name]), neurons)
        assert int(neurons.spike_threshold) == thresholds[site]
        assert int(neurons.min_v_mem) == LOWEST
        neurons.register_forward_hook(partial(keep, site))
    kept = [name for name in before if name.endswith(("weight", "bias"))]
    assert len(kept) == 2 * (len(written.sites) + 1)
    for name in kept:
        assert torch.equal(model.state_dict()[name], before[name]), name
        assert float(before[name].abs().max()) < 2**7
    with torch.no_grad():
        model(whole.pixels(images).repeat_interleave(TIMESTEPS, 0))
    spikes, _ = whole.record(images)
    assert whole.overflows == 0
    for site, train in spikes.items():
        assert int(train.sum()) > IMAGES
        assert torch.equal(trains[site], train.float()), site


def test_the_vendors_rules_change_a_network_in_other_numbers() -> None:
    """The test above would pass with rules that do nothing."""
    import sinabs.layers

    conv = nn.Conv2d(2, 3, 3)
    before = conv.weight.clone()
    rules = vendors_rules()
    changed, neurons = rules.discretize_conv_spike(conv, sinabs.layers.IAF(min_v_mem=-1.0))
    assert not torch.equal(changed.weight, before)
    assert torch.equal(changed.weight, changed.weight.round())
    assert int(changed.weight.abs().max()) in (127, 128)
    assert int(neurons.spike_threshold) > 1
