"""The base of both stages of DA calibration: train a few parameters of a parallel network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from rheobase.graph.trainable import TrainableGraph
from rheobase.network import SpikingNetwork
from rheobase.neurons import ParallelIF
from rheobase.passes.calibration_pass import settable
from rheobase.passes.da_qcfs import DAQCFS, Surrogate
from rheobase.passes.fine_tuning import FineTuning


class DAStage(FineTuning):
    """The base class of both stages: a network with a :class:`DAQCFS` in place of the neurons of every site."""

    def check(self, network: SpikingNetwork) -> None:
        """Every site needs parallel neurons."""
        for site in network.sites:
            settable(network, site, *DAQCFS.TRAINED)

    def gradient(self) -> tuple[Surrogate, float]:
        """The gradient of the staircase in training, and its band (:class:`DAQCFS`)."""
        return "straight_through", 0.5

    def trainable(self, network: SpikingNetwork) -> TrainableGraph:
        """The graph with a DA-QCFS at every site."""
        modules: Any = {
            site.name: DAQCFS(
                cast(ParallelIF, network.neuron(site.name)),
                site.channels,
                network.steps_of(site.name),
                *self.gradient(),
            )
            for site in network.sites
        }
        return TrainableGraph(network.graph, modules)

    def adopt(self, network: SpikingNetwork, state: Mapping[str, Tensor]) -> None:
        """Set the trained parameters of the network."""
        device = network.graph.device
        tensors = {name: state[name].to(device) for name in network.graph.tensor_names if name in state}
        network.graph = network.graph.replace(tensors=tensors)
        for site in network.sites:
            neuron = network.neuron(site.name)
            silent, changed = neuron.amplitude.isinf(), {}
            for name, found in DAQCFS.trained(state, site.name).items():
                value, given = found.to(device), getattr(neuron, name)
                if given is not None or bool(value.any()):
                    changed[name] = torch.where(silent, 0.0 if given is None else given, value)
            neuron.set(**changed)
