"""Temporal alignment: what a train of T' steps is to a site that runs for T."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from rheobase.graph.ir import Node
from rheobase.signal import Held, Signal, Train
from rheobase.values import Value

OPERATION = "align"
"""Of the nodes that :func:`aligned` puts in; attribute ``site``: the one whose T is wanted."""


class Alignment(Value):
    r"""How a train of T' steps becomes one of T where it meets, or feeds, a site with another T (QAC, section 4.3).

    .. math:: \hat x[t] = \sum_{i=1}^{T'} w(t, i) \, x[i], \qquad t = 1 \dots T

    - ``"average"``: w = 1/T', the time-mean at every step (Eqs. 12, 13). The current is then even, and nothing is lost.
    - ``"replicate"`` (T' < T): the nearest step by whole numbers, :math:`i - 1 = \lfloor (t - 1) T' / T \rfloor`. Where
      T' does not divide T, some steps count more than others.
    - ``"truncate"`` (T' > T): the first T steps; what comes later is lost.

    All three take the branches of a sum or concat one by one, before they meet, and commute with everything affine.
    Where T' = T the train passes as it is. Only for neurons that take their input step by step: ``ConstantCurrent``
    takes the mean on every edge, and ``Pasc`` the sum, whatever T' is.

    Args:
        expansion: where T' < T.
        reduction: where T' > T.

    Example:
        >>> import torch
        >>> train = Train(torch.tensor([1.0, 0.0, 2.0]).reshape(3, 1, 1))
        >>> Alignment(expansion="replicate").align(train, 5).values.flatten()
        tensor([1., 1., 0., 0., 2.])
        >>> Alignment(reduction="truncate").align(train, 2).values.flatten()
        tensor([1., 0.])
        >>> Alignment().align(train, 2).values.flatten()
        tensor([1.])
    """

    place: ClassVar[str | None] = "alignment"

    expansion: Literal["average", "replicate"] = "average"
    reduction: Literal["average", "truncate"] = "average"

    def align(self, signal: Signal, steps: int) -> Signal:
        """The signal for a site that runs for ``steps``: a train of so many, or held."""
        if isinstance(signal, Held) or signal.steps == steps:
            return signal
        if signal.steps < steps and self.expansion == "replicate":
            return Train(signal.values[[t * signal.steps // steps for t in range(steps)]])
        if signal.steps > steps and self.reduction == "truncate":
            return Train(signal.values[:steps])
        return Held(signal.mean())


def aligned(
    nodes: Sequence[Node], steps: Mapping[str, int], waiting: Container[str], keep: Iterable[str]
) -> list[Node]:
    """The nodes between sites, with every train brought to the T of the site it feeds before it meets another.

    A node whose value goes to sites with different T is computed for each of them anew, from trains aligned to that T;
    so a site's current never depends on which other sites read the same sum.

    Args:
        nodes: in execution order, sites among them.
        steps: T of every site.
        waiting: sites whose neurons take trains of any length.
        keep: names of values that the readout takes, as they are.
    """
    by_name = {node.name: node for node in nodes}
    placed: dict[str, Node] = {}
    found: dict[tuple[str, int], str] = {}

    def unaligned(name: str) -> str:
        if name in by_name and name not in placed:
            for source in by_name[name].inputs:
                unaligned(source)
            placed[name] = by_name[name]
        return name

    def towards(name: str, site: str) -> str:
        """Name of the value of ``name`` for a site."""
        key = (name, steps[site])
        if name not in by_name:
            return name  # held
        if key not in found:
            found[key] = _towards(by_name[name], site)
        return found[key]

    def _towards(node: Node, site: str) -> str:
        name = f"{node.name}@{steps[site]}"
        if node.operation == "site":
            if steps[node.name] == steps[site]:
                return node.name
            node = replace(node, operation=OPERATION, inputs=(node.name,), attributes={"site": site}, parameters={})
        else:
            inputs = tuple(towards(source, site) for source in node.inputs)
            if inputs == node.inputs:
                return unaligned(node.name)
            node = replace(node, inputs=inputs)
        placed[name] = replace(node, name=name)
        return name

    for node in nodes:
        if node.operation == "site":
            look = unaligned if node.name in waiting else lambda source, site=node.name: towards(source, site)
            placed[node.name] = replace(node, inputs=tuple(look(source) for source in node.inputs))
    for name in keep:
        unaligned(name)
    return list(placed.values())
