"""Conformance test of calibration passes."""

from __future__ import annotations

import copy

import torch

from rheobase.data.calibration_data import CalibrationData
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.passes import CalibrationPass, Changes
from rheobase.passes.held_out import Snapshot
from rheobase.testing._check import expect


def check_pass(calibration_pass: CalibrationPass, network: SpikingNetwork, data: CalibrationData) -> None:
    """Check that a pass satisfies the contract of :class:`rheobase.passes.CalibrationPass` on a network.

    - Its JSON form rebuilds an equal pass.
    - It changes only the parameters that it names in :class:`rheobase.passes.Changes`, and never the analog network.
    - The same network and data give bit-identical parameters.

    Args:
        calibration_pass: the pass.
        network: a converted network that the pass supports; not changed.
        data: calibration images.

    Example:
        >>> import torch, rheobase as rb
        >>> images = torch.rand(20, 3, 32, 32)
        >>> snn = rb.convert(rb.zoo.resnet20(), rb.RateCoding(timesteps=2), calibration=images)
        >>> data = rb.data.CalibrationData.pool(images, seed=0)
        >>> check_pass(rb.passes.ShiftCurrent(), snn, data)
    """
    again = type(calibration_pass).model_validate(calibration_pass.model_dump(mode="json"))
    expect(again == calibration_pass, "its JSON form rebuilds another pass")
    analog = {name: tensor.clone() for name, tensor in network.ann.tensors.items()}
    once, changes = _applied(calibration_pass, network, data)
    twice, _ = _applied(calibration_pass, network, data)
    for name, tensor in once.ann.tensors.items():
        expect(torch.equal(tensor, analog[name]), f"it changes the analog network: {name}")
    expect(isinstance(changes, Changes), f"apply returns a {type(changes).__name__}, not Changes")
    before, moved = Snapshot(network), Snapshot(once).changed(twice)
    expect(not moved, f"the same data give other parameters: {moved}")
    found = before.changed(once)
    unnamed = {site: sorted(set(names) - set(changes.changed.get(site, ()))) for site, names in found.items()}
    expect(not any(unnamed.values()), f"it changes parameters that it does not name: {unnamed}")
    weights, named = network.graph.tensors, {name for names in changes.changed.values() for name in names}
    same = {name for name, t in once.graph.tensors.items() if name in weights and torch.equal(t, weights[name])}
    others = sorted({*once.graph.tensors} - same - named)
    expect(not others, f"it changes weights that it does not name: {others}")


def _applied(
    calibration_pass: CalibrationPass, network: SpikingNetwork, data: CalibrationData
) -> tuple[SpikingNetwork, Changes]:
    calibrated = copy.deepcopy(network)
    return calibrated, calibration_pass.apply(calibrated, data)
