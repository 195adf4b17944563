"""Trace a trained ``nn.Module`` to a :class:`Graph`.

``torch.export`` records the network as a torch.fx graph of ATen calls. In it, ``nn.ReLU``, ``F.relu``, ``torch.relu_``
and ``x.relu()`` are the same call, in-place writes are replaced, shapes are numbers, and every use of a module is a
separate call.
"""

from __future__ import annotations

import copy
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.activations.staircase import Staircase
from rheobase.core.errors import DataError, ModelError, RheobaseError, TraceError
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.rewrites.channels import channels_first
from rheobase.graph.trace.builder import Builder
from rheobase.graph.trace.call import TRACE_BATCH, Note
from rheobase.graph.trace.refusals import NO_SPIKING

ACTIVATION_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh, Staircase)
REFUSED_MODULES: dict[Any, str] = {
    (nn.RNNBase, nn.RNNCellBase): "recurrent layers have their own time axis, which conflicts with the time-steps",
    nn.MultiheadAttention: "attention multiplies activations with one another and has a softmax",
}
DECOMPOSED = frozenset(
    (
        *("multiply", "subtract", "divide", "true_divide", "negative", "concat", "concatenate"),
        *("hstack", "vstack", "dstack", "column_stack", "fliplr", "flipud", "atleast_1d", "atleast_2d", "atleast_3d"),
        *("addcmul", "addcdiv", "lerp", "diff", "inner", "outer", "kron", "linalg_multi_dot"),
    )
)
"""Names of calls that are other calls put together, or only other names of them."""


@dataclass
class Capture:
    """The result of tracing: the graph, the rewrites, and the refusals; with any refusal it cannot be converted."""

    graph: Graph
    rewrites: list[Note] = field(default_factory=list)
    refusals: list[Note] = field(default_factory=list)

    def raise_if_refused(self) -> None:
        """Raise one :class:`TraceError` that lists every refusal.

        Raises:
            TraceError: if there is any.
        """
        if len(self.refusals) == 1:
            (note,) = self.refusals
            raise TraceError(note.text, where=note.where, remedy=note.remedy)
        if self.refusals:
            notes = "".join(f"\n  - {note}" for note in self.refusals)
            raise TraceError(f"{len(self.refusals)} parts of the network cannot be converted:{notes}")


def capture(model: nn.Module, example: Tensor) -> Capture:
    """Trace a network to a graph, with lists of rewrites and refusals.

    Args:
        model: a trained network with one float tensor as input; not modified. A :class:`Graph` is not traced again, so
            that one trace serves many conversions.
        example: a batch of inputs, [B, ...], B >= 1, of the size that the network will be used with.

    Returns:
        The capture. Operations that cannot be converted are refusals in it and raise no error here.

    Raises:
        TraceError: if the network does not run on the example, or cannot be traced.
        ModelError: if ``model`` is not a network, or a weight is NaN or infinite.
        DataError: if the example is not a finite float batch.
    """
    _check_module(model)
    check_finite_weights(model)
    if isinstance(model, Graph):
        if tuple(_check_example(example).shape[1:]) != model.input_shape:
            reason = f"has shape {list(example.shape[1:])}, the network was traced for {list(model.input_shape)}"
            raise DataError(reason, where="example", remedy="trace the network again with an example of this size")
        return Capture(model.replace(), [], [])
    model = copy.deepcopy(model).eval().requires_grad_(False)
    example = _check_example(example)
    with torch.no_grad():
        reference = _run(model, example)
    builder = Builder()
    refusals = builder.refusals
    for path, module in model.named_modules():
        for kinds, text in REFUSED_MODULES.items():
            if isinstance(module, kinds):
                where = f"{path or 'the network'} ({type(module).__name__})"
                refusals.append(Note(where, f"{text}; it {NO_SPIKING}", "train the network without it"))
                builder.refused_modules |= {path}
    try:
        output = builder.build(_export(model, example))
    except TraceError as error:
        if not refusals:
            raise
        refusals.append(Note(error.where or "the network", error.reason, error.remedy or ""))
        nodes = [Node("input", "input", shape=tuple(example.shape[1:]))]
        return Capture(Graph(nodes, "input", {}), [], refusals)
    needed = {output, builder.nodes[0].name}
    for node in reversed(builder.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    kept = [node for node in builder.nodes if node.name in needed]
    graph = Graph(kept, output, builder.tensors)
    graph, moved = (graph, []) if refusals else channels_first(graph)
    for path, module in model.named_modules():
        if isinstance(module, ACTIVATION_MODULES) and path not in builder.reached:
            text = "is never reached: the output for this example does not depend on it"
            remedy = "replace the module by nn.Identity(), or pass an example that uses it"
            refusals.append(Note(f"{path} ({type(module).__name__})", text, remedy))
    if not refusals:
        if not graph.sites:
            text = "has no activation that can become a layer of neurons"
            refusals.append(Note("the network", text, "convert a network with ReLU activations"))
        with torch.no_grad():
            difference = relative_difference(graph(example), reference)
        if not difference <= builder.tolerance:
            reason = f"differs from its traced graph (largest relative logit difference {difference:.2g})"
            remedy = "replace operations that depend on the batch or on values; if there are none, report the error"
            raise TraceError(reason, where="the network", remedy=remedy)
    return Capture(graph, list(dict.fromkeys([*builder.rewrites, *moved])), refusals)


def device_of(model: nn.Module) -> torch.device:
    """Device of a network's tensors; refuses any object but an ``nn.Module``."""
    _check_module(model)
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        reason = f"is of type {type(model).__name__}, not a torch.nn.Module"
        raise ModelError.typed(reason, where="network", remedy="build the network and load its weights first")


def check_finite_weights(model: nn.Module, source: str | None = None) -> None:
    """Raise a ModelError for the first tensor with NaN or infinite values; its place is ``source``, or the weight."""
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            reason = f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} values are NaN or infinite"
            where, reason = (f"weight '{name}'", reason) if source is None else (source, f"tensor {name}: {reason}")
            raise ModelError(reason, where=where, remedy="load a checkpoint from before the training diverged")


def _check_example(example: Tensor) -> Tensor:
    if not isinstance(example, Tensor):
        reason = f"must be a tensor, not {type(example).__name__}"
        raise DataError.typed(reason, where="example", remedy="pass a batch of images")
    reason = remedy = None
    if not example.is_floating_point():
        reason, remedy = f"has dtype {example.dtype}", "convert to float and normalise as in training"
    elif example.dim() < 2 or example.shape[0] == 0:
        reason, remedy = f"has shape {list(example.shape)}, not a batch", "pass a tensor [batch, ...]"
    elif not bool(torch.isfinite(example).all()):
        reason, remedy = "contains NaN or infinite values", "check the preprocessing"
    if reason:
        raise DataError(reason, where="example", remedy=remedy)
    return example


def _run(model: nn.Module, example: Tensor) -> Tensor:
    try:
        output = model(example)
    except RheobaseError:
        raise
    except Exception as error:
        place = f" (at {_user_frame(error)})" if _user_frame(error) else ""
        reason = f"fails on the example of shape {list(example.shape)}: {_first_line(error)}{place}"
        remedy = "pass an example of the size, channels and dtype it was trained with"
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), example.dtype)
        if dtype != example.dtype:
            reason = f"has weights of dtype {dtype}, but the example has dtype {example.dtype}"
            remedy = f"convert the images (images.to({dtype})) or the network (network.to({example.dtype}))"
        raise TraceError(reason, where="the network", remedy=remedy) from error
    where = "the network's output"
    if not isinstance(output, Tensor):
        remedy = "wrap the network so that it returns only the logits"
        raise TraceError.typed(f"is a {type(output).__name__}, not one tensor", where=where, remedy=remedy)
    if output.dim() < 2 or output.shape[0] != example.shape[0]:
        reason = f"has shape {list(output.shape)} for a batch of {example.shape[0]}"
        raise TraceError(reason, where=where, remedy="return one row for each image of the batch")
    if not bool(torch.isfinite(output).all()):
        reason = "is NaN or infinite on the example"
        raise ModelError(reason, where=where, remedy="check weights and preprocessing")
    return output


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    batch = example.repeat((TRACE_BATCH,) + (1,) * (example.dim() - 1))[:TRACE_BATCH]
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(model, (batch,), strict=False).run_decompositions(_decompositions())
    except Exception as error:
        reason, remedy = f"cannot be traced: {_first_line(error)}", "rewrite this code in plain tensor operations"
        if "data-dependent" in str(error) or "DataDependent" in type(error).__name__:
            reason = "has data-dependent control flow (an if or a loop decided by values of a tensor)"
            remedy = "replace it by operations that do not depend on values"
        raise TraceError(reason, where=_user_frame(error) or "the network", remedy=remedy) from error


@cache
def _decompositions() -> dict[Any, Any]:
    """PyTorch's own rules for the calls in ``DECOMPOSED``."""
    rules = torch.export.default_decompositions().items()
    return {call: rule for call, rule in rules if call.overloadpacket.__name__ in DECOMPOSED}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch.export's log of a failure, which repeats the error of this library at length."""
    before = logging.root.manager.disable
    try:
        logging.disable()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _user_frame(error: BaseException) -> str:
    """``file:line: code`` of the innermost frame in neither PyTorch nor this package."""
    others = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(others)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference, divided by the largest absolute reference value."""
    scale = float(reference.abs().max())
    return float((value - reference).abs().max()) / (scale if scale > 0 else 1.0)
