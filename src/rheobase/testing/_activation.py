"""What every quantised activation promises, put to the test."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

import rheobase.graph.node as node
from rheobase.activations import QuantisedActivation
from rheobase.graph.graph import Graph
from rheobase.graph.sites import bounds
from rheobase.graph.trainable import TrainableGraph
from rheobase.testing._check import expect

CHANNELS = 3


def check_activation(activation: QuantisedActivation, *, seed: int = 0) -> None:
    """Put a quantised activation through what :class:`rheobase.activations.QuantisedActivation` promises.

    - What it computes is what the site computes that the spiking network is made from, to the bit.
    - It lies within the bounds that the site declares, does not fall, and has at most L + 1 values.
    - It has a gradient in its input and in every parameter; a training step changes what converts, or nothing.
    - An image's result does not depend on its batch; weights can be stored and loaded.

    Args:
        activation: with parameters of shape [], or one for each of three channels.
        seed: of the currents.

    Raises:
        AssertionError: naming what does not hold.

    Example:
        >>> import rheobase as rb
        >>> check_activation(rb.QCFS(levels=4, threshold=1.5))
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(40, CHANNELS, 2, generator=generator) * float(activation.saturation.detach().max())
    site, graph = _site(activation)
    computed = activation(z).detach()
    expect(torch.equal(graph.activate(site, z.clone()), computed), "the site computes something else than the module")
    expect(torch.equal(graph.activate(site, z.clone(), overwrite=True), computed), "the site writes over its current")

    declared = bounds(site)
    theta = activation.saturation.detach()
    expect(theta.dim() == 0 or theta.shape == (CHANNELS,), f"the saturation has shape {list(theta.shape)}")
    expect(bool((theta > 0).all()), "the saturation is not positive")
    expect(bool((computed >= declared.lower).all()), "it falls below the lower bound of its site")
    top = theta if declared.upper is None else torch.tensor(declared.upper)
    top = top.reshape(-1, 1) if top.dim() else top
    expect(bool((computed <= top * (1 + 1e-6)).all()), "it exceeds its saturation")
    expect(isinstance(activation.levels, int) and activation.levels >= 1, f"levels are {activation.levels!r}")
    line = torch.linspace(-1, 2, 301).reshape(-1, 1, 1).expand(-1, CHANNELS, 1) * theta.max()
    steps = activation(line).detach()
    expect(bool((steps.diff(dim=0) >= 0).all()), "it falls somewhere")
    for channel in range(CHANNELS):
        values = len(steps[:, channel].unique())
        expect(values <= activation.levels + 1, f"has {values} values for {activation.levels} levels")

    _check_gradient(activation, z)
    alone = torch.cat([activation(image.unsqueeze(0)).detach() for image in z[:5]])
    expect(torch.equal(alone, computed[:5]), "an image's result depends on its batch")
    other = copy.deepcopy(activation)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.25)
    other.load_state_dict(activation.state_dict())
    expect(torch.equal(other(z).detach(), computed), "loaded weights give something else")
    expect(other.identity() == activation.identity(), "the identity changes with the weights")


def _site(activation: QuantisedActivation) -> tuple[node.Node, Graph]:
    nodes = [
        node.Node("input", "input", shape=(CHANNELS, 2)),
        node.Node("site", "site", ("input",), {"activation": "relu"}, {}, (CHANNELS, 2)),
    ]
    graph = TrainableGraph(Graph(nodes, "site", {}), {"site": activation}).to_graph()
    return graph.sites[0], graph


def _check_gradient(activation: QuantisedActivation, z: Tensor) -> None:
    module = copy.deepcopy(activation)
    leaf = z.clone().requires_grad_()
    module(leaf).square().sum().backward()
    found = {"input": leaf.grad, **{name: parameter.grad for name, parameter in module.named_parameters()}}
    for name, gradient in found.items():
        expect(gradient is not None and bool(gradient.isfinite().all()), f"the gradient of {name} is missing or NaN")
        expect(gradient is not None and bool(gradient.any()), f"the gradient of {name} is zero everywhere")
    unknown = sorted(set(module.rates) - set(dict(module.named_parameters())))
    expect(not unknown, f"rates names what is no parameter: {unknown}")
