"""ONNX files as networks of PyTorch, by onnx2torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from rheobase.core.errors import DataError, ModelError, first_line
from rheobase.core.folders import user_path
from rheobase.exchange.onnx.lowering import DOMAIN, Lowering
from rheobase.exchange.onnx.operators import register
from rheobase.exchange.onnx.packages import require_onnx, require_onnx2torch
from rheobase.exchange.onnx.reading import NEWEST, OLDEST, REWRITTEN, check, input_of, name_of, opset_of, read
from rheobase.exchange.onnx.running import EVALUATOR, Runs, Values, run_twice
from rheobase.graph.trace.capture import check_finite_weights

_TOLERANCE = 1e-4
"""Of a value of the imported network: the difference from the file's, in parts of the largest value."""
_LISTED = 5


def import_onnx(path: str | Path, example: Tensor | None = None) -> nn.Module:
    """Read an ONNX file as a network of PyTorch.

    onnx2torch converts the nodes. Before that, values that do not depend on the input become constants, so that shapes
    are numbers and the network runs on batches of any size, also if the file was exported for a batch of one. A
    ``Clip`` from 0 to 6 is ReLU6, a ``MatMul`` with constant weights is a linear layer, ``Dropout`` is left out.

    Every value in the network is compared with the file's, on two seeded random batches and on both joined. The file
    is run by onnxruntime, or by the reference evaluator of ``onnx`` if onnxruntime does not run the file. The file is
    data: no code in it runs, and nothing is fetched.

    Args:
        path: a file of the operator sets 6 to the newest that the package ``onnx`` knows, with one float32 input
            [B, ...]. Weights in other files next to it are read.
        example: a batch of inputs [B, ...], of which only the shape is read. The network is read and compared for
            this size; default: the file's. Required if the file leaves a size open, other than the batch.

    Returns:
        The network in eval mode, for :func:`rheobase.inspect`, :func:`rheobase.convert`, :func:`rheobase.quantise` and
        :func:`rheobase.compare`. Its modules have the names of the file's nodes.

    Raises:
        ModelError: if the file is missing or damaged; if it has several inputs, control flow, quantised or half
            precision weights, or operators that onnx2torch does not convert; if the network computes other values than
            the file; or if the extra ``onnx`` is not installed.
        DataError: if the example is missing, or has another number of axes than the file's input.

    Example:
        >>> net = rb.exchange.import_onnx("resnet18.onnx")  # doctest: +SKIP
        >>> snn = rb.convert(net, rb.RateCoding(timesteps=16), calibration=images)  # doctest: +SKIP
    """
    where = str(user_path(path))
    model = read(path)
    given = input_of(model, where)
    check(model, where)
    sizes = _sizes(given.sizes, example, where)
    _resized(model, given.name, sizes)
    written = model
    if opset_of(model) < OLDEST:
        model = _modern(model, where)
    runs = run_twice(model, given.name, sizes, where)
    if model is not written:
        _check_rewriting(written, model, runs, run_twice(written, given.name, sizes, where), where)
    network = _converted(Lowering(model, runs, where).lower(), where)
    check_finite_weights(network, where)
    _check_values(network, given.name, [value.name for value in model.graph.output], runs, where)
    return network


def is_onnx(spec: str | Path) -> bool:
    """True if a name is that of an ONNX file, by its suffix; a folder of such a name is none.

    Example:
        >>> is_onnx("resnet18.onnx"), is_onnx("my_nets:resnet18")
        (True, False)
    """
    path = user_path(spec)
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def input_shape(path: str | Path) -> tuple[int, ...] | None:
    """The shape of one input of an ONNX file, None if the file leaves a size open.

    Args:
        path: the file; its weights are not read.

    Raises:
        ModelError: as for :func:`import_onnx`, if the file cannot be read or has several inputs.

    Example:
        >>> rb.exchange.onnx.input_shape("resnet18.onnx")  # doctest: +SKIP
        (3, 224, 224)
    """
    sizes = input_of(read(path, weights=False), str(user_path(path))).sizes
    shape = None if sizes is None else tuple(size for size in sizes[1:] if size is not None)
    return shape if shape is not None and sizes is not None and len(shape) == len(sizes) - 1 else None


def _sizes(sizes: tuple[int | None, ...] | None, example: Tensor | None, where: str) -> tuple[int | None, ...]:
    """The sizes of the input: the batch of the file, None if it is open, and the other axes of the example."""
    if example is None:
        if sizes is not None and None not in sizes[1:]:
            return sizes
        found = "no sizes" if sizes is None else f"[{', '.join(str(size or '?') for size in sizes)}]"
        remedy = (
            "give an example, such as import_onnx(path, torch.rand(1, 3, 224, 224)); "
            "for `rheobase inspect`, give --input-shape 3,224,224, or --data"
        )
        raise DataError(f"states {found} for its input, so the size of an image is open", where=where, remedy=remedy)
    if sizes is not None and len(sizes) != example.dim():
        reason = f"has {example.dim()} axes, the file takes {len(sizes)}"
        raise DataError(reason, where=f"example for {where}", remedy="give a batch of inputs, [B, ...]")
    return (None if sizes is None else sizes[0], *example.shape[1:])


def _resized(model: Any, name: str, sizes: Sequence[int | None]) -> None:
    """State the sizes of the input, which may be others than the file was exported with."""
    given = next(value for value in model.graph.input if value.name == name).type.tensor_type
    given.ClearField("shape")
    for size in sizes:
        given.shape.dim.add(**({"dim_param": "batch"} if size is None else {"dim_value": size}))


def _modern(model: Any, where: str) -> Any:
    """The file in a newer operator set, by onnx's own version converter."""
    try:
        return require_onnx("version_converter").convert_version(model, REWRITTEN)
    except Exception as cause:  # of its C++ code
        reason = f"uses operator set {opset_of(model)}, which onnx cannot rewrite to {REWRITTEN} ({first_line(cause)})"
        raise ModelError(reason, where=where, remedy=f"export the network with opset_version={NEWEST}") from cause


def _check_rewriting(written: Any, model: Any, runs: Runs, original: Runs, where: str) -> None:
    """Compare the outputs of the file before and after the version converter."""
    for before, after in zip(written.graph.output, model.graph.output, strict=True):
        _compare(runs.first[after.name], original.first[before.name], f"{where}, output {before.name!r}", runs.program)


def _converted(model: Any, where: str) -> fx.GraphModule:
    """The network by onnx2torch; an error names every node that it does not know."""
    onnx2torch = require_onnx2torch()
    register()
    get_converter = require_onnx2torch("node_converters.registry").get_converter
    versions = {entry.domain: entry.version for entry in model.opset_import}
    unknown: dict[str, str] = {}
    for node in model.graph.node:
        try:
            get_converter(node.op_type, versions[node.domain], node.domain)
        except NotImplementedError:
            unknown.setdefault(node.op_type, name_of(node))
    if unknown:
        listed = ", ".join(f"{name} ({kind})" for kind, name in [*unknown.items()][:_LISTED])
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        reason = "onnx2torch does not convert this operator"
        remedy = "train and export the network without it, or build the network in PyTorch: module:function"
        raise ModelError(reason, where=f"{where}, node {listed}{more}", remedy=remedy)
    try:
        return _without_domain(onnx2torch.convert(model, attach_onnx_mapping=True).eval())
    except Exception as cause:  # onnx2torch has no error of its own, and names no node
        graph = require_onnx2torch("onnx_graph").OnnxGraph(model.graph)
        for node in graph.nodes.values():
            try:
                get_converter(node.operation_type, versions[node.domain], node.domain)(node, graph)
            except Exception as of_node:
                place = f"{where}, node {node.name!r} ({node.operation_type})"
                reason = f"onnx2torch does not convert it ({first_line(of_node)})"
                remedy = "export the network without this form of the operator"
                raise ModelError(reason, where=place, remedy=remedy) from of_node
        reason = f"onnx2torch does not convert it ({first_line(cause)})"
        raise ModelError(reason, where=where, remedy="build the network in PyTorch: module:function") from cause


def _without_domain(network: fx.GraphModule) -> fx.GraphModule:
    """Remove the domain that onnx2torch writes before the names of modules."""
    for node in network.graph.nodes:
        if node.op == "call_module" and node.target.startswith(f"{DOMAIN}/"):
            name = node.target.removeprefix(f"{DOMAIN}/")
            network.add_module(name, network.get_submodule(node.target))
            network.delete_submodule(node.target)
            node.target = name
    network.recompile()
    return network


class _Comparison(fx.Interpreter):
    """Runs the network and compares each value with the file's."""

    def __init__(self, network: fx.GraphModule, values: Values, where: str, program: str) -> None:
        super().__init__(network)
        self.extra_traceback = False  # which it would add to the message of an error
        self.values, self.where, self.program = values, where, program

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run a node of the file, and compare its outputs."""
        module = self.fetch_attr(target)
        try:
            found = super().call_module(target, args, kwargs)
        except Exception as cause:
            reason = f"does not run in PyTorch ({first_line(cause)})"
            remedy = "export the network for a fixed batch of one input, and with an input of fixed size"
            raise ModelError(reason, where=f"{self.where}, node {target!r}", remedy=remedy) from cause
        values = found if isinstance(found, tuple) else (found,)
        for name, value in zip(module.onnx_mapping.outputs, values, strict=False):  # batch normalisation has more names
            if name in self.values and isinstance(value, Tensor):
                _compare(value.numpy(), self.values[name], f"{self.where}, node {target!r}", self.program)
        return found


@torch.no_grad()
def _check_values(network: fx.GraphModule, name: str, outputs: list[str], runs: Runs, where: str) -> None:
    """Compare every value of the network with the file's, for both batches and for both joined."""
    joined = {
        key: np.concatenate((value, runs.second[key]))
        for key, value in runs.first.items()
        if key == name or key in outputs
        if value.ndim and runs.second[key].shape[1:] == value.shape[1:]
    }
    for values in (runs.first, runs.second):
        _Comparison(network, values, where, runs.program).run(torch.from_numpy(values[name]))
    found: Any = _Comparison(network, {}, where, runs.program).run(torch.from_numpy(joined[name]))
    found = found if isinstance(found, list | tuple) else [found]
    if len(found) != len(outputs):
        reason = f"has the outputs {', '.join(map(repr, outputs))}, of which onnx2torch converts {len(found)}"
        raise ModelError(reason, where=where, remedy="export the network with one output")
    for key, value in zip(outputs, found, strict=True):
        if key not in joined:
            remedy = "export the network with the batch as the first axis of its outputs"
            raise ModelError("has no batch axis", where=f"{where}, output {key!r}", remedy=remedy)
        _compare(value.numpy(), joined[key], f"{where}, output {key!r}", runs.program, joined=True)


def _compare(found: Any, expected: Any, place: str, program: str, *, joined: bool = False) -> None:
    """Refuse a value that differs from the file's."""
    if joined and found.shape != expected.shape:
        reason = f"has shape {list(found.shape)} for a larger batch, not {list(expected.shape)}"
    elif found.shape != expected.shape:
        reason = f"has shape {list(found.shape)} in PyTorch, and {list(expected.shape)} in {program}"
    else:
        if not expected.size or expected.dtype.kind != "f":
            return
        difference, scale = np.abs(found - expected).max(), np.abs(expected).max()
        if difference <= _TOLERANCE * max(scale, 1e-30) or difference < 1e-6:
            return
        reason = f"differs from {program} by {difference:.2g}, with values up to {scale:.2g}"
        if joined:
            reason = f"depends on the other inputs of a batch: it differs by {difference:.2g}"
    if joined:
        remedy = "export the network with dynamic_axes for its batch, so that the file contains no batch size"
    else:
        remedy = "export the network without this form of the operator, or build it in PyTorch: module:function"
        if program == EVALUATOR:  # it is wrong in places, such as for batch normalisation of operator sets 9 to 13
            remedy = f"run `pip install onnxruntime`, which may run the file; else {remedy}"
    raise ModelError(reason, where=place, remedy=remedy)
