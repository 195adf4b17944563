"""A spiking network whose weights and neurons train through its simulation."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rheobase.core.checks import check_choice, check_positive
from rheobase.core.errors import RheobaseError, TrainingError
from rheobase.graph.graph import Graph, owner_of
from rheobase.graph.interpreter import run
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.graph.sites import Site
from rheobase.network.simulation import Simulation
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons import Neuron
from rheobase.signals.signal import Signal, SpikeTrain, along_channels

Trains = Literal["weights", "threshold", "initial_potential", "bias"]
"""What is trained: the weights of the graph, θ, V0, and a bias for every step."""


class TrainableNetwork(nn.Module):
    r"""The simulation of a spiking network as a differentiable function of its weights and neurons.

    .. math::
        \theta = \theta_0 e^{\rho}, \qquad V_0 / \theta = v_0 + \delta, \qquad b[t] = b_0[t] + \theta_0 \beta[t]

    ρ, δ and β are parameters of the neurons and start at zero, so that the parameters of all sites have similar
    scales; θ stays positive. The gradient is that of :func:`rheobase.neurons.surrogate.fire_with_gradient`, through all
    steps and sites. Parameters are named ``network.graph.weights.NAME``, ``sites.SITE.threshold``,
    ``sites.SITE.initial_potential`` and ``sites.SITE.bias``.

    The gradient needs the potentials and spikes of all steps and sites. If those of a batch exceed the network's
    ``memory_budget``, the batch is split, and the simulation of all parts but the last is repeated in the backward pass
    (:func:`torch.utils.checkpoint.checkpoint`): the same gradient within rounding, for up to a third more time.

    Args:
        network: copied.
        trains: what is trained; what a neuron does not have is left out.
        granularity: one ρ, one δ and one β[t] for a site, or for each channel.
        width: width of the surrogate gradient, in units of θ.
        rate: learning rate of ρ, δ and β, as a multiple of that of the weights.

    Raises:
        TrainingError: naming the first site with neurons that are not differentiable.

    Example:
        >>> import torch, rheobase as rb
        >>> from rheobase import zoo
        >>> images = torch.rand(8, 3, 32, 32)
        >>> snn = rb.convert(zoo.resnet20().eval(), rb.RateCoding(timesteps=2), calibration=images)
        >>> trainable = TrainableNetwork(snn)
        >>> trainable(images).square().mean().backward()
        >>> trainable.write(snn)  # sets the parameters of snn
    """

    def __init__(
        self,
        network: SpikingNetwork,
        *,
        trains: Collection[Trains] = get_args(Trains),
        granularity: Literal["layer", "channel"] = "channel",
        width: float = 1.0,
        rate: float = 10.0,
    ) -> None:
        super().__init__()
        check_converted(network)
        if isinstance(trains, str) or not isinstance(trains, Collection) or not trains:
            raise TrainingError(
                f"is {trains!r}", where="trains", remedy=f"give several of {', '.join(get_args(Trains))}"
            )
        for what in trains:
            check_choice(what, Trains, "trains", error=TrainingError)
        check_choice(granularity, ("layer", "channel"), "granularity", error=TrainingError)
        check_positive(width, "width", error=TrainingError)
        check_positive(rate, "rate", error=TrainingError)
        check_differentiable(network)
        graph = network.graph.replace()
        for name in trained_tensors(graph) if "weights" in trains else ():
            graph.put(name, nn.Parameter(graph.tensor(name).detach().clone()))
        nothing = Graph(graph.nodes[:1], graph.nodes[0].name, {})  # the analog network does not train
        neurons = copy.deepcopy(list(cast(Any, network.neurons)))
        self.network = SpikingNetwork(
            graph, nothing, neurons, network.timesteps, {}, alignment=network.alignment, protocol=network.protocol
        )
        self.network.memory_budget = network.memory_budget
        self.width, self.sites = width, nn.Module()
        self._neurons: dict[str, TrainableNeurons] = {}
        for site in network.sites:
            owner, leaf = owner_of(self.sites, site.name)
            neuron, steps = network.neuron(site.name), network.steps_of(site.name)
            self._neurons[site.name] = TrainableNeurons(neuron, site, steps, trains, granularity, rate)
            owner.add_module(leaf, self._neurons[site.name])

    def neurons(self, site: str) -> TrainableNeurons:
        """The parameters of a site's neurons."""
        return self._neurons[site]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, ...] after all steps."""
        network = self.network
        images = network.check_images(images)
        if not torch.is_grad_enabled():
            return torch.cat([self._logits(part) for part in images.split(network.sub_batch_size(network.timesteps))])
        *first, last = images.split(self.images_in_budget())
        parts = [cast(Tensor, checkpoint(self._logits, part, use_reentrant=False)) for part in first]
        return torch.cat([*parts, self._logits(last)])

    def images_in_budget(self) -> int:
        """Number of images whose simulation can be stored for the backward pass; at least 1."""
        network = self.network
        # sums and neurons do not store their inputs; a neuron stores its potentials and its output
        read = {name for node, _ in network.between if node.operation not in ("add", "site") for name in node.inputs}
        stored = [n for n, _ in network.between if n.operation == "site" or n.name in read]
        step = sum(math.prod(node.shape) * (1 + (node.operation == "site")) for node in stored)
        constant = sum(math.prod(node.shape) for node in network.graph.nodes)
        floats = constant + network.timesteps * (step + network._step_floats)  # and the gradients that are live
        return max(1, network.memory_budget // (4 * floats))

    def _logits(self, images: Tensor) -> Tensor:
        network = self.network
        values = network.begin(images)
        run(network.graph, network.between, values, _Differentiable(self).advance(network.timesteps))
        return network.mean_logits(values)

    def write(self, network: SpikingNetwork) -> None:
        """Set the trained weights and neurons of ``network``, the one that this one was made from, or a copy of it."""
        graph, ours = network.graph, self.network.graph
        trained = {name: ours.tensor(name).detach() for name in trained_tensors(graph)}
        changed = {name: value.clone() for name, value in trained.items() if not torch.equal(value, graph.tensor(name))}
        if changed:
            network.graph = graph.replace(tensors=changed)
        for site in network.sites:
            network.neuron(site.name).set(**self.neurons(site.name).written())

    def finite(self) -> Tensor:
        """True for each parameter, in the order of ``named_parameters``, that is finite; θ must not be 0 either."""
        flags = []
        for name, parameter in self.named_parameters():
            values = parameter.detach().exp() if name.endswith(".threshold") else parameter.detach()
            flags.append((values.isfinite() & (values > (0 if name.endswith(".threshold") else -torch.inf))).all())
        return torch.stack(flags)


class TrainableNeurons(nn.Module):
    """ρ, δ and β of the neurons of a site: ``threshold``, ``initial_potential`` and ``bias``."""

    def __init__(
        self,
        neuron: Neuron,
        site: Site,
        steps: int,
        trains: Collection[Trains],
        granularity: Literal["layer", "channel"],
        rate: float,
    ) -> None:
        super().__init__()
        theta = neuron.amplitude.detach().clone()
        v0 = torch.as_tensor(neuron.v0, dtype=theta.dtype, device=theta.device).detach().clone()
        self.register_buffer("start", theta)
        self.register_buffer("v0", v0)
        given = getattr(neuron, "bias", None)
        b0 = theta.new_zeros(steps, site.channels) if given is None else given.detach() + theta.new_zeros(steps, 1)
        self.register_buffer("b0", b0)
        per_channel = (site.channels,) if granularity == "channel" else ()
        shapes: dict[Any, tuple[int, ...]] = {"threshold": per_channel, "initial_potential": per_channel}
        shapes["bias"] = (steps, *(per_channel or (1,)))
        for name, shape in shapes.items():
            if name in trains and name in neuron.settable:
                self.register_parameter(name, nn.Parameter(theta.new_zeros(shape)))
        self.rates = dict.fromkeys(shapes, rate)

    def values(self) -> dict[str, Tensor]:
        """The parameters of the neurons that are trained: ``threshold``, ``initial_potential`` and ``bias``."""
        start, trained = cast(Tensor, self.start), dict(self.named_parameters())
        silent, found = start.isinf(), {}
        theta = torch.where(silent, 1.0, start)
        if (rho := trained.get("threshold")) is not None:
            found["threshold"] = torch.where(silent, start, theta * rho.exp())
        if (delta := trained.get("initial_potential")) is not None:
            v0 = cast(Tensor, self.v0)
            found["initial_potential"] = v0 + along_channels(delta, 1 + v0.dim())
        if (beta := trained.get("bias")) is not None:
            found["bias"] = cast(Tensor, self.b0) + torch.where(silent, 0.0, theta) * beta
        return found

    def written(self) -> dict[str, Tensor]:
        """The same, for :meth:`rheobase.neurons.Neuron.set`; without those that have not moved."""
        moved = {name for name, parameter in self.named_parameters() if bool(parameter.detach().any())}
        return {name: value.detach().clone() for name, value in self.values().items() if name in moved}


class _Differentiable(Simulation):
    """The simulation with the trained parameters."""

    def __init__(self, trainable: TrainableNetwork) -> None:
        super().__init__(trainable.network)
        self.trainable = trainable

    def emit(self, node: Node, neuron: Neuron, signal: Signal) -> SpikeTrain:
        parameters = self.trainable.neurons(node.name).values()
        steps = self.steps_of(node.name)
        values = neuron.run_with_gradient(signal, steps, parameters, self.trainable.width)
        return SpikeTrain(values, parameters.get("threshold", neuron.amplitude))


def trained_tensors(graph: Graph) -> list[str]:
    """Names of the tensors of a graph that training changes: weights and biases."""
    arguments = [(name, node, key) for node in graph.nodes for key, name in node.parameters.items()]
    wanted = [name for name, node, key in arguments if node.operation in OPERATIONS and key in _trained(node)]
    return [name for name in dict.fromkeys(wanted) if graph.tensor(name).is_floating_point()]


def _trained(node: Node) -> Collection[str]:
    return OPERATIONS[node.operation].trained


def check_differentiable(network: SpikingNetwork, error: type[RheobaseError] = TrainingError) -> None:
    """Raise an error if a site's neurons have no gradient."""
    for site in network.sites:
        neuron = network.neuron(site.name)
        if not neuron.differentiable:
            reason = f"has {type(neuron).__name__} neurons, which are not differentiable"
            remedy = "use differentiable neurons, such as integrate_fire or constant_current"
            raise error(reason, where=site.name, remedy=remedy)


def check_trains_through_time(network: SpikingNetwork, error: type[RheobaseError] = TrainingError) -> None:
    """Raise an error if a site waits for its whole input: no gradient passes through such a simulation."""
    if network.protocol is not None:
        reason = f"runs in the phases of {network.protocol.kind}, where every site waits for its whole input"
        raise error(reason, where="network", remedy="convert it by a method without phases")
    for site in network.sites:
        neuron = network.neuron(site.name)
        if neuron.streams:
            continue
        remedy = "train the quantised network before converting it: rb.quantise, rb.train"
        if neuron.differentiable:
            remedy = "use rb.passes.SurrogateCalibration"
        elif "output_bias" in neuron.settable:
            remedy = "use rb.passes.SpatialRecalibration and rb.passes.TemporalCorrection, as rb.DAParallel does"
        reason = f"has {type(neuron).__name__} neurons, which wait for their whole input"
        raise error(reason, where=site.name, remedy=f"{remedy}; or use streaming neurons")
    check_differentiable(network, error)
