"""The scripts in examples/: they run, and give the papers' numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import input_scenarios
import pascal_cost
import pytest
import stability
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from input_scenarios import at_random, equally_spaced
from pascal_cost import effective_timesteps, energy_ratio, layers, network_ratio
from torch import Tensor, nn
from write_notebook import cells

import networks
import rheobase as rb
from conftest import grid_images
from rheobase import zoo
from rheobase.graph import capture, fold_batch_norm
from rheobase.neurons import IntegrateFire


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "arguments", "printed"),
    [
        (input_scenarios.main, "--neurons 20 --inputs 10 --trials 2 --figure", "constant  |a − φ| 0.0000 ± 0.0000"),
        (stability.main, "--epochs 1 --timesteps 2 4 --iterations 2 --figure", "T = 4, iteration 2: accuracy"),
        (pascal_cost.main, "--epochs 1", "measured spikes: T_eff ="),
    ],
)
def test_examples_run(
    main: Callable[[list[str]], None],
    arguments: str,
    printed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figure = tmp_path / "figure.png"
    main([*arguments.split(), *([str(figure)] if "figure" in arguments else [])])
    assert printed in capsys.readouterr().out
    assert figure.exists() == ("figure" in arguments)


EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_notebook_is_that_of_the_script() -> None:
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text())
    assert [(c["cell_type"], "".join(c["source"])) for c in notebook["cells"]] == cells(
        (EXAMPLES / "tour.py").read_text()
    )
    assert not any(c.get("outputs") for c in notebook["cells"])


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By Jupyter where its kernel is installed (extra ``dev``), else its cells one after the other."""
    monkeypatch.chdir(tmp_path)
    try:
        import ipykernel  # noqa: F401
        import nbclient
        import nbformat
    except ImportError:
        names: dict[str, object] = {"__name__": "__main__"}
        for kind, source in cells((EXAMPLES / "tour.py").read_text()):
            if kind == "code":
                exec(compile(source, "tour.ipynb", "exec", dont_inherit=True), names)
        printed = capsys.readouterr().out
    else:
        notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        printed = "".join(output.get("text", "") for output in outputs)
    assert "the same logits in onnxruntime: True" in printed
    assert "mainly clipping" in printed
    assert '<h2 id="answer">' in (tmp_path / "compared" / "report.html").read_text()


@pytest.mark.slow
def test_stability_has_every_iteration() -> None:
    images = grid_images("MLP")
    data = images, torch.arange(20) % 5
    points = stability.curve(networks.build("MLP"), data, timesteps=4, iterations=5, batch_size=8)
    assert [point["iteration"] for point in points] == [0, 1, 2, 3, 4, 5]
    snn = rb.convert(networks.build("MLP"), rb.RateCoding(timesteps=4), calibration=images)
    assert points[0]["logit_error"] == pytest.approx(
        rb.passes.held_out.logit_error(snn, rb.passes.CalibrationData.pool(images).held_out)
    )


# --- the four kinds of input ------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 16), seed=st.integers(0, 2**31))
def test_trains_have_their_counts(steps: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, steps + 1, (9,), generator=g)
    assert torch.equal(at_random(counts, steps, g).sum(0), counts)
    spaced = equally_spaced(counts, steps)
    for i, n in enumerate(counts.tolist()):
        assert spaced[:, i].nonzero().flatten().tolist() == [k * steps // n for k in range(n)]


@settings(max_examples=15)
@given(
    rounding=st.sampled_from(["floor", "round", "ceil"]),
    steps=st.integers(1, 9),
    inputs=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_scenarios_have_the_stated_properties(rounding: str, steps: int, inputs: int, seed: int) -> None:
    found = input_scenarios.run(rounding, steps, 12, inputs, 3, seed)  # type: ignore[arg-type]
    assert list(found.counts) == ["random", "uniform", "ann", "constant"]
    function = {"floor": math.floor, "round": lambda x: math.floor(x + 0.5), "ceil": math.ceil}[rounding]
    levels = [[min(max(function(x * steps / 2.0), 0), steps) for x in row] for row in found.z.tolist()]
    assert found.levels.tolist() == levels
    for kind, counts in found.counts.items():
        assert counts.shape == (3, 12)
        assert 0 <= int(counts.min()) <= int(counts.max()) <= steps
        gaps = (counts - found.levels).abs().double() * (2.0 / steps)
        assert found.errors(kind, steps).tolist() == pytest.approx(gaps.mean(1).tolist())
    # where a few inputs are all silent, z = 0 is a whole number: Theorem 3's case 3
    right = found.counts["constant"] == found.levels
    assert bool(right[(found.z != 0) | (rounding != "ceil")].all())
    if rounding == "round":
        assert torch.equal(found.counts["ann"], found.levels)
    if rounding == "ceil" and steps in (1, 2, 4, 8):  # one too many at every whole number
        assert torch.equal(found.counts["ann"], (found.levels + 1).clamp(max=steps))


def test_one_positive_input_is_never_uneven() -> None:
    """Theorem 2: 0 <= I[t] <= θ at every step, then only the sum counts; a negative one never fires."""
    found = input_scenarios.run("round", 8, neurons=200, inputs=1, trials=5)
    for counts in found.counts.values():
        assert torch.equal(counts, found.levels)


def test_the_papers_numbers() -> None:
    """Fig. 6 (e)-(h): 0.1430, 0.0912, 0, 0. Its R of 0.971 (a) and 0.944 (b) fit only if interchanged."""
    found = input_scenarios.run("round", 8, neurons=1000, inputs=1000, trials=10)
    for kind, error, correlation in (("random", 0.1430, 0.944), ("uniform", 0.0912, 0.971)):
        assert float(found.errors(kind, 8).mean()) == pytest.approx(error, rel=0.15)
        assert float(found.correlations(kind).mean()) == pytest.approx(correlation, abs=0.01)
    for kind in ("ann", "constant"):
        assert set(found.errors(kind, 8).tolist()) == {0.0}
        assert found.correlations(kind).tolist() == pytest.approx([1.0] * 10)


# --- PASCAL's model -------------------------------------------------------------------------------


def spiking(net: nn.Module, size: int, timesteps: int) -> rb.SpikingNetwork:
    graph = fold_batch_norm(capture(net.eval(), torch.zeros(2, 3, size, size)).graph)[0]
    neurons = [IntegrateFire(torch.tensor(1.0), torch.tensor(0.5)) for _ in graph.sites]
    return rb.SpikingNetwork(graph, graph, neurons, timesteps, {"name": "any"})


class NarrowVGG(nn.Sequential):
    """Fan-in of VGG-16's layers, 13 convolutions and hidden layers of 512; two outputs each, for speed."""

    def __init__(self) -> None:
        channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512]
        super().__init__(*(Fan(9 * c) for c in channels), Fan(512), Fan(512), nn.Linear(1, 2))


class Fan(nn.Module):
    """A neuron that so many weights reach, one of them from the layer before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(F.pad(x.flatten(1)[:, :1], (0, self.width - 1), "constant", 0.0)))


@pytest.mark.slow
def test_the_papers_figures_for_vgg() -> None:
    snn = spiking(NarrowVGG(), 1, 4)
    assert effective_timesteps(layers(snn)) == pytest.approx(4.21, abs=0.005)
    names = [site.name for site in snn.sites]
    for levels, expected in (
        ([2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 4, 4, 2, 4, 4], 2.13),
        ([8, 4, 4, 1, 4, 4, 1, 1, 1, 1, 1, 4, 8, 8, 8], 4.54),
    ):
        rows = layers(snn)
        assert [row.name for row in rows] == names
        mixed = [n * energy_ratio(n, row.relative) for n, row in zip(levels, rows, strict=True)]
        assert sum(mixed) / len(mixed) == pytest.approx(expected, abs=0.005)


@pytest.mark.slow
def test_the_papers_figure_for_vgg_on_imagenet() -> None:
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512]
    parts = [*(Fan(9 * c) for c in channels), Fan(25088), Fan(4096)]
    snn = spiking(nn.Sequential(*parts, nn.Flatten(), Wide(4096)), 1, 16)
    assert effective_timesteps(layers(snn, readout=True)) == pytest.approx(18.37, abs=0.005)
    assert effective_timesteps(layers(snn)) == pytest.approx(18.50, abs=0.005)


class Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.width = nn.Linear(width, 2), width

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.pad(x, (0, self.width - 1), "constant", 0.0))


@pytest.mark.slow
@pytest.mark.parametrize(("build", "expected"), [(zoo.resnet18, 8.77), (zoo.resnet34, 8.50)])
def test_what_the_stated_formula_gives_for_resnets(build: Callable[[], nn.Module], expected: float) -> None:
    assert effective_timesteps(layers(spiking(build(), 8, 8))) == pytest.approx(expected, abs=0.005)


def test_the_ratio_is_that_of_counted_operations() -> None:
    """Eq. 14 by the operations of two networks, one of PASCAL's neurons and one of plain ones."""
    images = grid_images("QCFSResNet")
    snn = rb.convert(networks.build("QCFSResNet"), rb.Pascal(), calibration=images)
    found = rb.energy(snn, images)
    plain = sum(r.picojoules - 0.9 * r.updates + 0.9 * r.neurons * (r.timesteps or 0) for r in found.rows[:-1])
    papers = sum(
        r.picojoules - 0.9 * r.updates + 0.9 * r.neurons * (5 * (r.timesteps or 0) - 2) for r in found.rows[:-1]
    )
    assert network_ratio(layers(snn, images)) == pytest.approx(papers / plain)
