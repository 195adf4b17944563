"""The Pareto search of AdaFire against all combinations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import networks
import rheobase as rb
from conftest import grid_images
from rheobase.core.errors import CalibrationError, RecipeError
from rheobase.data import CalibrationData
from rheobase.passes import FiringSearch, firing_search
from rheobase.passes.firing_search import Outcome, cheapest

ROW = st.lists(st.builds(Outcome, st.floats(-1, 3), st.floats(-5, 5)), min_size=1, max_size=3)


@given(st.lists(ROW, min_size=1, max_size=5), st.floats(-10, 10))
def test_against_all_combinations(table: list[list[Outcome]], limit: float) -> None:
    """The search rounds spikes to 1/2000 of their range, so it may miss what is that close to the limit or the best."""
    span = sum(max(abs(each.spikes) for each in row) for row in table)
    slack = 1e-9 + span * len(table) / 1000

    def total(chosen: Any) -> Outcome:
        picked = [row[k] for row, k in zip(table, chosen, strict=True)]
        return Outcome(sum(each.divergence for each in picked), sum(each.spikes for each in picked))

    found = cheapest(table, lambda total: total.divergence if total.spikes <= limit else None)
    every = [total(chosen) for chosen in itertools.product(*(range(len(row)) for row in table))]
    strict = [each.divergence for each in every if each.spikes <= limit - slack]
    if found is None:
        assert not strict
        return
    assert total(found).spikes <= limit + 1e-9
    assert total(found).divergence <= min(strict, default=float("inf")) + 1e-9


def converted(**options: Any) -> rb.SpikingNetwork:
    images = grid_images("OptionAResNet")
    return rb.convert(networks.build("OptionAResNet"), rb.AdaFire(timesteps=3, **options), calibration=images)


@pytest.mark.slow
def test_the_search_keeps_to_its_limits(tmp_path: Path) -> None:
    images = grid_images("OptionAResNet")
    snn = converted(magnitudes=(1, 2, 3), spikes=0.97, tolerance=0.2)
    record = snn.provenance.passes[-1]
    magnitudes, factors = (step["chosen"] for step in record["history"])
    plain = rb.convert(
        networks.build("OptionAResNet"), rb.Burst(timesteps=3, magnitude=3, levels=3), calibration=images
    )
    if not any("reverted" in note for note in record["notes"]):
        for site, neuron, other in zip(snn.sites, snn.neurons, plain.neurons, strict=True):
            assert neuron.magnitude == magnitudes[site.name]
            assert neuron.threshold.allclose(other.threshold * factors[site.name] / magnitudes[site.name])
    assert rb.load(rb.save(snn, tmp_path / "net")).neurons[0].magnitude == snn.neurons[0].magnitude


@pytest.mark.slow
def test_factors_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each factor alone does nothing, all together everything: they are left out."""
    snn = rb.convert(networks.build("MLP"), rb.Burst(timesteps=3, levels=3), calibration=grid_images("MLP"))
    start = [neuron.threshold for neuron in snn.neurons]

    def measured(self: object) -> Outcome:
        changed = sum(not torch.equal(a.threshold, b) for a, b in zip(snn.neurons, start, strict=True))
        return Outcome(10.0 if changed > 1 else 1.0, 100.0 - changed)

    monkeypatch.setattr(firing_search._Measure, "__call__", measured)
    FiringSearch(magnitudes=(1,)).apply(snn, CalibrationData.pool(grid_images("MLP")))
    assert all(torch.equal(neuron.threshold, one) for neuron, one in zip(snn.neurons, start, strict=True))


def test_without_held_out_images() -> None:
    images = grid_images("MLP")
    snn = rb.convert(networks.build("MLP"), rb.Burst(timesteps=3, levels=3), calibration=images)
    with pytest.raises(CalibrationError, match="no held-out images"):
        FiringSearch().apply(snn, CalibrationData.pool(images[:4]))


def test_too_few_spikes_are_refused_with_what_is_possible() -> None:
    images = grid_images("MLP")
    with pytest.raises(CalibrationError, match=r"spikes: is 0.01, but no combination .* allow at least 0\.\d+"):
        rb.convert(networks.build("MLP"), rb.AdaFire(timesteps=3, spikes=0.01), calibration=images)


def test_other_neurons_are_refused() -> None:
    recipe = rb.RateCoding(timesteps=3)
    recipe = recipe.replace(calibration=(*recipe.calibration, FiringSearch()))
    with pytest.raises(CalibrationError, match="use burst neurons"):
        rb.convert(networks.build("MLP"), recipe, calibration=grid_images("MLP"))
    with pytest.raises(RecipeError, match="magnitudes"):
        FiringSearch(magnitudes=())
