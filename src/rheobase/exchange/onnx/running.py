"""The file itself run on seeded inputs: the values that the imported network has to give, and the shapes in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rheobase.core.errors import ModelError, first_line
from rheobase.exchange.onnx.packages import onnxruntime, require_onnx

EVALUATOR = "onnx's reference evaluator"
Values = dict[str, np.ndarray[Any, Any]]
_OPEN = (2, 3)
"""Batch sizes of the two runs where the file leaves the batch open: two, to see where the batch size is in a shape."""


@dataclass(frozen=True)
class Runs:
    """Two runs of a file: every value by name, of the batches ``first`` and ``second``."""

    first: Values
    second: Values
    is_open: bool
    """Whether the batch size is open; else both batches have the size that the file fixes."""
    program: str


def run_twice(model: Any, name: str, sizes: Sequence[int | None], where: str) -> Runs:
    """Run a file on two batches of seeded normal numbers.

    A batch that the file declares as open may be fixed inside of it, in the shape of a ``Reshape``; the file then runs
    on one input at a time.

    Args:
        model: the file.
        name: of its input.
        sizes: of the input; only the first, the batch, may be open (None).
        where: the file's name.

    Raises:
        ModelError: if the file cannot be run.
    """
    tries = [_OPEN, (1, 1)] if sizes[0] is None else [(sizes[0], sizes[0])]
    shape = [size for size in sizes[1:] if size is not None]
    for position, batches in enumerate(tries):
        random = np.random.default_rng(0)
        inputs = [random.standard_normal((batch, *shape)).astype(np.float32) for batch in batches]
        try:
            program, (first, second) = _run(model, [{name: value} for value in inputs])
        except Exception as cause:
            if position + 1 < len(tries):
                continue
            reason = f"cannot be run on inputs {list(inputs[0].shape)} ({first_line(cause)})"
            remedy = "check that the file runs in onnxruntime, and give an example of the size that it takes"
            raise ModelError(reason, where=where, remedy=remedy) from cause
        return Runs({name: inputs[0], **first}, {name: inputs[1], **second}, batches == _OPEN, program)
    raise AssertionError  # the last try returns or raises


def _run(model: Any, feeds: list[Mapping[str, Any]]) -> tuple[str, list[Values]]:
    """All values of the nodes for each of the feeds, and the program that computed them."""
    if (runtime := onnxruntime()) is not None:
        session = _session(runtime, model)
        if session is not None:
            names = [value.name for value in session.get_outputs()]
            return "onnxruntime", [dict(zip(names, session.run(names, feed), strict=True)) for feed in feeds]
    evaluator = require_onnx("reference").ReferenceEvaluator(model)
    found = [evaluator.run(None, dict(feed), intermediate=True) for feed in feeds]
    return EVALUATOR, [
        {key: np.asarray(value) for key, value in run.items() if isinstance(value, np.ndarray | np.generic)}
        for run in found
    ]


def _session(runtime: Any, model: Any) -> Any | None:
    """A session of onnxruntime with every value as an output; None if it does not know the file's operator set."""
    onnx = require_onnx()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # onnxruntime lags behind onnx with this number, which changes nothing for files without its newest features.
    copy.ir_version = min(copy.ir_version, 10)
    known = {value.name for value in copy.graph.output}
    names = (name for node in copy.graph.node for name in node.output if name)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its own error, or protobuf's for files above 2 GiB
        return None
