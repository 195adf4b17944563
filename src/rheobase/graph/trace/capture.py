"""Trace a trained ``nn.Module`` to a :class:`Graph`.

``torch.export`` records the network as a torch.fx graph of ATen calls. In it, ``nn.ReLU``, ``F.relu``, ``torch.relu_``
and ``x.relu()`` are the same call, in-place writes are replaced, shapes are numbers, and every use of a module is a
separate call.
"""

from __future__ import annotations

import inspect
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.activations.staircase import Staircase
from rheobase.core.errors import DataError, ModelError, RecipeError, RheobaseError, TraceError, first_line
from rheobase.graph.graph import Graph, needed_for
from rheobase.graph.node import Node
from rheobase.graph.operations.outputs import choose_output
from rheobase.graph.rewrites.channels import channels_first
from rheobase.graph.trace.agreement import check_agreement, inputs_to_compare
from rheobase.graph.trace.builder import Builder
from rheobase.graph.trace.call import TRACE_BATCH, Note
from rheobase.graph.trace.dropout import mark_dropout
from rheobase.graph.trace.final import without_final_activations
from rheobase.graph.trace.nonlinear import ON_NUMBERS, Nonlinear, allows, check_nonlinear, notes_on_numbers, on_numbers
from rheobase.graph.trace.outputs import Traced, outputs_of, returning_tensors, structure_with
from rheobase.graph.trace.prepare import check_initialised, prepared
from rheobase.graph.trace.refusals import NO_SPIKING

ACTIVATION_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh, Staircase)
REFUSED_MODULES: dict[Any, str] = {
    (nn.RNNBase, nn.RNNCellBase): "recurrent layers have their own time axis, which conflicts with the time-steps",
    nn.MultiheadAttention: "attention multiplies activations with one another and has a softmax",
}
FINAL = "removed from the end: the outputs are the logits, whose order is the same"
SEVERAL = 'choose one, such as output={}, or convert all of them with output="all"'
LISTED = 4
"""Modules that a note names."""
ONE_INPUT = "wrap it into a module with one input, which splits its channels into the inputs"
DECOMPOSED = frozenset(
    (
        *("multiply", "subtract", "divide", "true_divide", "negative", "concat", "concatenate"),
        *("hstack", "vstack", "dstack", "column_stack", "fliplr", "flipud", "atleast_1d", "atleast_2d", "atleast_3d"),
        *("addcmul", "addcdiv", "lerp", "diff", "inner", "outer", "kron", "linalg_multi_dot", "hardsigmoid"),
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


def capture(
    model: nn.Module,
    example: Tensor,
    *,
    output: str | int | None = None,
    images: Tensor | None = None,
    nonlinear: Nonlinear = "refuse",
) -> Capture:
    """Trace a network to a graph, with lists of rewrites and refusals.

    The graph is compared with the network on the example, on seeded random inputs and on ``images``. Layers that the
    output does not depend on are left out. A softmax, log-softmax or sigmoid at the end is removed, with a note.

    Args:
        model: a trained network with one float tensor as input; not modified. A :class:`Graph` is not traced again, so
            that one trace serves many conversions.
        example: a batch of inputs, [B, ...], B >= 1, of the size that the network will be used with.
        output: name or position of the output to convert, for a network that returns several
            (:func:`rheobase.graph.trace.outputs.outputs_of`), or "all": the graph's output is all of them, flattened
            and joined (:meth:`Graph.unpack`). Default: the only one, or the only one named "logits" or "out".
        images: inputs as the network will get them, [N, ...], such as calibration images.
        nonlinear: operations that are not affine and have no neurons, such as SiLU, softmax and products of
            activations, are refusals (``"refuse"``), or computed on numbers (``"numbers"``:
            :class:`rheobase.graph.operations.OnNumbers`; also for ``"neurons"``, which replaces them later); a list of
            module paths: on numbers in these modules only.

    Returns:
        The capture. Operations that cannot be converted are refusals in it and raise no error here.

    Raises:
        TraceError: if the network does not run on the example, cannot be traced, differs from its graph, or returns
            several tensors and ``output`` chooses none of them.
        ModelError: if ``model`` is not a network, or a weight is NaN, infinite or not initialised.
        DataError: if the example is not a finite float batch.
    """
    _check_module(model)
    check_finite_weights(model)
    if isinstance(model, Graph):
        if tuple(check_example(example).shape[1:]) != model.input_shape:
            reason = f"has shape {list(example.shape[1:])}, the network was traced for {list(model.input_shape)}"
            raise DataError(reason, where="example", remedy="trace the network again with an example of this size")
        check_no_output(output, "a traced network")
        return Capture(model.replace(), [], [])
    example = check_example(example)
    network, folded = prepared(model)
    check_nonlinear(nonlinear, [path for path, _ in network.named_modules()])
    _check_one_input(network)
    batches = inputs_to_compare(example, images)
    with torch.no_grad():
        returned = _run(network, example)
    values = outputs_of(returned)
    joined = output == "all" and list(values) != [""] and "all" not in values
    names = _chosen(values, None if joined else output, joined, type(returned).__name__, len(example))
    positions = [list(values).index(name) for name in names]
    builder = Builder(nonlinear)
    builder.refused_modules = dict(_refused_modules(network, nonlinear))
    try:
        every = builder.build(_export(network, example))
        found = {name: node for name, i in zip(names, positions, strict=True) if (node := every[i]) is not None}
        if not found:
            remedy = "choose another with output=" if output is not None else "return a tensor computed from the input"
            raise TraceError("does not depend on the input", where="the network's output", remedy=remedy)
        last = builder.join(found, structure_with(returned, found)) if joined else next(iter(found.values()))
    except TraceError as error:
        if not builder.refused_modules:
            raise
        cause = Note(error.where or "the network", error.reason, error.remedy or "")
        nodes = [Node("input", "input", shape=tuple(example.shape[1:]))]
        return Capture(Graph(nodes, "input", {}), [], [*builder.refused_modules.values(), cause])
    chosen = Traced(network, tuple(i for i in positions if every[i] is not None), joined)
    nodes = needed_for(last, builder.nodes)
    graph, moved = Graph(nodes, last, builder.tensors, builder.dropout), list[Note]()
    calls = {name: call for name, (call, _) in builder.functions.items()}
    kept, last, removed = without_final_activations(graph.nodes, graph.output, calls)
    refusals = list(dict.fromkeys(builder.refused[node.name] for node in kept if node.name in builder.refused))
    origins = {node.name: node.origin for node in builder.nodes}
    dropped = [Note(origins[name], f"{calls[name].strip('_')}: {FINAL}") for name in removed]
    absent = [name for name in values if joined and name not in found]
    dropped += [Note(f"output {name!r}", "left out: has no row for each image that depends on it") for name in absent]
    if not refusals:
        if not graph.sites and not on_numbers(graph.nodes):
            text = "has no activation that can become a layer of neurons"
            refusals.append(Note("the network", text, "convert a network with ReLU activations"))
        graph, moved = channels_first(graph)
        kept, last, removed = without_final_activations(graph.nodes, graph.output, calls)
        functions = {name: builder.functions[name][1] for name in removed}
        check_agreement(graph, chosen, batches, functions, builder.tolerance)
    rewrites = [*folded, *builder.rewrites, *moved, *dropped, *_unused(network, builder, nodes)]
    rewrites += notes_on_numbers(kept)
    return Capture(graph.replace(nodes=kept, output=last), list(dict.fromkeys(rewrites)), refusals)


def check_no_output(output: str | int | None, place: str) -> None:
    """Refuse the choice of an output for a network whose output was chosen when it was traced."""
    if output is not None:
        reason, remedy = f"has no effect on {place}", "leave it out, or pass the original network"
        raise RecipeError(reason, where="output", remedy=remedy)


def _refused_modules(network: nn.Module, nonlinear: Nonlinear) -> Iterator[tuple[str, Note]]:
    for path, module in network.named_modules():
        for kinds, text in REFUSED_MODULES.items():
            if isinstance(module, kinds) and not (kinds is nn.MultiheadAttention and allows(nonlinear, path)):
                where = f"{path or 'the network'} ({type(module).__name__})"
                remedy = "train the network without it"
                remedy += f", or {ON_NUMBERS}" if kinds is nn.MultiheadAttention else ""
                yield path, Note(where, f"{text}; it {NO_SPIKING}", remedy)


def device_of(model: nn.Module) -> torch.device:
    """Device of a network's tensors; refuses any object but an ``nn.Module``."""
    _check_module(model)
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _unused(network: nn.Module, builder: Builder, nodes: Sequence[Node]) -> list[Note]:
    """A note on the activation modules that the output does not depend on."""
    written, used = ({node.origin for node in found} for found in (builder.nodes, nodes))
    unused = []
    for path, module in network.named_modules():
        place = f"{path} ({type(module).__name__})"
        if isinstance(module, ACTIVATION_MODULES) and (path not in builder.reached or place in written - used):
            unused.append(place)
    if not unused:
        return []
    more = f" and {len(unused) - LISTED} more" if len(unused) > LISTED else ""
    return [Note(", ".join(unused[:LISTED]) + more, "left out: the output does not depend on it")]


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        reason = f"is of type {type(model).__name__}, not a torch.nn.Module"
        raise ModelError.typed(reason, where="network", remedy="build the network and load its weights first")


def check_finite_weights(model: nn.Module, source: str | None = None) -> None:
    """Raise a ModelError for the first tensor with NaN or infinite values; its place is ``source``, or the weight.

    Buffers may be infinite, as masks and bounds of clips are, but not the statistics of batch normalisation.
    """
    check_initialised(model)
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        is_free = name not in trained and "running_" not in name
        bad = tensor.isnan() if is_free else ~tensor.isfinite()
        if bool(bad.any()):
            reason = f"{int(bad.sum())} of {tensor.numel()} values are NaN or infinite"
            where, reason = (f"weight '{name}'", reason) if source is None else (source, f"tensor {name}: {reason}")
            raise ModelError(reason, where=where, remedy="load a checkpoint from before the training diverged")


def check_example(example: object) -> Tensor:
    """Return a batch to trace with; refuse any other object."""
    if not isinstance(example, Tensor):
        tensors = len(outputs_of(example))
        reason = f"is a {type(example).__name__}{f' of {tensors} tensors' if tensors else ''}, not one tensor"
        remedy = ONE_INPUT if tensors > 1 else "pass a batch of images, [batch, ...]"
        raise DataError.typed(reason, where="example", remedy=remedy)
    reason = remedy = ""
    if not example.is_floating_point():
        reason, remedy = f"has dtype {example.dtype}", "convert to float and normalise as in training"
    elif example.dim() < 2 or not example.numel():
        reason, remedy = f"has shape {list(example.shape)}, not a batch", "pass a tensor [batch, ...]"
    elif not bool(torch.isfinite(example).all()):
        reason, remedy = "contains NaN or infinite values", "check the preprocessing"
    if reason:
        raise DataError(reason, where="example", remedy=remedy)
    return example


def _check_one_input(network: nn.Module) -> None:
    if isinstance(network, torch.jit.ScriptModule):
        return
    parameters = inspect.signature(network.forward).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) > 1:
        reason = f"takes {len(needed)} inputs ({', '.join(needed)})"
        raise TraceError(reason, where="the network", remedy=ONE_INPUT)


def _run(network: nn.Module, example: Tensor) -> Any:
    try:
        return network(example)
    except RheobaseError:
        raise
    except Exception as error:
        place = f" (at {_user_frame(error)})" if _user_frame(error) else ""
        reason = f"fails on the example of shape {list(example.shape)}: {first_line(error)}{place}"
        remedy = "pass an example of the size, channels and dtype it was trained with"
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), example.dtype)
        if dtype != example.dtype:
            reason = f"has weights of dtype {dtype}, but the example has dtype {example.dtype}"
            remedy = f"convert the images (images.to({dtype})) or the network (network.to({example.dtype}))"
        raise TraceError(reason, where="the network", remedy=remedy) from error


def _chosen(values: Mapping[str, Tensor], output: str | int | None, every: bool, kind: str, batch: int) -> list[str]:
    """Names of the outputs to convert, each of which has a row for each image: one, or every such output."""
    if not values:
        reason, remedy = f"is a {kind} without tensors", "return the logits as a tensor"
        raise TraceError.typed(reason, where="the network's output", remedy=remedy)
    rows = {name: value for name, value in values.items() if value.dim() >= 2 and value.shape[0] == batch}
    if len(values) > 1 and not rows:
        reason = f"is a {kind} of {len(values)} tensors, none of which has a row for each image of the batch"
        remedy = "convert the part of the network before, such as the backbone and the head of a detector"
        raise TraceError(reason, where="the network's output", remedy=remedy)
    if every:
        names = list(rows or values)
    else:
        listed = values if output is not None or not rows else rows
        shapes = {name: value.shape for name, value in listed.items()}
        names = [choose_output(shapes, output, f"is a {kind} of", SEVERAL)]
    for name in names:
        where, value = f"the network's output{f' {name!r}' if name else ''}", values[name]
        if value.dim() < 2 or value.shape[0] != batch:
            reason = f"has shape {list(value.shape)} for a batch of {batch}"
            raise TraceError(reason, where=where, remedy="return one row for each image of the batch")
        if not bool(torch.isfinite(value).all()):
            reason = "is NaN or infinite on the example"
            raise ModelError(reason, where=where, remedy="check weights and preprocessing")
    return names


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    batch = example.repeat((TRACE_BATCH,) + (1,) * (example.dim() - 1))[:TRACE_BATCH]
    try:
        with _quiet(), torch.no_grad():
            if isinstance(model, torch.jit.ScriptModule):
                return _export_script(model, batch)
            with returning_tensors(model), _keeping_memory(), _plain_attention():
                program = torch.export.export(model, (batch,), strict=False)
            mark_dropout(program)
            return program.run_decompositions(_decompositions())
    except RheobaseError:
        raise
    except Exception as error:
        reason, remedy = f"cannot be traced: {first_line(error)}", "rewrite this code in plain tensor operations"
        if "fake tensor in the exported program" in str(error):
            reason = "cannot be traced: it replaces the memory of a tensor, or stores one in a function"
            remedy = "write x = y in place of x.set_(y)"
        if ".numpy() is not supported" in str(error):
            reason = "leaves PyTorch for NumPy, so that its result depends on values that cannot be traced"
            remedy = "rewrite this code in plain tensor operations, or convert the part before it"
        if "data-dependent" in str(error) or "DataDependent" in type(error).__name__:
            reason = "has data-dependent control flow (an if or a loop decided by values of a tensor)"
            remedy = "replace it by operations that do not depend on values"
        scripted = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
        if scripted:
            reason = f"{reason.rstrip('.')}; TorchScript has no Python code to trace"
            remedy = "build the network in Python and load the weights: network.load_state_dict(scripted.state_dict())"
            raise TraceError(reason, where=scripted[0] or "the network", remedy=remedy) from error
        raise TraceError(reason, where=_user_frame(error) or "the network", remedy=remedy) from error


def _export_script(model: torch.jit.ScriptModule, batch: Tensor) -> torch.export.ExportedProgram:
    """Export a TorchScript module, which torch.export itself does not take."""
    from torch._export.converter import TS2EPConverter

    program = TS2EPConverter(model, (batch,)).convert()
    return torch.export.export(program.module(), (batch,), strict=False).run_decompositions(_decompositions())


@cache
def _decompositions() -> dict[Any, Any]:
    """PyTorch's own rules for the calls in ``DECOMPOSED``."""
    rules = torch.export.default_decompositions().items()
    return {call: rule for call, rule in rules if call.overloadpacket.__name__ in DECOMPOSED}


@contextmanager
def _keeping_memory() -> Iterator[None]:
    """Ignore that a network frees the memory of tensors (``x.set_()``, ``x.storage().resize_(0)``).

    Reversible networks do; it changes no value, and torch.export cannot record it.
    """
    empty, resize = Tensor.set_, torch.UntypedStorage.resize_

    def kept(x: Tensor, *source: Any, **options: Any) -> Tensor:
        return empty(x, *source, **options) if source or options else x

    def resized(storage: torch.UntypedStorage, size: int) -> Any:
        return resize(storage, size) if size else storage

    try:
        Tensor.set_, torch.UntypedStorage.resize_ = kept, resized  # type: ignore[assignment, method-assign]
        yield
    finally:
        Tensor.set_, torch.UntypedStorage.resize_ = empty, resize  # type: ignore[method-assign]


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch off the fused kernels of nn.MultiheadAttention and nn.TransformerEncoderLayer, which hide what they do."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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
