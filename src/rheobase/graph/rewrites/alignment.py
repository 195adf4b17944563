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
    found: dict[tuple[str, int | None], str] = {}

    def put(name: str, site: str | None = None) -> str:
        """Place the node with the value of ``name``, aligned to the T of a site if one is given; return its name."""
        node = by_name.get(name)
        if node is None or (node.operation == "site" and steps[name] == steps[site or name]):
            return name  # a constant, or placed already
        key = name, None if site is None else steps[site]
        if key not in found:
            if node.operation == "site":
                node = replace(node, operation=OPERATION, inputs=(name,), attributes={"site": site}, parameters={})
            else:
                node = replace(node, inputs=tuple(put(source, site) for source in node.inputs))
            if site is not None and node.inputs == by_name[name].inputs:  # no alignment before it
                found[key] = put(name)
            else:
                found[key] = name if site is None else f"{name}@{steps[site]}"
                placed[found[key]] = replace(node, name=found[key])
        return found[key]

    for node in nodes:
        if node.operation == "site":
            site = None if node.name in waiting else node.name
            placed[node.name] = replace(node, inputs=tuple(put(source, site) for source in node.inputs))
    for name in keep:
        put(name)
    return list(placed.values())
