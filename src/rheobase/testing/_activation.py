"""Conformance test of quantised activations."""

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
    """Check that an activation satisfies the contract of :class:`rheobase.activations.QuantisedActivation`.

    - The module and the site that is converted from it compute bit-identical values.
    - The values lie within the bounds of the site, do not decrease, and are at most L + 1.
    - Input and parameters have a finite, non-zero gradient.
    - An image's result does not depend on its batch; weights can be stored and loaded.

    Args:
        activation: with parameters of shape [] or [3] (three channels).
        seed: of the currents.

    Example:
        >>> import rheobase as rb
        >>> check_activation(rb.QCFS(levels=4, threshold=1.5))
    """
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(40, CHANNELS, 2, generator=generator) * float(activation.saturation.detach().max())
    site, graph = _site(activation)
    computed = activation(z).detach()
    expect(torch.equal(graph.activate(site, z.clone()), computed), "the site and the module compute different values")
    written = graph.activate(site, z.clone(), overwrite=True)
    expect(torch.equal(written, computed), "the site computes other values with overwrite=True")

    declared = bounds(site)
    theta = activation.saturation.detach()
    expect(theta.dim() == 0 or theta.shape == (CHANNELS,), f"the saturation has shape {list(theta.shape)}")
    expect(bool((theta > 0).all()), "the saturation is not positive")
    expect(bool((computed >= declared.lower).all()), "its values are below the lower bound of its site")
    top = theta if declared.upper is None else torch.tensor(declared.upper)
    top = top.reshape(-1, 1) if top.dim() else top
    expect(bool((computed <= top * (1 + 1e-6)).all()), "its values exceed its saturation")
    expect(isinstance(activation.levels, int) and activation.levels >= 1, f"levels are {activation.levels!r}")
    ramp = torch.linspace(-1, 2, 301).reshape(-1, 1, 1).expand(-1, CHANNELS, 1) * theta.max()
    steps = activation(ramp).detach()
    expect(bool((steps.diff(dim=0) >= 0).all()), "it decreases where its input increases")
    for channel in range(CHANNELS):
        values = len(steps[:, channel].unique())
        expect(values <= activation.levels + 1, f"it has {values} values for {activation.levels} levels")

    _check_gradient(activation, z)
    alone = torch.cat([activation(image.unsqueeze(0)).detach() for image in z[:5]])
    expect(torch.equal(alone, computed[:5]), "an image's result depends on its batch")
    other = copy.deepcopy(activation)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.25)
    other.load_state_dict(activation.state_dict())
    expect(torch.equal(other(z).detach(), computed), "loaded weights give other values")
    expect(other.identity() == activation.identity(), "its identity changes with the weights")


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
        gradient = torch.tensor(torch.nan) if gradient is None else gradient
        expect(bool(gradient.isfinite().all()), f"the gradient of {name} is missing or NaN")
        expect(bool(gradient.any()), f"the gradient of {name} is zero everywhere")
    unknown = sorted(set(module.rates) - set(dict(module.named_parameters())))
    expect(not unknown, f"rates has names that are not parameters: {unknown}")
