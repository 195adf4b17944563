"""Insert alignments, so that every site reads spike trains with its own T."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

from rheobase.graph.node import Node

OPERATION = "align"
"""Operation of the nodes that :func:`aligned` inserts; their attribute ``site`` is the site to whose T they align."""


def aligned(
    nodes: Sequence[Node], steps: Mapping[str, int], waiting: Container[str], keep: Iterable[str]
) -> list[Node]:
    """The nodes between sites, with alignments to the T of the site that reads them, before any sum or concatenation.

    A node that is read by sites with different T is computed once for each T, from spike trains aligned to that T. The
    current of a site is then independent of the other sites that read the same sum.

    Args:
        nodes: in execution order, including sites.
        steps: site -> T.
        waiting: sites whose neurons read spike trains of any length.
        keep: names of values that the readout reads, without alignment.
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
        """Name of the node with the value of ``name``, aligned to the T of a site."""
        key = (name, steps[site])
        if name not in by_name:
            return name  # constant
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
            source_of = unaligned if node.name in waiting else lambda source, site=node.name: towards(source, site)
            placed[node.name] = replace(node, inputs=tuple(source_of(source) for source in node.inputs))
    for name in keep:
        unaligned(name)
    return list(placed.values())
