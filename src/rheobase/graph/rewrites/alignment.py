"""Trains brought to the T of the site that they feed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from rheobase.graph.node import Node

OPERATION = "align"
"""Of the nodes that :func:`aligned` puts in; attribute ``site``: the one whose T is wanted."""


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
