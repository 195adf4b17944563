"""The same spikes in two other simulators, neuron by neuron, on 100 real images.

Networks in activation units are compared by the counts of every neuron, networks on whole numbers at every step.

Run with the extra ``simulators`` and sinabs installed: ``pytest -m simulators tests/simulators`` (see ``.ci/run``).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rheobase as rb
from rheobase.zoo.digits import Digits, digits, train

pytestmark = pytest.mark.simulators

for package in ("nir", "nirtorch", "sinabs", "snntorch"):
    pytest.importorskip(package)

import readers  # noqa: E402

IMAGES, TIMESTEPS = 100, 8


class Plain(nn.Module):
    """A plain network: depthwise and 1x5 kernels, pooling, two branches joined, dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.flat = nn.Conv2d(8, 4, (1, 5), padding=(0, 2))
        self.fc1, self.fc2 = nn.Linear(12 * 4 * 4, 32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = torch.cat([F.relu(self.depthwise(x)), F.relu(self.flat(x))], 1)
        x = F.avg_pool2d(x, 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


@cache
def data() -> Digits:
    return digits()


@cache
def trained(name: str) -> nn.Module:
    if name == "residual":
        return train(data().train, epochs=3, seed=0)
    torch.manual_seed(0)
    net = Plain()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.005)
    images, labels = data().train
    for _ in range(4):
        for part in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(net(images[part]), labels[part]).backward()
            optimiser.step()
    return net.eval()


RECIPES = {
    "RateCoding": rb.RateCoding(timesteps=TIMESTEPS, initial_potential=0),
    "RTS": rb.RTS(timesteps=TIMESTEPS),
    "SNNCalibration": rb.SNNCalibration(timesteps=TIMESTEPS),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("network", ["residual", "plain"])
@pytest.mark.parametrize("simulator", readers.RUN)
def test_every_neuron_spikes_as_often(simulator: str, network: str, recipe: str, tmp_path: Path) -> None:
    snn = rb.convert(trained(network), RECIPES[recipe], calibration=data().train)
    images, labels = (part[:IMAGES] for part in data().test)
    assert (
        float((snn(images).argmax(1) == labels).float().mean()) > 0.5
    )  # trained for seconds, and V0 = 0: enough to spike sensibly
    found = readers.compare(rb.network.fold_thresholds(snn), tmp_path / "net.nir", images, simulator)
    assert found.counts > IMAGES * 500
    assert found.least > IMAGES
    assert found.different == 0
    assert found.logits < 1e-6


@pytest.mark.parametrize("recipe", ["RateCoding", "RTS"])
@pytest.mark.parametrize("network", ["residual", "plain"])
@pytest.mark.parametrize("simulator", readers.RUN)
def test_whole_numbers_spike_equally_at_every_step(simulator: str, network: str, recipe: str, tmp_path: Path) -> None:
    """Every neuron, every step, in float32: whole sums are exact in any order."""
    snn = rb.convert(trained(network), RECIPES[recipe], calibration=data().train)
    fires_when = readers.FIRES_WHEN[simulator]
    chip = rb.network.generic(scale="layer")  # snnTorch reads one threshold a layer
    whole = rb.integers(snn, chip, calibration=data().train, fires_when=fires_when)
    images, labels = (part[:IMAGES] for part in data().test)
    assert float((whole(images).argmax(1) == labels).float().mean()) > 0.5
    assert whole.graph.dtype == torch.float32  # its sums are below 2^24
    written = rb.exchange.export_nir(whole, tmp_path / "net.nir", reset="subtract", fires_when=fires_when)
    spikes, logits = whole.record(images)
    assert whole.overflows == 0
    with torch.no_grad():
        found, output = readers.RUN[simulator](tmp_path / "net.nir", whole.pixels(images), TIMESTEPS)
    assert sum(emitted.numel() for emitted in spikes.values()) > IMAGES * TIMESTEPS * 500
    for site, emitted in spikes.items():
        assert int(emitted.sum()) > IMAGES
        assert torch.equal(found[written.sites[site]], emitted.float()), site
    assert torch.equal((output * TIMESTEPS).round().long(), logits)
    assert torch.equal(output.argmax(1), whole(images).argmax(1))


def written(path: Path) -> tuple[rb.SpikingNetwork, torch.Tensor]:
    snn = rb.convert(trained("residual"), RECIPES["RateCoding"], calibration=data().train)
    folded = rb.network.fold_thresholds(snn)
    rb.exchange.export_nir(folded, path, reset="subtract")
    return folded, data().test[0][:10]


@pytest.mark.parametrize("block", [0, 1])
def test_the_guide(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folded, images = written(tmp_path / "net.nir")
    page = Path(__file__).parents[2] / "docs" / "nir.md"
    blocks = re.findall(r"^```py\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names = {"images": images, "T": TIMESTEPS}
    with torch.no_grad():
        exec(compile(blocks[block], page.name, "exec"), names)
    # float32, as a user would run it: a potential within rounding of θ may tip a spike
    torch.testing.assert_close(names["logits"], folded(images), rtol=0, atol=0.05)


def test_what_sinabs_would_do_by_itself(tmp_path: Path) -> None:
    """Each setting of ``load_sinabs`` is needed; where one is no more, the docs and the loader should say so."""
    import nir
    import sinabs.layers
    import sinabs.nir
    from sinabs.activation import MultiSpike

    written(tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir")
    model = sinabs.nir.from_nir(graph, batch_size=10)
    layers = [layer for layer in model.modules() if isinstance(layer, sinabs.layers.IAFSqueeze)]
    assert all(layer.spike_fn is MultiSpike and layer.min_v_mem is not None for layer in layers)
    order = readers.execution_order(graph)
    ran = [order[node.name] for node in model.execution_order]
    assert ran != sorted(ran)


def test_what_snntorch_would_do_by_itself(tmp_path: Path) -> None:
    """The same for ``load_snntorch``."""
    import nir
    import snntorch
    from snntorch.import_nir import import_from_nir

    written(tmp_path / "net.nir")
    model = import_from_nir(nir.read(tmp_path / "net.nir"))
    layers = [layer for layer in model.modules() if isinstance(layer, snntorch.Leaky)]
    assert all(float(layer.beta) == pytest.approx(0.9) and not layer.reset_delay for layer in layers)
    assert not any(layer.init_hidden for layer in layers)


def test_a_neuron_above_its_threshold_after_the_reset() -> None:
    """v = 3.2, then currents of 0.1: it fires three times in all. Without delay snnTorch misses spikes."""
    import snntorch

    spikes = {}
    for delay in (False, True):
        neuron = snntorch.Leaky(beta=1.0, threshold=1.0, init_hidden=True, reset_delay=delay)
        spikes[delay] = [float(neuron(torch.tensor([current]))) for current in (3.2, 0.1, 0.1, 0.1, 0.1)]
    assert spikes[True] == [1, 1, 1, 0, 0]
    assert spikes[False] != spikes[True]
