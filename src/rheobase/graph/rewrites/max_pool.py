"""Replace max-pooling, which is not linear, as the caller chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from rheobase.graph.trace.call import Note
from rheobase.graph.trace.capture import Capture

MaxPool = Literal["refuse", "average", "gate"]


def replace_max_pool(found: Capture, choice: MaxPool) -> Capture:
    """Apply the caller's choice to every max-pooling of a captured network.

    - ``average``: average pooling over the same window (padding not counted), in the analog network too.
    - ``gate``: max-pooling remains; in the spiking network, each window passes on the spikes of the input with the
      largest sum so far (Rueckauer et al. 2017, section 2.2.6).
    - ``refuse``: each max-pooling is a refusal.
    """
    nodes, rewrites, refusals = [], list(found.rewrites), list(found.refusals)
    for node in found.graph.nodes:
        if node.operation != "max_pool":
            pass
        elif choice == "refuse":
            remedy = 'use max_pool="gate" (running maximum) or max_pool="average"'
            refusals.append(Note(node.origin, "max-pooling is not linear in spike trains", remedy))
        elif choice == "gate":
            rewrites.append(Note(node.origin, "max-pooling becomes a gate on the largest running sum"))
        elif any(d != 1 for d in node.attributes["dilation"]):
            text = "has a dilated window, which average pooling does not support"
            refusals.append(Note(node.origin, text, 'use max_pool="gate"'))
        else:
            kept = {name: node.attributes[name] for name in ("kernel_size", "stride", "padding", "ceil_mode")}
            node = replace(node, operation="avg_pool", attributes={**kept, "count_include_pad": False})
            rewrites.append(Note(node.origin, "max-pooling replaced by average pooling, which changes the network"))
        nodes.append(node)
    return Capture(found.graph.replace(nodes=nodes), rewrites, refusals)
