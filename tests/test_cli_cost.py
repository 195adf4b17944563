"""``rheobase cost`` and ``rheobase diagnose``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import networks
import rheobase as rb
from command_line import Run, assert_refused


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 12, 12), np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(12) % 5)
    scaled = rb.data.readers.load(str(folder / "data.npz"))
    rb.save(rb.convert(networks.build("MLP"), rb.RateCoding(timesteps=4), calibration=scaled), folder / "snn")
    quantised = rb.quantise(networks.build("MLP"), rb.Pascal(levels=4), calibration=scaled)
    rb.save(rb.convert(quantised, rb.Pascal()), folder / "exact")
    (folder / "chip.yaml").write_text("name: chip\nmac: 2.0\nac: 1.0\n")
    (folder / "wrong.yaml").write_text("name: chip\nmac: 2.0\nac: -1.0\n")
    return folder


@pytest.mark.slow
def test_cost(run: Run, home: Path) -> None:
    result = run("cost", "snn", "--data", "data.npz")
    assert result.code == 0
    assert "final logits after step 4" in result.out
    assert "of the analog network's energy (fp32-45nm, measured on 12 images)" in result.out
    document = run("cost", "snn", "--data", "data.npz", "--json").document
    expected = rb.energy(rb.load(home / "snn"), rb.data.readers.load("data.npz"))
    assert document["energy"]["picojoules"] == pytest.approx(expected.picojoules)
    assert document["latency"]["final"] == 4
    assert document["preprocessing"]["scale"] is None
    own = run("cost", "snn", "--data", "data.npz", "--costs", "chip.yaml", "--json").document["energy"]
    assert own["picojoules"] == pytest.approx(2 * own["macs"] + own["acs"] + own["updates"])


def test_cost_by_convention_and_execution(run: Run) -> None:
    document = run("cost", "exact", "--spike-rate", 0.75, "--json").document
    assert (document["latency"]["final"], document["energy"]["images"]) == (12, 0)
    found = {
        how: run("cost", "exact", "--data", "data.npz", "--execution", how, "--json").document["energy"]["acs"]
        for how in ("steps", "counts")
    }
    assert found["steps"] == pytest.approx(found["counts"], rel=1e-3)


def test_diagnose(run: Run, home: Path, tmp_path: Path) -> None:
    result = run("diagnose", "snn", "--data", "data.npz", "--plot", tmp_path / "errors.png")
    assert result.code == 0
    assert "Largest added error at" in result.out
    assert "unevenness" in result.out
    assert (tmp_path / "errors.png").stat().st_size > 0
    document = run("diagnose", "snn", "--data", "data.npz", "--timesteps", 8, "--json").document["diagnosis"]
    assert document["timesteps"] == 8
    assert [row["site"] for row in document["rows"]] == [site.name for site in rb.load(home / "snn").sites]
    assert "No site differs" in run("diagnose", "exact", "--data", "data.npz").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cost", "snn"], "--data: is missing"),
        (["cost", "snn", "--spike-rate", 0.75, "--scale", 1], "--data: is missing"),
        (["cost", "snn", "--spike-rate", 1, "--execution", "steps"], "--execution: has no effect without --data"),
        (["cost", "snn", "--spike-rate", 9], "spike_rate: is 9"),
        (["cost", "snn", "--data", "data.npz", "--spike-rate", 1], "images and spike_rate: are both given"),
        (["cost", "snn", "--data", "data.npz", "--costs", "fp8"], "'fp8' is unknown"),
        (["cost", "snn", "--data", "data.npz", "--costs", "no.yaml"], "no.yaml: cannot be read"),
        (["cost", "snn", "--data", "data.npz", "--costs", "wrong.yaml"], "costs: ac"),
        (["cost", "snn", "--data", "data.npz", "--execution", "counts"], "IntegrateFire neurons"),
        (["cost", "exact", "--spike-rate", 1, "--timesteps", 5], "cannot run for 5 steps"),
        (["diagnose", "snn", "--data", "data.npz", "--crop", 5], "converted for"),
        (["diagnose", "snn", "--data", "data.npz", "--plot", "x.foo"], "end the name in"),
        (["diagnose", "nowhere", "--data", "data.npz"], "nowhere"),
    ],
)
def test_refusals(run: Run, arguments: list[object], said: str) -> None:
    result = run(*arguments)
    note = "No preprocessing is stored with the network: pixels are divided by 255.\n"
    assert_refused(result._replace(err=result.err.removeprefix(note)), said)
