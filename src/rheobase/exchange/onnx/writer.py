"""Writes integer operators of ONNX, and keeps the range of every value.

Values are int32, or int64 if a value may be outside of int32: the range of every value is computed while it is written,
from the weights and from the ranges of its inputs. Products have operands of 8 bits and sums of 32 bits (ConvInteger,
MatMulInteger). A wider operand is written as its digits to the base 256, whose products are added.

Both operands are written as uint8 with a zero point. With int8 weights, onnxruntime's kernels for x86 processors
without VNNI instructions add pairs of products in 16 bits, which saturate, in MatMulInteger, and use a loop that is 3.5
times slower in ConvInteger (measured, onnxruntime 1.32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rheobase.exchange.onnx.packages import require_onnx
from rheobase.graph.operations import NotExpressible

Whole = NDArray[np.int64]
OPSET, IR_VERSION = 17, 8
"""Read by onnxruntime since version 1.12."""
BYTE = 256
WEIGHT_ZERO = 128
"""The uint8 that stands for a weight of 0."""
BATCH = "batch"
EXACT_FLOATS = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""Whole numbers up to these are exact."""


class Value(NamedTuple):
    """A value of whole numbers in the file, and the least and the largest number that it may hold."""

    name: str
    low: int
    high: int


class Digit(NamedTuple):
    """A value of uint8: ``factor * (value - zero)`` is a part of the number that it is a digit of."""

    name: str
    zero: int
    factor: int
    low: int
    high: int


class Writer:
    """The nodes and constants of an ONNX graph.

    Args:
        bits: width of the whole numbers, 32 or 64.
        reserved: names that :meth:`unique` does not give away.

    Attributes:
        nodes: ONNX nodes in execution order.
        constants: ONNX tensors by name.
        largest: the largest absolute value of any whole number and constant so far.
        exact_floats: names of the graph's nodes that compare whole numbers in floating point.
    """

    def __init__(self, bits: int, reserved: Sequence[str] = ()) -> None:
        self.onnx = require_onnx()
        self.types = self.onnx.TensorProto
        self.bits = bits
        self.number = self.types.INT32 if bits == 32 else self.types.INT64
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.largest = 0
        self.exact_floats: dict[str, None] = {}
        self.begin("")
        self._names = {*reserved}
        self._known: dict[Any, str] = {}
        self._digits: dict[str, list[Digit]] = {}
        self._shifted: dict[str, tuple[Value, Whole]] = {}

    # -- names, nodes, constants -----------------------------------------------------------------------------------

    def begin(self, node: str, part: int | str | None = None) -> None:
        """Name what follows after a node of the graph, and the step or part of it."""
        self.node, self.scope = node, node if part is None else f"{node}@{part}"

    def unique(self, name: str) -> str:
        """The name, numbered if it is taken."""
        numbered = (name if n == 1 else f"{name}_{n}" for n in count(1))
        found = next(one for one in numbered if one not in self._names)
        self._names.add(found)
        return found

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Write a node; returns the name of its output, or the names of several."""
        names = [self.unique(f"{self.scope}/{kind}") for _ in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), names, name=names[0], **attributes))
        return names if outputs > 1 else names[0]

    def array(self, values: Any, dtype: Any = np.int64) -> str:
        """The name of a constant; equal constants are stored once."""
        found = np.ascontiguousarray(np.asarray(values, dtype))
        key = (found.dtype.str, found.shape, found.tobytes())
        if key not in self._known:
            name = self.unique(f"{self.scope}/constant")
            self._known[key] = name
            self.constants[name] = self.onnx.numpy_helper.from_array(found, name)
        return self._known[key]

    def numbers(self, values: Whole) -> str:
        """The name of a constant of whole numbers."""
        self.largest = max(self.largest, int(np.abs(values).max(initial=0)))
        return self.array(values, np.int32 if self.bits == 32 else np.int64)

    def value(self, name: str, low: int, high: int) -> Value:
        """A value with its range."""
        self.largest = max(self.largest, abs(int(low)), abs(int(high)))
        return Value(name, int(low), int(high))

    def cast(self, name: str, to: str) -> str:
        """Cast to a type of ONNX, such as ``"UINT8"``."""
        return self.op("Cast", name, to=int(getattr(self.types, to)))

    def as_number(self, name: str, low: int, high: int) -> Value:
        """Cast to the type of whole numbers."""
        return self.value(self.op("Cast", name, to=int(self.number)), low, high)

    # -- arithmetic --------------------------------------------------------------------------------------------------

    def add(self, *values: Value) -> Value:
        """The sum of the values, left to right."""
        total = values[0]
        for one in values[1:]:
            total = self.value(self.op("Add", total.name, one.name), total.low + one.low, total.high + one.high)
        return total

    def negative(self, x: Value) -> Value:
        """-x."""
        return self.value(self.op("Neg", x.name), -x.high, -x.low)

    def plus(self, x: Value, constant: Whole) -> Value:
        """The sum of a value and a constant, one addition for several constants in a row."""
        if not constant.any():
            return x
        base, before = self._shifted.get(x.name, (x, np.zeros((), np.int64)))
        low, high = x.low + int(constant.min()), x.high + int(constant.max())
        total = before + constant
        found = self.value(self.op("Add", base.name, self.numbers(total)), low, high)
        self._shifted[found.name] = base, total
        return found

    def times(self, x: Value, constant: Whole) -> Value:
        """The product of a value and a constant."""
        if (constant == 1).all():
            return x
        corners = [bound * int(end) for bound in (x.low, x.high) for end in (constant.min(), constant.max())]
        return self.value(self.op("Mul", x.name, self.numbers(constant)), min(corners), max(corners))

    def clip(self, x: Value, low: int, high: int) -> Value:
        """A value clipped to two numbers."""
        if low <= x.low and x.high <= high:
            return x
        found = Value("", min(max(x.low, low), high), max(min(x.high, high), low))
        # limits out of reach need no more bits
        limits = (self.numbers(np.array(end)) for end in (max(low, found.low), min(high, found.high)))
        return found._replace(name=self.op("Clip", x.name, *limits))

    def larger(self, x: Value, y: Value) -> Value:
        """The larger of two values."""
        return self.value(self.op("Max", x.name, y.name), max(x.low, y.low), max(x.high, y.high))

    def reaches(self, x: Value, constant: Whole) -> Value:
        """1 where a value is at least a constant, and 0 elsewhere."""
        constant = np.clip(constant, x.low, x.high + 1)
        return self.as_number(self.op("GreaterOrEqual", x.name, self.numbers(constant)), 0, 1)

    def divide(self, x: Value, constant: Whole) -> Value:
        """The floor of the quotient of a value and a constant, neither of them negative."""
        assert x.low >= 0
        # onnxruntime rounds towards 0, onnx's evaluator down: the same for these
        name = self.op("Div", x.name, self.numbers(constant))
        return self.value(name, x.low // int(constant.max()), x.high // int(constant.min()))

    def floor_divide(self, x: Value, constant: Whole, least: int, most: int) -> Value:
        """The floor of the quotient of a value and a positive constant, clipped to ``least`` and ``most``."""
        shifted = self.plus(x, -least * constant)
        # rounded towards 0 by some programs and down by others: the same once it is clipped
        name = self.op("Div", shifted.name, self.numbers(constant))
        quotient = self.value(name, min(0, shifted.low), max(0, shifted.high))
        return self.plus(self.clip(quotient, 0, most - least), np.array(least))

    def remainder(self, x: Value, divisor: int) -> Value:
        """x modulo a divisor, never negative."""
        return self.value(self.op("Mod", x.name, self.numbers(np.array(divisor))), 0, divisor - 1)

    def joined(self, values: Sequence[Value], axis: int) -> Value:
        """The concatenation of values."""
        name = self.op("Concat", *(one.name for one in values), axis=axis)
        return self.value(name, min(one.low for one in values), max(one.high for one in values))

    # -- moves -------------------------------------------------------------------------------------------------------

    def moved(self, x: Value, kind: str, *inputs: str, **attributes: Any) -> Value:
        """A node that moves the elements of a value."""
        return x._replace(name=self.op(kind, x.name, *inputs, **attributes))

    def reshaped(self, x: Value, shape: Sequence[int]) -> Value:
        """A value with another shape of a sample."""
        return self.moved(x, "Reshape", self.array([0, *shape]))

    def padded(self, x: Value, pairs: Sequence[tuple[int, int]], mode: str = "constant", fill: int = 0) -> Value:
        """A value with a border of (before, after) elements along every axis of a sample; fewer than 0 cut off."""
        if not any(any(pair) for pair in pairs):
            return x
        widths = self.array([0, *(before for before, _ in pairs), 0, *(after for _, after in pairs)])
        if mode != "constant":
            return self.moved(x, "Pad", widths, mode=mode)
        name = self.op("Pad", x.name, widths, self.numbers(np.array(fill)))
        return self.value(name, min(x.low, fill), max(x.high, fill))

    def sliced(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """``x[start:stop:step]`` along an axis of [B, ...]."""
        return self.moved(x, "Slice", *(self.array([number]) for number in (start, stop, axis, step)))

    def gathered(self, x: Value, index: Whole, axis: int) -> Value:
        """The elements of an axis of [B, ...] in the order of ``index``."""
        return self.moved(x, "Gather", self.array(index), axis=axis)

    def entries(self, table: Whole, index: Value) -> Value:
        """The numbers of a table [E] at the places ``index``, each from 0 to E - 1."""
        return self.value(self.op("Gather", self.numbers(table), index.name, axis=0), table.min(), table.max())

    # -- products ----------------------------------------------------------------------------------------------------

    def declare_bytes(self, x: Value, name: str, zero: int) -> None:
        """State that ``x`` is the uint8 value of this name less ``zero``."""
        self._digits[x.name] = [Digit(name, zero, 1, x.low, x.high)]

    def digits(self, x: Value) -> list[Digit]:
        """A value as digits of uint8, written once for all that read it."""
        if x.name not in self._digits:
            self._digits[x.name] = self._written_digits(x)
        return self._digits[x.name]

    def _written_digits(self, x: Value) -> list[Digit]:
        offset = min(x.low, 0)
        if max(x.high - offset, -offset) < BYTE:
            return [Digit(self.cast(self.plus(x, np.array(-offset)).name, "UINT8"), -offset, 1, x.low, x.high)]
        left, zeros = self.plus(x, np.array(-offset)), -offset
        found: list[Digit] = []
        while left.high or zeros:
            byte = self.cast(self.remainder(left, BYTE).name, "UINT8")
            zero = zeros % BYTE
            found.append(Digit(byte, zero, BYTE ** len(found), -zero, BYTE - 1 - zero))
            left, zeros = self.divide(left, np.array(BYTE)), zeros // BYTE
        return found

    def products(self, x: Value, weight: Whole, axes: int, kind: str, **attributes: Any) -> Value:
        """The products of a value with a weight [C out, ...], without a bias.

        Args:
            x: the value.
            weight: whole numbers of any width.
            axes: the number of spatial axes after the channels of the output.
            kind: ``ConvInteger`` or ``MatMulInteger``; the latter gets the transposed weight.
            attributes: of the node.
        """
        rows = weight.reshape(len(weight), -1)
        terms = []
        for plane, factor in planes(rows):
            stored = plane.reshape(weight.shape) + WEIGHT_ZERO
            stored = stored.T if kind == "MatMulInteger" else stored
            name, zero = self.array(stored, np.uint8), self.array(WEIGHT_ZERO, np.uint8)
            for digit in self.digits(x):
                low, high = bounds(plane, digit.low, digit.high)
                if max(-low.min(), high.max()) >= 2**31:
                    raise NotExpressible("has sums of products beyond 32 bits")
                read = (digit.name, name, self.array(digit.zero, np.uint8), zero)
                product = self.value(self.op(kind, *read, **attributes), low.min(), high.max())
                if self.bits == 64:
                    product = self.as_number(product.name, product.low, product.high)
                terms.append(self.times(product, (factor * digit.factor).reshape(-1, *(1,) * axes)))
        low, high = bounds(rows, x.low, x.high)
        return self.value(self.add(*terms).name, low.min(), high.max())

    def pooled(self, x: Value, indices: bool, **attributes: Any) -> Value:
        """The maxima over windows, or, with ``indices``, their positions in the whole flattened tensor.

        onnxruntime has kernels for 8 bits and for floating point. The latter is exact here, because it only compares.
        """
        outputs = 2 if indices else 1
        if indices:  # some versions of onnxruntime find no position of a maximum that is the least uint8
            x = self.plus(x, np.array(1))
        if x.low >= 0 and x.high < BYTE:
            read = self.digits(x)[0].name
        else:
            to = next((name for name, exact in EXACT_FLOATS.items() if max(-x.low, x.high) <= exact), None)
            if to is None:
                raise NotExpressible("compares numbers beyond 53 bits")
            self.exact_floats[self.node] = None
            read = self.cast(x.name, to)
        found = self.op("MaxPool", read, outputs=outputs, **attributes)
        return Value(found[1], 0, 0) if indices else self.as_number(found, x.low, x.high)

    # -- the file ----------------------------------------------------------------------------------------------------

    def model(
        self, inputs: Sequence[Any], outputs: Sequence[Any], name: str, metadata: dict[str, str], version: str
    ) -> Any:
        """The file, without nodes that no output depends on."""
        needed = {value.name for value in outputs}
        kept = []
        for node in reversed(self.nodes):
            if needed & {*node.output}:
                kept.append(node)
                needed |= {*node.input}
        stored = [tensor for key, tensor in self.constants.items() if key in needed]
        helper = self.onnx.helper
        graph = helper.make_graph(kept[::-1], name, list(inputs), list(outputs), stored)
        made: Callable[..., Any] = helper.make_model
        model = made(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="rheobase",
            producer_version=version,
        )
        helper.set_model_props(model, metadata)
        return model

    def tensor_info(self, name: str, kind: Any, shape: Sequence[int]) -> Any:
        """The description of an input or output [batch, ...]."""
        return self.onnx.helper.make_tensor_value_info(name, kind, [BATCH, *shape])


def planes(rows: Whole) -> list[tuple[Whole, Whole]]:
    """Weights [C, F] as planes of 8 bits [C, F], each with a factor for every row [C], a power of two.

    One plane holds rows whose numbers are multiples of a power of two, such as a branch on a coarser grid.

    Example:
        >>> [(plane.tolist(), factor.tolist()) for plane, factor in planes(np.array([[3, -127], [256, 64]]))]
        [([[3, -127], [64, 16]], [1, 4])]
        >>> [(plane.tolist(), factor.tolist()) for plane, factor in planes(np.array([[1000, -3]]))]
        [([[-24, -3]], [1]), ([[4, 0]], [256])]
    """
    peak = np.maximum(np.abs(rows).max(1, initial=0), WEIGHT_ZERO - 1)
    factor = 2 ** np.ceil(np.log2(peak / (WEIGHT_ZERO - 1))).astype(np.int64)
    factor = np.where((rows % factor[:, None] == 0).all(1), factor, 1)
    left = rows // factor[:, None]
    found: list[tuple[Whole, Whole]] = []
    while not found or left.any():
        low = (left + WEIGHT_ZERO) % BYTE - WEIGHT_ZERO
        found.append((low, factor))
        left, factor = (left - low) // BYTE, factor * BYTE
    return found


def bounds(rows: Whole, low: int, high: int) -> tuple[Whole, Whole]:
    """The least and the largest sum of products of each row with inputs of this range, or 0 at a border."""
    low, high = min(low, 0), max(high, 0)
    up, down = np.maximum(rows, 0).sum(1), np.minimum(rows, 0).sum(1)
    return up * low + down * high, up * high + down * low
