"""Torch calls that return their input: dropout outside training, copies, casts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rheobase.graph.trace.call import Call, Refused
from rheobase.graph.trace.notes import Note

if TYPE_CHECKING:
    from rheobase.graph.trace.builder import Builder

NO_EFFECT = frozenset(
    {
        *("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "_to_copy", "to", "identity"),
        *("expand", "expand_as", "dropout", "feature_dropout", "alpha_dropout", "native_dropout"),
    }
)


def pass_through(builder: Builder, call: Call) -> str:
    """Return the input's node; refuse a call that changes the shape."""
    x = call.input("self", "input")
    if builder.shapes[x] != call.shape:
        raise Refused("repeats values by broadcasting", "use nn.Upsample or torch.cat")
    path, kind = builder.place()
    if "Dropout" in kind:
        builder.rewrites.append(Note(f"{path} ({kind})", "removed: it has no effect outside training"))
    return x
