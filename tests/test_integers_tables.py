"""Functions of one variable in whole numbers: lookup tables, and sums that several nodes read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rheobase as rb
from rheobase.core.errors import RecipeError
from rheobase.exchange.onnx import to_pixels
from rheobase.graph.operations.lookup import Lookup
from rheobase.network import IntegerNetwork
from rheobase.network.target import TARGETS, generic

GRADED = rb.Graded(timesteps=4)


def pictures() -> Tensor:
    return torch.randn(24, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def vectors() -> Tensor:
    return torch.randn(48, 8, generator=torch.Generator().manual_seed(1))


def convolutions() -> nn.Module:
    """SiLU before a mean pool, a PReLU, a max pool and a hard-swish."""
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Conv2d(6, 6, 3, padding=1, groups=6)),
        *(nn.PReLU(6), nn.Conv2d(6, 8, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )


def layers() -> nn.Module:
    """The output is a tanh."""
    return nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 12), nn.LeakyReLU(0.1), nn.Linear(12, 3), nn.Tanh())


def tokens() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.Linear(4, 9), nn.GELU(), nn.Linear(9, 5), nn.SiLU(), nn.Linear(5, 3)
    )


class Sums(nn.Module):
    """A SiLU that is read twice, a sum that is read by a ReLU and by another sum, and two tables in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.a(x))
        h = self.b(F.relu(y + 0.1)) + torch.sigmoid(y)
        return self.d(F.relu(torch.tanh(F.elu(self.c(F.relu(h) + h)))))


class Shortcut(nn.Module):
    """Weights read the sum of two layers of neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.c(x + F.relu(self.b(x)))


def waiting() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 9), nn.Softplus(), nn.ReLU(), nn.Linear(9, 3))


NUMBERS: dict[str, Any] = {"nonlinear": "numbers", "sites": "all"}
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], rb.Recipe, dict[str, Any], float]] = {
    "convolutions": (convolutions, pictures, GRADED, NUMBERS, 0.05),
    "layers": (layers, vectors, GRADED, NUMBERS, 0.05),
    "tokens": (tokens, vectors, GRADED, NUMBERS, 0.05),
    "sums": (Sums, vectors, GRADED, NUMBERS, 0.1),
    "waiting": (waiting, vectors, rb.ParallelConversion(timesteps=16), {"nonlinear": "numbers"}, 0.05),
    "shortcut": (Shortcut, vectors, GRADED, {}, 0.05),
    "neurons": (layers, vectors, GRADED, {"nonlinear": "neurons"}, 0.2),
}


@cache
def converted(case: str) -> tuple[rb.SpikingNetwork, Tensor]:
    make, images, recipe, options, _ = CASES[case]
    torch.manual_seed(0)
    return rb.convert(make().eval(), recipe, calibration=images(), **options), images()


@cache
def whole(case: str) -> tuple[IntegerNetwork, Tensor]:
    snn, images = converted(case)
    return rb.integers(snn, calibration=images), images


def by_hand(sums: list[int], theta: int, per_threshold: int, first: int, table: list[int], gain: int) -> list[int]:
    """The output of every step, in Python's integers."""
    emitted, given, total = [], 0, 0
    for t, x in enumerate(sums, start=1):
        total += x
        index = max(first, min(first + len(table) - 1, (2 * per_threshold * total + t * theta) // (2 * t * theta)))
        reached = t * ((table[index - first] * gain + 2**14) // 2**15)
        emitted.append(reached - given)
        given = reached
    return emitted


class Stub(rb.SpikingNetwork):
    """As much of a network as a node in a simulation needs."""

    def __init__(self, graph: Any) -> None:
        nn.Module.__init__(self)
        self.graph, self.overwriting = graph, frozenset()
        self.reads_means = self.streams = False


@given(
    inputs=st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=7),
    piece=st.integers(1, 7),
    theta=st.integers(1, 2**20),
    per_threshold=st.integers(1, 600),
    first=st.integers(-600, 5),
    table=st.lists(st.integers(-(2**15), 2**15), min_size=1, max_size=30),
    gain=st.integers(0, 2**15),
)
def test_a_lookup_in_pythons_integers(
    inputs: list[int], piece: int, theta: int, per_threshold: int, first: int, table: list[int], gain: int
) -> None:
    """Step by step in pieces, and of the sum; ``first`` to last within one threshold, as in a network."""
    first = max(first, -per_threshold)
    table = table[: per_threshold - first + 1]
    tensors = {"table": table, "gain": gain, "threshold": theta}
    attributes = {"function": "", "first": first, "per_threshold": per_threshold}
    nodes = [
        rb.graph.Node("x", "input", shape=(1,)),
        rb.graph.Node("f", "lookup", ("x",), attributes, {name: name for name in tensors}, (1,)),
    ]
    graph = rb.graph.Graph(nodes, "f", {name: torch.tensor(value).double() for name, value in tensors.items()})
    expected = by_hand(inputs, theta, per_threshold, first, table, gain)
    simulation, found = rb.network.simulation.Simulation(Stub(graph)), []
    for start in range(0, len(inputs), piece):
        part = torch.tensor(inputs[start : start + piece], dtype=torch.float64).reshape(-1, 1, 1)
        signal = simulation.advance(len(part))(nodes[1], rb.signals.TimeSeries(part))
        found += signal.values.flatten().long().tolist()
    assert found == expected
    total = torch.tensor([[float(sum(inputs))]], dtype=torch.float64)
    assert int(len(inputs) * graph.look_up(nodes[1], total, len(inputs))) == sum(expected)


@pytest.mark.parametrize("case", CASES)
def test_networks_have_the_same_bits_however_they_run(case: str) -> None:
    network, images = whole(case)
    snn, _ = converted(case)
    logits = network(images)
    reference = snn(images)
    assert float((logits - reference).norm() / reference.norm()) < CASES[case][-1]
    network.execution = "steps"
    assert torch.equal(network(images), logits)
    assert torch.equal(torch.cat([network(part) for part in images.split(5)]), logits)
    *_, (t, streamed) = network.stream(images)
    assert t == network.timesteps
    assert torch.equal(streamed, logits)
    network.execution = "auto"
    _, sums = network.record(images)
    assert torch.equal((sums.double() * (network.units.logit / t)).float(), logits)
    wide = copy.deepcopy(network)
    wide.graph.double()
    wide.neurons.double()
    assert torch.equal(wide(images), logits)


@pytest.mark.parametrize("case", CASES)
def test_files_have_the_same_bits(case: str, tmp_path: Path) -> None:
    """Saved and loaded, and in onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    network, images = whole(case)
    rb.save(network, tmp_path / "saved")
    assert torch.equal(rb.load(tmp_path / "saved")(images), network(images))
    written = rb.exchange.export_onnx(network, tmp_path / "net.onnx", spikes=True)
    assert written.form == ("counts" if case == "waiting" else "steps")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    sums, logits, *counts = session.run(None, {"pixels": to_pixels(network, images).numpy()})
    spikes, total = network.record(images)
    assert np.array_equal(sums, total.numpy())
    assert np.array_equal(logits, network(images).numpy())
    for site, count in zip(network.sites, counts, strict=True):
        assert np.array_equal(count, spikes[site.name].sum(0).numpy())


@pytest.mark.parametrize("case", ["convolutions", "sums"])
def test_they_are_measured_like_other_networks(case: str) -> None:
    network, images = whole(case)
    snn, _ = converted(case)
    assert rb.energy(network, images).numbers == rb.energy(snn, images).numbers
    for row in rb.diagnose(network, images).rows:
        assert sum(term.mean for term in row.terms.values()) == pytest.approx(row.error.mean, abs=1e-5)


def test_nir_has_no_tables(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = rb.RateCoding(timesteps=4, initial_potential=0)
    snn = rb.convert(waiting().eval(), recipe, calibration=vectors(), nonlinear="numbers")
    network = rb.integers(snn, calibration=vectors())
    assert any(note.startswith("lookup tables: 3 (") for note in network.provenance.notes)
    with pytest.raises(rb.RheobaseError, match=r"computes on numbers \(softplus\)"):
        rb.exchange.export_nir(network, tmp_path / "net.nir", reset="subtract", fires_when="reached")


@pytest.mark.parametrize("case", ["convolutions", "layers"])
def test_learned_rounding_before_tables(case: str) -> None:
    snn, images = converted(case)
    errors = {}
    for rounding in ("nearest", "learned"):
        network = rb.integers(snn, generic(weights=3), calibration=images, rounding=rounding)
        errors[rounding] = float((network(images) - snn(images)).norm())
    assert errors["learned"] < 0.7 * errors["nearest"]


def test_the_width_of_a_table_is_the_targets() -> None:
    snn, images = converted("layers")
    errors = []
    for bits in (4, 10):
        network = rb.integers(snn, generic(weights=12, state=32, tables=bits), calibration=images)
        tables = [node.parameters["table"] for node in network.graph.nodes if node.operation == Lookup.name]
        assert all(2**bits * 0.8 < network.graph.tensor(name).shape[-1] <= 2**bits for name in tables)
        errors.append(float((network(images) - snn(images)).norm()))
    assert errors[1] < errors[0] / 4


def test_a_pole_has_the_nearest_finite_entry() -> None:
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(torch.log(F.relu(self.a(x)) + 0.05)))

    torch.manual_seed(0)
    snn = rb.convert(Log().eval(), rb.RateCoding(timesteps=8), calibration=vectors(), nonlinear="numbers")
    network = rb.integers(snn, calibration=vectors())
    assert bool(network(vectors()).isfinite().all())
    assert float((network(vectors()) - snn(vectors())).norm() / snn(vectors()).norm()) < 0.2


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.a(x)) * torch.sigmoid(self.b(x)))


class Direct(nn.Module):
    """Weights on the numbers of a SiLU and on a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.silu(self.a(x)))))


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)).softmax(1))


@pytest.mark.parametrize(
    ("make", "options", "target", "said"),
    [
        (Gate, NUMBERS, "generic", "computes mul, a function of several values.*Remedy: replace it"),
        (Softmax, NUMBERS, "generic", "computes softmax, a function of several values"),
        (Direct, {"nonlinear": "numbers"}, "generic", r'^b: reads silu \(silu\), which is computed.*sites="all"'),
        (layers, NUMBERS, "loihi2", r"^1 \(GELU\): computes gelu, which takes a lookup table, and loihi2 has none"),
        (Shortcut, {}, generic().replace(spikes=31), "^c: reads a sum of spikes with factors"),
    ],
)
def test_what_has_no_form(make: Callable[[], nn.Module], options: dict[str, Any], target: Any, said: str) -> None:
    torch.manual_seed(0)
    snn = rb.convert(make().eval(), GRADED, calibration=vectors(), **options)
    with pytest.raises(RecipeError, match=said):
        rb.integers(snn, target, calibration=vectors())


def test_weights_on_the_image_and_spikes_read_spikes_instead() -> None:
    """The error names what they read, and its remedy works."""

    class Around(Shortcut):
        def forward(self, x: Tensor) -> Tensor:
            return self.c(x + F.relu(self.b(x)))

    torch.manual_seed(0)
    net = Around().eval()
    with pytest.raises(RecipeError, match=r'^c: reads add, the sum of the image and relu.*sites="all"'):
        rb.integers(rb.convert(net, GRADED, calibration=vectors()), calibration=vectors())
    snn = rb.convert(net, GRADED, calibration=vectors(), sites="all")
    network = rb.integers(snn, calibration=vectors())
    assert float((network(vectors()) - snn(vectors())).norm() / snn(vectors()).norm()) < 0.1


def test_profiles_have_tables_or_not() -> None:
    assert {name: target.tables for name, target in TARGETS.items()} == {
        "generic": 10,
        "speck": 0,
        "loihi2": 0,
        "xylo": 0,
    }
