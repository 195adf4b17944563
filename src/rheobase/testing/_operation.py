"""Conformance test of operations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.core.errors import RecipeError
from rheobase.exchange.store import load, save
from rheobase.graph import Graph, Node, capture
from rheobase.graph.operations import OPERATIONS, NodeContext, Operation, Synapses
from rheobase.graph.synapses import WorkCounter
from rheobase.methods._convert import convert
from rheobase.methods.rate_coding import RateCoding
from rheobase.testing._check import expect


def check_operation(
    operation: str | type[Operation],
    shapes: Sequence[tuple[int, ...]],
    *,
    attributes: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    function: Callable[..., Tensor] | None = None,
    seed: int = 0,
) -> None:
    """Check that an operation satisfies the contract of :class:`rheobase.graph.operations.Operation` on random inputs.

    - Its value is affine in the inputs (if declared), bit-identical for an image in any batch, and new memory (if
      declared).
    - Moved factors preserve the value, and factors of channels move to ``channel_axis``.
    - Its synapses are the outputs that respond to each single input.
    - A network with it gives the same logits after saving and loading.
    - ``function``, if given, is traced to it.

    Args:
        operation: a registered class, or its name.
        shapes: shape of each input without the batch; small, because every element is tested separately.
        attributes: attributes of the node.
        parameters: tensors of the node, float32 for real numbers.
        function: function of the inputs [B, ...], such as the torch call that is traced to the operation.
        seed: of the inputs and factors.

    Raises:
        RecipeError: if the operation is not registered.

    Example:
        >>> import torch, rheobase as rb
        >>> rb.testing.check_operation("permute", [(2, 3, 4)], attributes={"dims": [0, 2, 1, 3]})
        >>> rb.testing.check_operation("linear", [(4,)], parameters={"weight": torch.randn(3, 4)})
    """
    name = operation if isinstance(operation, str) else getattr(operation, "name", operation.__name__)
    known = OPERATIONS.get(name)
    if known is None or (not isinstance(operation, str) and type(known) is not operation):
        raise RecipeError("is not a registered operation", where=name, remedy="register it first: rb.register(...)")
    check = _Check(known, shapes, attributes or {}, parameters or {}, torch.Generator().manual_seed(seed))
    check.batches()
    if known.affine:
        check.affine()
        check.output_factors()
        check.synapses()
    check.input_factors()
    check.channel_axis()
    check.saving()
    if function is not None:
        check.tracing(function)


class _Check:
    def __init__(
        self,
        operation: Operation,
        shapes: Sequence[tuple[int, ...]],
        attributes: Mapping[str, Any],
        parameters: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> None:
        self.operation, self.generator = operation, generator
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.attributes, self.parameters = dict(attributes), dict(parameters)
        value = self.apply(self.inputs(2, torch.float32), self.parameters)
        self.expect(value.shape[0] == (2 if self.shapes else 1), f"gives {list(value.shape)} for a batch of 2")
        names = tuple(f"input{i}" for i in range(len(self.shapes)))
        tensors = {argument: f"node.{argument}" for argument in self.parameters}
        self.node = Node("node", operation.name, names, self.attributes, tensors, tuple(value.shape[1:]), "node")
        self.exact = {a: t.double() if t.is_floating_point() else t for a, t in self.parameters.items()}
        self.at = NodeContext(self.node, self.shapes, self.exact)

    # -- tools ---------------------------------------------------------------------------------------------------

    def expect(self, condition: bool, failure: str) -> None:
        expect(condition, f"{self.operation.name} {failure}")

    def same(self, value: Tensor, expected: Tensor, failure: str) -> None:
        close = value.shape == expected.shape and torch.allclose(value, expected, rtol=1e-9, atol=1e-9)
        self.expect(close, failure)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def inputs(self, batch: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [self.random(batch, *shape).to(dtype) for shape in self.shapes]

    def apply(self, inputs: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Tensor:
        return self.operation.apply(*inputs, **self.attributes, **parameters)

    def factors(self, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield positive factors for a shape: a scalar, one per index of each axis, and one per element."""
        sizes = [(), *(tuple(n if i == axis else 1 for i, n in enumerate(shape)) for axis in range(len(shape))), shape]
        for size in sizes:
            yield self.random(*size).abs() + 0.5

    def fits(self, factor: Tensor, shape: tuple[int, ...], of: str) -> None:
        same_rank = factor.dim() == len(shape)
        fits = same_rank and all(m in (1, n) for m, n in zip(factor.shape, shape, strict=True))
        self.expect(
            factor.dim() == 0 or fits,
            f"gives a factor {list(factor.shape)} of {of} {list(shape)}, which does not broadcast",
        )

    # -- values --------------------------------------------------------------------------------------------------

    def batches(self) -> None:
        inputs = self.inputs(20, torch.float32)
        before = [x.clone() for x in inputs]
        whole = self.apply(inputs, self.parameters)
        self.expect(all(map(torch.equal, inputs, before)), "changes its inputs")
        if self.operation.makes_new_memory:
            shared = any(x.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr() for x in inputs)
            self.expect(not shared, "returns memory of an input, but declares makes_new_memory")
        for size in (1, 3, 16):
            parts = zip(*(x.split(size) for x in inputs), strict=True)
            values = [self.apply(part, self.parameters) for part in parts]
            equal = not values or torch.equal(torch.cat(values), whole)
            self.expect(equal, f"gives an image another value in a batch of {size} than in a batch of 20")

    def affine(self) -> None:
        if not self.shapes:
            return
        steps = [self.inputs(3) for _ in range(5)]
        means = [torch.stack(values).mean(0) for values in zip(*steps, strict=True)]
        expected = torch.stack([self.apply(values, self.exact) for values in steps]).mean(0)
        failure = "is not affine: its value for the mean input is not the mean of its values"
        self.same(self.apply(means, self.exact), expected, failure)

    # -- factors -------------------------------------------------------------------------------------------------

    def input_factors(self) -> None:
        inputs = self.inputs(3)
        for alone in range(len(self.shapes)):
            for given in self.factors(self.shapes[alone]):
                some = [given if i == alone else None for i in range(len(self.shapes))]
                every = [given if shape == self.shapes[alone] else None for shape in self.shapes]
                for factors in (some, every):
                    self.moved(inputs, factors)

    def moved(self, inputs: list[Tensor], factors: list[Tensor | None]) -> None:
        scaled = self.operation.scale_inputs(self.at, factors)
        if scaled is None:
            return
        changed, factor = scaled
        products = [x if p is None else p * x for x, p in zip(inputs, factors, strict=True)]
        value = self.apply(inputs, {**self.exact, **changed})
        if factor is not None:
            self.fits(factor, self.node.shape, "its output")
            value = factor * value
        sizes = [None if p is None else list(p.shape) for p in factors]
        self.same(value, self.apply(products, self.exact), f"moves the factors {sizes} of its inputs wrongly")

    def output_factors(self) -> None:
        inputs, shape = self.inputs(3), self.node.shape
        plain = self.apply(inputs, self.exact)
        for value in self.factors(shape):
            size = list(value.shape)
            for factor, offset in ((value, None), (None, value), (value, value)):
                changed = self.operation.scale_output(self.at, factor, offset)
                if changed is not None:
                    expected = (1.0 if factor is None else factor) * plain + (0.0 if offset is None else offset)
                    found = self.apply(inputs, {**self.exact, **changed}).expand_as(expected)
                    self.same(found, expected, f"takes a factor or offset {size} of its output wrongly")
            before = self.operation.to_inputs(self.at, value)
            if before is None:
                continue
            for i, sample in enumerate(self.shapes):
                self.fits(before, sample, f"input {i}")
                added = [x + before if j == i else x for j, x in enumerate(inputs)]
                self.same(self.apply(added, self.exact), plain + value, f"moves an offset {size} to input {i} wrongly")
            found = self.apply([before * x for x in inputs], self.exact)
            self.same(found, value * plain, f"moves a factor {size} to its inputs wrongly")

    def channel_axis(self) -> None:
        rank = len(self.node.shape)
        for axis in range(1, 1 + min(map(len, self.shapes), default=0)):
            found = self.operation.channel_axis(self.at, [axis] * len(self.shapes))
            failure = f"has its channels at axis {found}, outside 1 to {max(rank, 1)}"
            self.expect(found is None or 1 <= found <= max(rank, 1), failure)
            factor = list(self.factors(self.shapes[0]))[axis]
            factors = [factor if shape == self.shapes[0] else None for shape in self.shapes]
            scaled = self.operation.scale_inputs(self.at, factors) if factor.numel() > 1 else None
            if scaled is None or scaled[0] or scaled[1] is None:
                continue
            varying = [i + 1 for i, n in enumerate(scaled[1].shape) if n > 1]
            failure = f"moves a factor of axis {axis} to axis {varying}, but channels to axis {found}"
            self.expect(len(varying) != 1 or varying == [found], failure)

    # -- spikes --------------------------------------------------------------------------------------------------

    def synapses(self) -> None:
        kind = self.operation.synapses(self.at)
        if kind is None or not self.shapes:
            return
        wanted = [self.responses(i, kind) for i in range(len(self.shapes))]
        graph = self.graph()
        spiking = WorkCounter(graph, spiking=True)
        for i, responses in enumerate(wanted):
            reached = [work.reach[f"input{i}"] for work in spiking.work.values() if f"input{i}" in work.reach]
            found = torch.stack(reached).sum(0) if reached else torch.zeros_like(responses)
            failure = f"declares {found.tolist()} synapses at input {i}, but {responses.tolist()} outputs respond"
            self.expect(torch.equal(found, responses), failure)
        entries = int(sum(responses.sum() for responses in wanted))
        work = WorkCounter(graph, spiking=False).work["node"]
        expected = {
            "route": (0, 0),
            "sum": (0, entries),
            "interpolate": (entries, 0),
            "weights": (entries, 0),
            "scale": (prod(self.node.shape), 0),
            "add": (0, prod(self.node.shape) * (len(self.shapes) - 1)),
        }[kind]
        counted = (work.macs, work.acs)
        self.expect(counted == expected, f"has (MACs, ACs) = {counted} for real-valued inputs, not {expected}")

    def responses(self, i: int, kind: Synapses) -> Tensor:
        """Return the number of outputs that respond to each element of an input."""
        zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in self.shapes]
        nothing = self.apply(zeros, self.exact)
        counts = []
        for element in torch.eye(prod(self.shapes[i]), dtype=torch.float64):
            inputs = [element.reshape(x.shape) if j == i else x for j, x in enumerate(zeros)]
            response = self.apply(inputs, self.exact) - nothing
            counts.append(int((response != 0).sum()))
            if kind in ("route", "add"):
                self.expect(counts[-1] == response.sum(), f"multiplies its input, but declares synapses {kind!r}")
        return torch.tensor(counts, dtype=torch.float64).reshape(self.shapes[i])

    # -- networks ------------------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        """Return a graph whose input is split into one site for each input of the node."""
        shapes = self.shapes or (self.node.shape,)
        nodes, start = [Node("input", "input", shape=(sum(map(prod, shapes)),), origin="input")], 0
        for i, shape in enumerate(shapes):
            stop = start + prod(shape)
            cut = {"dim": 1, "start": start, "stop": stop, "step": 1}
            relu = {"activation": "relu", "upper": None}
            nodes += [
                Node(f"slice{i}", "slice", ("input",), cut, {}, (prod(shape),), "slice"),
                Node(f"reshape{i}", "reshape", (f"slice{i}",), {"shape": list(shape)}, {}, shape, "reshape"),
                Node(f"input{i}", "site", (f"reshape{i}",), relu, {}, shape, f"input{i}"),
            ]
            start = stop
        nodes.append(self.node)
        if not self.shapes:
            nodes.append(Node("sum", "add", ("input0", "node"), {}, {}, self.node.shape, "sum"))
        return Graph(nodes, nodes[-1].name, {f"node.{name}": tensor for name, tensor in self.parameters.items()})

    def saving(self) -> None:
        graph = self.graph()
        images = self.random(10, *graph.input_shape).float()
        network = convert(graph, RateCoding(timesteps=2), calibration=images, max_pool="gate")
        with tempfile.TemporaryDirectory() as folder:
            again = load(save(network, Path(folder) / "network"))
        self.expect(
            torch.equal(again.logits(images), network.logits(images)), "gives other logits after saving and loading"
        )

    def tracing(self, function: Callable[..., Tensor]) -> None:
        images = self.random(4, sum(map(prod, self.shapes))).float()
        found = capture(_Cut(self.shapes, function), images)
        found.raise_if_refused()
        written = [(n.operation, dict(n.attributes), {*n.parameters}) for n in found.graph.nodes]
        wanted = (self.operation.name, self.attributes, {*self.parameters})
        self.expect(wanted in written, f"is not the operation that the function is traced to: {written}")


class _Cut(nn.Module):
    """A function of slices of the input, each after a ReLU."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...], function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.shapes, self.function = shapes, function

    def forward(self, x: Tensor) -> Tensor:
        sub_batches = x.split([prod(shape) for shape in self.shapes], 1)
        return self.function(*(torch.relu(p.unflatten(1, s)) for p, s in zip(sub_batches, self.shapes, strict=True)))
