"""ONNX files read and checked: what a file holds, before anything of it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rheobase.core.errors import ModelError, first_line
from rheobase.core.folders import user_path
from rheobase.exchange.onnx.packages import require_onnx

NEWEST = 17
"""The newest operator set that onnx2torch knows; files of newer ones are rewritten for it."""
OLDEST = 9
"""Files of older operator sets are rewritten by onnx's own version converter."""
REWRITTEN = 13
"""The operator set that they are rewritten to."""
_AGAIN = "copy or export the file again"
_EXPORT = "export the network without it, such as by torch.onnx.export of the PyTorch network in eval mode"
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "FakeQuantize")
_LISTED = 5


@dataclass(frozen=True)
class Input:
    """The input of a file: its name and the sizes of its axes, None where the file leaves one open."""

    name: str
    sizes: tuple[int | None, ...] | None


def read(path: str | Path, *, weights: bool = True) -> Any:
    """Read a file as onnx's ``ModelProto``, with its local functions inlined.

    Args:
        path: the file.
        weights: read tensors that lie in other files, too.

    Raises:
        ModelError: if the file is missing, damaged, no ONNX file, or lacks a file of its weights.
    """
    onnx = require_onnx()
    file = user_path(path)
    where = str(file)
    if not file.is_file():
        raise ModelError("is not a file", where=where, remedy="check the path of the ONNX file")
    if file.stat().st_size == 0:
        raise ModelError("is empty", where=where, remedy=_AGAIN)
    try:
        model = onnx.load(str(file), load_external_data=False)
    except PermissionError as cause:
        raise ModelError("cannot be read (permission denied)", where=where, remedy="check its permissions") from cause
    except Exception as cause:  # protobuf's errors have no common class
        reason = f"is damaged, truncated or not an ONNX file ({first_line(cause)})"
        raise ModelError(reason, where=where, remedy=_AGAIN) from cause
    if not model.graph.node:
        raise ModelError("holds no network: it has no nodes", where=where, remedy=_AGAIN)
    if weights:
        _read_external(model, file)
    return require_onnx("inliner").inline_local_functions(model) if model.functions else model


def _read_external(model: Any, file: Path) -> None:
    """Read the tensors that lie in other files of the same folder."""
    try:
        require_onnx("external_data_helper").load_external_data_for_model(model, str(file.parent))
    except Exception as cause:  # a missing file, one outside the folder, or one that is too short
        reason = f"keeps its weights in another file, which is missing or damaged ({first_line(cause)})"
        remedy = "put that file next to the ONNX file, under the name it was exported with"
        raise ModelError(reason, where=str(file), remedy=remedy) from cause


def input_of(model: Any, where: str) -> Input:
    """The only input of a file; initialisers are not inputs, though old files list them.

    Raises:
        ModelError: if there are several inputs or none, or it is not a float32 tensor with a batch axis.
    """
    onnx = require_onnx()
    known = {tensor.name for tensor in model.graph.initializer}
    found = [value for value in model.graph.input if value.name not in known]
    if len(found) != 1:
        names = ", ".join(repr(value.name) for value in found) or "none"
        remedy = "export the network with one input, such as images, and with the others as constants"
        raise ModelError(f"has {len(found)} inputs ({names}), not one", where=where, remedy=remedy)
    tensor = found[0].type.tensor_type
    place = f"{where}, input {found[0].name!r}"
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type else "no tensor"
        raise ModelError(f"is {kind}, not float32", where=place, remedy="export the network in float32")
    if not tensor.HasField("shape"):
        return Input(found[0].name, None)
    sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
    sizes = tuple(size if size and size > 0 else None for size in sizes)  # some exporters write 0 or -1 for "any"
    if len(sizes) < 2:
        reason = f"has {len(sizes)} axes; the first has to be the batch"
        raise ModelError(reason, where=place, remedy="export the network for a batch of inputs, [B, ...]")
    return Input(found[0].name, sizes)


def opset_of(model: Any) -> int:
    """The version of ONNX's own operators that a file uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def check(model: Any, where: str) -> None:
    """Refuse what no rewriting could make readable, by the names of its nodes.

    Raises:
        ModelError: for newer operator sets than ``onnx`` knows, control flow, quantised networks, operators of other
            domains, sparse weights, and float types other than float32.
    """
    onnx = require_onnx()
    opset, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if opset > newest:
        reason = f"uses operator set {opset}; the installed package onnx knows sets up to {newest}"
        remedy = f"run `pip install -U onnx`, or export the network with opset_version={NEWEST}"
        raise ModelError(reason, where=where, remedy=remedy)
    nodes = list(model.graph.node)
    _refuse(
        [node for node in nodes if node.op_type in _CONTROL_FLOW or any(map(_is_subgraph, node.attribute))],
        where,
        "control flow has no spiking counterpart, and onnx2torch does not read it",
        "export the network by tracing, with the size of its inputs fixed, which leaves branches and loops out",
    )
    _refuse(
        [node for node in nodes if node.op_type in _QUANTISED or node.op_type.startswith(("QLinear", "ConvInteger"))],
        where,
        "the network is quantised to integers",
        "export the network before its quantisation; rb.quantise and rb.train give it levels that a conversion keeps",
    )
    _refuse(
        [node for node in nodes if node.domain not in ("", "ai.onnx")],
        where,
        "this operator belongs to one program, not to ONNX",
        "export the network with ONNX's own operators only",
        show=lambda node: f"{node.domain}.{node.op_type}",
    )
    _refuse(
        [node for node in nodes if node.op_type == "BatchNormalization" and attributes(node).get("training_mode")],
        where,
        "batch normalisation is in training mode",
        "export the network in eval mode",
    )
    if model.graph.sparse_initializer:
        raise ModelError("has sparse weights", where=where, remedy="export the network with dense weights")
    types = onnx.TensorProto
    names = {types.FLOAT16: "float16", types.BFLOAT16: "bfloat16", types.DOUBLE: "float64"}
    for tensor in _tensors(model):
        # one float64 number is a constant that some exporters compute with
        if tensor.data_type in names and (tensor.data_type != types.DOUBLE or len(tensor.dims) > 1):
            reason = f"is {names[tensor.data_type]}"
            remedy = "export the network in float32, before it is converted to another precision"
            raise ModelError(reason, where=f"{where}, weight {tensor.name!r}", remedy=remedy)


def _refuse(nodes: list[Any], where: str, reason: str, remedy: str, show: Any = lambda node: node.op_type) -> None:
    """Refuse the nodes, if there are any."""
    if nodes:
        listed = ", ".join(f"{name_of(node)} ({show(node)})" for node in nodes[:_LISTED])
        more = f" and {len(nodes) - _LISTED} more" if len(nodes) > _LISTED else ""
        raise ModelError(reason, where=f"{where}, node {listed}{more}", remedy=remedy)


def name_of(node: Any) -> str:
    """How messages name a node: by its name, or by its output if it has none."""
    return repr(node.name or next(iter(node.output), ""))


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node by name; texts are decoded."""
    onnx = require_onnx()
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _is_subgraph(attribute: Any) -> bool:
    return attribute.HasField("g") or bool(attribute.graphs)


def _tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
