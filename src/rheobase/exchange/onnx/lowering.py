"""The file rewritten for onnx2torch, and so that PyTorch can trace the result.

Two runs of the file tell the shape of every value, and the values that do not depend on the input: these become
constants, so that no shape is computed any more. A node whose shapes or indices are inputs becomes a node of
:mod:`rheobase.exchange.onnx.operators`, which holds them as numbers.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rheobase.core.errors import ModelError
from rheobase.exchange.onnx.packages import require_onnx
from rheobase.exchange.onnx.reading import NEWEST, attributes, name_of
from rheobase.exchange.onnx.running import Runs

DOMAIN = "rheobase"
_SHAPES = ("Shape", "Size")
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_LARGEST = 3e38
"""Clip bounds beyond it are the largest float32, which exporters write for no bound."""
_CONVOLUTIONS = ("Conv", "MaxPool", "AveragePool", "LpPool")


class Lowering:
    """Rewrites the nodes of one file.

    Args:
        model: the file, which is not modified.
        runs: its two runs.
        where: the file's name.
    """

    def __init__(self, model: Any, runs: Runs, where: str) -> None:
        self.onnx = require_onnx()
        self.model = self.onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph, self.runs, self.where = self.model.graph, runs, where
        self.constants = {tensor.name: self.onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.of_the_batch: set[str] = set()
        """Values that depend on the size of the batch but not on the input; only shapes may read them."""
        self.same: dict[str, str] = {}
        """The value that each output of an identity repeats."""
        self.outputs = [value.name for value in self.graph.output]

    def lower(self) -> Any:
        """Return the rewritten file.

        Raises:
            ModelError: if a node computes with the size of the batch, or an output does not depend on the input.
        """
        for node in self.graph.node:
            self._fold(node)
        dependent = [self._lowered(node) for node in self.graph.node if not self._is_constant(node)]
        for name in self.outputs:
            if name in self.constants or name in self.of_the_batch:
                remedy = "export the network without this output"
                raise ModelError("does not depend on the input", where=f"{self.where}, output {name!r}", remedy=remedy)
        nodes = self._needed(self._with_biases([node for node in dependent if node is not None]))
        for node in nodes:
            if self.of_the_batch.intersection(node.input):
                remedy = "export the network for a fixed batch of one input"
                raise ModelError("computes with the size of the batch", where=self._place(node), remedy=remedy)
        self._write(nodes)
        return self.model

    # --- values that do not depend on the input ---

    def _fold(self, node: Any) -> None:
        """Note the outputs of a node that does not read the input, other than its shape."""
        known = {*self.constants, *self.of_the_batch, ""}
        if node.op_type in _RANDOM or not (node.op_type in _SHAPES or known.issuperset(node.input)):
            return
        for name in filter(None, node.output):
            first, second = self.runs.first[name], self.runs.second[name]
            if first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
                self.constants[name] = first
            else:
                self.of_the_batch.add(name)

    def _is_constant(self, node: Any) -> bool:
        return all(name in self.constants or name in self.of_the_batch for name in filter(None, node.output))

    def _place(self, node: Any) -> str:
        return f"{self.where}, node {name_of(node)} ({node.op_type})"

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.runs.first[name].shape

    def _constant(self, node: Any, position: int) -> Any | None:
        """An input of a node as an array; None if the node has no such input, or the input is not constant."""
        return self.constants.get(node.input[position]) if position < len(node.input) else None

    def _whole(self, node: Any, position: int, name: str) -> list[int] | None:
        """Whole numbers that are an input in newer operator sets, and an attribute in older ones."""
        value = self._constant(node, position)
        if value is None:
            value = attributes(node).get(name)
        return None if value is None else [int(number) for number in np.atleast_1d(np.asarray(value))]

    # --- nodes ---

    def _lowered(self, node: Any) -> Any | None:
        """The node to write in place of a node; None if it repeats its input."""
        renamed = self.onnx.NodeProto()
        renamed.CopyFrom(node)
        renamed.domain = ""
        renamed.input[:] = [self.same.get(name, name) for name in node.input]
        if self._repeats(renamed):
            if node.output[0] not in self.outputs:
                self.same[node.output[0]] = renamed.input[0]
                return None
            return self._node("Identity", renamed, domain="")
        if renamed.op_type in _CONVOLUTIONS:
            self._pad_explicitly(renamed)
        rule = _RULES.get(renamed.op_type)
        if rule is None and renamed.op_type.startswith("Reduce"):
            rule = Lowering._reduce
        return (rule(self, renamed) if rule else None) or renamed

    def _repeats(self, node: Any) -> bool:
        """True for identities, and for operations that are identities after training."""
        if node.op_type == "Cast":
            return self.runs.first[node.input[0]].dtype == self.runs.first[node.output[0]].dtype
        if node.op_type == "Dropout":
            training = self._constant(node, 2)
            return training is None or not bool(training.any())
        return node.op_type == "Identity"

    def _node(self, kind: str, node: Any, *, domain: str = DOMAIN, inputs: int = 1, **values: Any) -> Any:
        """A node of another kind in place of a node, which reads its first inputs only."""
        given = {name: value for name, value in values.items() if value is not None}
        made = self.onnx.helper.make_node(
            kind, list(node.input)[:inputs], list(node.output), name=node.name, domain=domain
        )
        for name, value in given.items():
            empty = self.onnx.AttributeProto.INTS if value == [] else None
            made.attribute.append(self.onnx.helper.make_attribute(name, value, attr_type=empty))
        return made

    def _reshape(self, node: Any) -> Any:
        """A shape of numbers, in which the batch is the axis that the others leave."""
        first, second = self._shape(node.output[0]), self.runs.second[node.output[0]].shape
        if self.runs.is_open:
            differing = [axis for axis, sizes in enumerate(zip(first, second, strict=True)) if sizes[0] != sizes[1]]
        else:
            differing = [0] if first else []  # a wrong guess shows in the comparison of joined batches
        if len(differing) > 1:
            reason = f"gives a shape with the batch size in its axes {differing}, such as {list(first)}"
            remedy = "export the network for a fixed batch of one input"
            raise ModelError(reason, where=self._place(node), remedy=remedy)
        return self._node("Reshape", node, shape=[-1 if axis in differing else n for axis, n in enumerate(first)])

    def _flatten(self, node: Any) -> Any | None:
        return None if attributes(node).get("axis", 1) == 1 else self._reshape(node)

    def _clip(self, node: Any) -> Any | None:
        """Bounds as numbers; those that are no bounds are left out."""
        values = attributes(node)
        bounds: dict[str, Any] = {}
        for position, name in ((1, "min"), (2, "max")):
            given = self._constant(node, position)
            if given is None and position < len(node.input) and node.input[position]:
                return None  # a bound that depends on the input, which onnx2torch refuses
            value = values.get(name) if given is None else given
            if value is not None and abs(float(np.asarray(value))) < _LARGEST:
                bounds[name] = float(np.asarray(value))
        return self._node("Clip", node, **bounds)

    def _bound(self, node: Any) -> Any | None:
        """The larger or smaller of a value and a number: a clip."""
        if len(node.input) != 2:
            return None
        for position in (0, 1):
            number = self._constant(node, position)
            if number is not None and number.size == 1:
                node.input[0] = node.input[1 - position]
                bound: dict[str, Any] = {"min" if node.op_type == "Max" else "max": float(number.item())}
                return self._node("Clip", node, **bound)
        return None

    def _pad(self, node: Any) -> Any | None:
        values, pads = attributes(node), self._whole(node, 1, "pads")
        value = self._constant(node, 2)
        if pads is None:
            return None
        rank = len(self._shape(node.input[0]))
        axes = self._whole(node, 3, "axes") or list(range(rank))
        before, after = [0] * rank, [0] * rank
        for position, axis in enumerate(axes):
            before[axis], after[axis] = pads[position], pads[position + len(axes)]
        number = float(values.get("value", 0.0) if value is None else value.item())
        return self._node("Pad", node, pads=[*before, *after], mode=values.get("mode", "constant"), value=number)

    def _resize(self, node: Any) -> Any | None:
        """The size of the output; the comparison refuses modes that PyTorch computes in another way."""
        values = attributes(node)
        mode, before, after = values.get("mode", "nearest"), self._shape(node.input[0]), self._shape(node.output[0])
        if before[:2] != after[:2]:
            return None
        aligned = values.get("coordinate_transformation_mode") == "align_corners"
        return self._node("Resize", node, sizes=list(after[2:]), mode=mode, aligned=int(aligned))

    def _reduce(self, node: Any) -> Any | None:
        """Axes are an attribute up to operator set 17, except for sums."""
        axes, values = self._whole(node, 1, "axes"), attributes(node)
        if not axes and values.get("noop_with_empty_axes"):
            return self._node("Identity", node, domain="")
        if node.op_type == "ReduceSum":
            return None
        rank = len(self._shape(node.input[0]))
        axes = sorted(axis % rank for axis in axes) if axes else None
        return self._node(node.op_type, node, domain="", axes=axes, keepdims=values.get("keepdims", 1))

    def _split(self, node: Any) -> Any:
        axis = attributes(node).get("axis", 0)
        return self._node("Split", node, axis=axis, sizes=[self._shape(name)[axis] for name in node.output])

    def _slice(self, node: Any) -> Any | None:
        starts, ends = self._whole(node, 1, "starts"), self._whole(node, 2, "ends")
        if starts is None or ends is None:
            return None
        axes = self._whole(node, 3, "axes") or list(range(len(starts)))
        steps = self._whole(node, 4, "steps") or [1] * len(starts)
        if min(steps) < 0:
            return None
        return self._node("Slice", node, starts=starts, ends=ends, axes=axes, steps=steps)

    def _gather(self, node: Any) -> Any | None:
        index = self._constant(node, 1)
        if index is None or index.ndim > 1:
            return None
        axis = attributes(node).get("axis", 0)
        chosen = [int(number) % self._shape(node.input[0])[axis] for number in index.reshape(-1)]
        return self._node("Gather", node, axis=axis, indices=chosen, keeps=int(index.ndim))

    def _gemm(self, node: Any) -> Any | None:
        """Biases [1, N] as [N], so that onnx2torch writes a linear layer."""
        bias = self._constant(node, 2)
        if bias is None or bias.ndim != 2 or bias.shape[0] != 1:
            return None
        node.input[2] = self._new(f"{node.input[2]}:bias", bias[0])
        return node

    def _matmul(self, node: Any) -> Any | None:
        """Products with a constant matrix: a linear layer, whose weights train."""
        weight = self._constant(node, 1)
        return None if weight is None or weight.ndim != 2 else self._node("Linear", node, inputs=2)

    def _pad_explicitly(self, node: Any) -> None:
        """Padding as numbers, which ``auto_pad`` derives from the size of the input."""
        values = attributes(node)
        kind = values.get("auto_pad", "NOTSET")
        if kind in ("SAME_UPPER", "SAME_LOWER"):
            sizes = self._shape(node.input[0])[2:]
            kernel = values.get("kernel_shape")
            kernel = self.constants[node.input[1]].shape[2:] if kernel is None else kernel
            strides, dilations = values.get("strides") or [1] * len(sizes), values.get("dilations") or [1] * len(sizes)
            before, after = [], []
            for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
                total = max((math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
                small, large = total // 2, total - total // 2
                before.append(small if kind == "SAME_UPPER" else large)
                after.append(large if kind == "SAME_UPPER" else small)
            kept = [value for value in node.attribute if value.name not in ("auto_pad", "pads")]
            del node.attribute[:]
            node.attribute.extend([*kept, self.onnx.helper.make_attribute("pads", [*before, *after])])
        if node.op_type == "AveragePool" and set(values.get("dilations") or [1]) != {1}:
            remedy = "export the network without dilation in its pooling"
            raise ModelError("is dilated", where=self._place(node), remedy=remedy)

    # --- the graph ---

    def _new(self, name: str, value: Any) -> str:
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def _with_biases(self, nodes: list[Any]) -> list[Any]:
        """The constant vector that is added to a product with a constant matrix, as the bias of a linear layer."""
        readers = Counter(name for node in nodes for name in node.input) + Counter(self.outputs)
        products = {node.output[0]: node for node in nodes if node.op_type == "Linear" and node.domain == DOMAIN}
        kept = []
        for node in nodes:
            for product, bias in (tuple(node.input), tuple(reversed(node.input))) if node.op_type == "Add" else ():
                value = self.constants.get(bias)
                if product not in products or readers[product] != 1 or value is None:
                    continue
                width = self.constants[products[product].input[1]].shape[1]
                if value.shape == (width,):
                    products[product].input.append(bias)
                    products[product].output[0] = node.output[0]
                    break
            else:
                kept.append(node)
        return kept

    def _needed(self, nodes: list[Any]) -> list[Any]:
        """The nodes that the outputs depend on."""
        needed, kept = set(self.outputs), []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        return kept[::-1]

    def _write(self, nodes: Sequence[Any]) -> None:
        """Write nodes, constants and shapes into the model, with names that are names of modules."""
        taken: set[str] = set()
        for node in nodes:
            base = _module_name(node)
            names = (base if count == 1 else f"{base}_{count}" for count in itertools.count(1))
            node.name = next(name for name in names if name not in taken)
            taken.add(node.name)
        read = {name for node in nodes for name in node.input}
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        inputs = [value for value in self.graph.input if value.name not in self.constants]  # old files list weights too
        del self.graph.input[:]
        self.graph.input.extend(inputs)
        to_tensor = self.onnx.numpy_helper.from_array
        self.graph.initializer.extend(
            to_tensor(np.ascontiguousarray(value), name) for name, value in self.constants.items() if name in read
        )
        shapes = {name: value.shape for name, value in self.runs.first.items() if name in read}
        describe = self.onnx.helper.make_tensor_value_info
        self.graph.value_info.extend(
            describe(name, self.onnx.TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
            if name not in self.constants and self.runs.first[name].dtype == np.float32
        )
        opset = min(max((e.version for e in self.model.opset_import if e.domain in ("", "ai.onnx")), default=1), NEWEST)
        del self.model.opset_import[:]
        self.model.opset_import.extend(
            [self.onnx.helper.make_opsetid("", opset), self.onnx.helper.make_opsetid(DOMAIN, 1)]
        )


def _module_name(node: Any) -> str:
    """A valid name for the module of a node: ``/layer1/layer1.0/relu/Relu`` of an exporter is layer1_0_relu_Relu."""
    name = re.sub(r"\W+", "_", re.sub(r"(\w+)/(?=\1\.)", "", node.name)).strip("_") or node.op_type
    return f"{node.op_type}_{name}" if name[0].isdigit() else name


_RULES: dict[str, Callable[[Lowering, Any], Any | None]] = {
    "Reshape": Lowering._reshape,
    "Squeeze": Lowering._reshape,
    "Unsqueeze": Lowering._reshape,
    "Flatten": Lowering._flatten,
    "Clip": Lowering._clip,
    "Max": Lowering._bound,
    "Min": Lowering._bound,
    "Pad": Lowering._pad,
    "Resize": Lowering._resize,
    "Upsample": Lowering._resize,
    "Split": Lowering._split,
    "Slice": Lowering._slice,
    "Gather": Lowering._gather,
    "Gemm": Lowering._gemm,
    "MatMul": Lowering._matmul,
}
"""Rules by the kind of node; one that gives None leaves the node to onnx2torch."""
