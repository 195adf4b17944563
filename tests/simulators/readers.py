"""How to run a NIR file of Rheobase in sinabs and snnTorch: what has to be set after their importers, and why.

Both give the spikes of every IF node at every step [T, B, ...], and the output's mean over time. Weights are float32,
as their importers make them. The arithmetic is that of the images: float64 for networks in activation units, so that
the order of sums tips no spike; float32 for whole numbers, whose sums it holds exactly.
"""

from __future__ import annotations

from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import nir
import torch
from torch import Tensor, nn

Trains = dict[str, Tensor]


def execution_order(graph: Any) -> dict[str, int]:
    """Every node after all that it reads."""
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
    return {name: i for i, name in enumerate(TopologicalSorter(before).static_order())}


def load_sinabs(path: Path, images: int) -> nn.Module:
    """sinabs: IF is IAFSqueeze, reset by subtraction, fires on >=."""
    import sinabs.layers
    import sinabs.nir
    from sinabs.activation import SingleSpike

    graph = nir.read(path)
    model = sinabs.nir.from_nir(graph, batch_size=images)
    # nirtorch's executor runs a node when its first input is there: residual sums would lack their second
    order = execution_order(graph)
    model.execution_order.sort(key=lambda node: order[node.name])
    for layer in model.modules():
        if isinstance(layer, sinabs.layers.IAFSqueeze):
            layer.spike_fn = SingleSpike  # the importer lets a neuron fire several times in a step
            layer.min_v_mem = None  # and keeps its potential above -θ
    return model


def run_sinabs(path: Path, images: Tensor, timesteps: int) -> tuple[Trains, Tensor]:
    """All steps of an image are rows of one batch, image by image."""
    model = load_sinabs(path, len(images)).to(images.dtype)
    trains: Trains = {}

    def keep(name: str, _layer: nn.Module, _inputs: Any, spikes: Tensor) -> Tensor:
        trains[name] = spikes.unflatten(0, (len(images), timesteps)).transpose(0, 1)
        return spikes.to(images.dtype)  # sinabs makes them float32

    for name in neurons(path):
        model.get_submodule(name).register_forward_hook(partial(keep, name))
    output, _ = model(images.repeat_interleave(timesteps, 0))
    return trains, output.unflatten(0, (len(images), timesteps)).mean(1)


def load_snntorch(path: Path) -> nn.Module:
    """snnTorch: IF is Leaky, reset by subtraction, fires on >."""
    import snntorch
    from snntorch.import_nir import import_from_nir

    model = import_from_nir(nir.read(path))
    for layer in model.modules():
        if isinstance(layer, snntorch.Leaky):
            layer.beta.fill_(1)  # the importer lets IF leak, by 0.9 a step
            layer.init_hidden = True  # and return its state, which no other node takes
            # with the importer's reset_delay=False a neuron that is still above θ after its reset may miss a spike;
            # with a delay, θ is subtracted at the next step before it fires again, which is the same sum
            layer.reset_delay = True
    return model


def run_snntorch(path: Path, images: Tensor, timesteps: int) -> tuple[Trains, Tensor]:
    """One step after the other; the layers keep their potentials."""
    model = load_snntorch(path).to(images.dtype)
    trains: dict[str, list[Tensor]] = {}

    def keep(name: str, _layer: nn.Module, _inputs: Any, spikes: Tensor) -> Tensor:
        trains.setdefault(name, []).append(spikes)
        return spikes.to(images.dtype)  # snnTorch makes them float32

    for name in neurons(path):
        model.get_submodule(name).register_forward_hook(partial(keep, name))
    state, total = None, torch.zeros(())
    for _ in range(timesteps):
        output, state = model(images, state)
        total = total + output
    return {name: torch.stack(train) for name, train in trains.items()}, total / timesteps


RUN = {"sinabs": run_sinabs, "snntorch": run_snntorch}
FIRES_WHEN: dict[str, Any] = {"sinabs": "reached", "snntorch": "exceeded"}
"""Of the threshold; matters for whole numbers."""


def neurons(path: Path) -> list[str]:
    """Names of the IF nodes."""
    return [name for name, node in nir.read(path).nodes.items() if isinstance(node, nir.IF)]


class Comparison(NamedTuple):
    """Spike counts of all neurons on all images here and there.

    Attributes:
        counts: how many were compared.
        different: how many of them differ.
        least: spikes of the site that spikes least.
        logits: largest difference of the logits.
    """

    counts: int
    different: int
    least: int
    logits: float


def compare(network: Any, path: Path, images: Tensor, simulator: str) -> Comparison:
    """The same images here and in another simulator.

    Args:
        network: float32, with one threshold (:func:`rheobase.network.fold_thresholds`); is made float64.
        path: of the file to write.
        images: [B, ...].
        simulator: a key of ``RUN``.
    """
    import rheobase as rb

    written = rb.exchange.export_nir(network, path, reset="subtract", overwrite=True)
    ours: dict[str, list[Tensor]] = {}
    logits = network.double().readouts(
        images.double(),
        (network.timesteps,),
        monitor=lambda site, signal: ours.setdefault(site.name, []).append((signal.values != 0).sum(0)),
    )[0]
    with torch.no_grad():
        trains, output = RUN[simulator](path, images.double(), network.timesteps)
    network.float()
    pairs = [(torch.cat(parts), trains[written.sites[site]].sum(0)) for site, parts in ours.items()]
    return Comparison(
        counts=sum(here.numel() for here, _ in pairs),
        different=sum(int((here != there).sum()) for here, there in pairs),
        least=min(int(here.sum()) for here, _ in pairs),
        logits=float((output - logits).abs().max()),
    )
