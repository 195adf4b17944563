"""Dropout, which has no effect in the mode that is traced, kept for the training of a quantised network."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx

MARK = "rheobase::dropout"
_FUNCTIONS: dict[Any, str] = {
    torch.ops.aten.dropout: "dropout",
    torch.ops.aten.dropout_: "dropout",
    torch.ops.aten.feature_dropout: "feature_dropout",
    torch.ops.aten.feature_dropout_: "feature_dropout",
}
"""Dropout of single values and of whole channels -> the function of torch that is applied in training."""


@torch.library.custom_op(MARK, mutates_args=())
def _mark(input: Tensor, function: str, p: float) -> Tensor:
    return input.clone()


@_mark.register_fake
def _(input: Tensor, function: str, p: float) -> Tensor:
    return torch.empty_like(input)


def mark_dropout(program: torch.export.ExportedProgram) -> None:
    """Replace every dropout that is switched off by a call of ``MARK``: torch.export's decompositions remove it."""
    for node in program.graph.nodes:
        function = _FUNCTIONS.get(getattr(node.target, "overloadpacket", None))
        if function is not None and len(node.args) == 3 and node.args[1] and node.args[2] is False:
            node.target = torch.ops.rheobase.dropout.default
            node.args = (node.args[0], function, node.args[1])
    program.graph_module.recompile()


def dropout_of(node: fx.Node, written: dict[fx.Node, Any]) -> tuple[str, float] | None:
    """Function and p of a marked dropout; None if another call reads its input too.

    Args:
        node: the call of ``MARK``.
        written: the value of each call so far; a call that only passes its input on has the same name as its value.
    """
    same = {source for source, value in written.items() if isinstance(value, str) and value == written[node]}
    chain = [node]
    while chain[-1].all_input_nodes and chain[-1].all_input_nodes[0] in same:
        chain.append(chain[-1].all_input_nodes[0])
    if len(chain) < len(same) or any(len(source.users) > 1 for source in chain[1:]):
        return None
    return cast(tuple[str, float], tuple(node.args[1:]))
