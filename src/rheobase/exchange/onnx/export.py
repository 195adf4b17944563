"""Export of networks on whole numbers as ONNX files of integer operators."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rheobase.core.checks import check_choice, check_flag
from rheobase.core.errors import RecipeError, StoreError
from rheobase.core.folders import as_path, whole_file
from rheobase.core.versions import versions
from rheobase.exchange.onnx.firing import Memory, count, fire
from rheobase.exchange.onnx.forms import Call, gate, look_up, max_pool, write
from rheobase.exchange.onnx.packages import require_onnx
from rheobase.exchange.onnx.writer import Value, Writer
from rheobase.graph.node import Node
from rheobase.graph.operations import NotExpressible
from rheobase.graph.operations.lookup import Lookup
from rheobase.graph.sites import split_at_sites
from rheobase.network.integer_network import PIXELS, IntegerNetwork
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.neurons.integer import IntegerCount, IntegerFire, check_whole_numbers

Form = Literal["counts", "steps"]
"""The closed form, or every time-step unrolled."""
INPUT, SUMS, LOGITS = "pixels", "sums", "logits"
LARGEST_FILE = 2**31 - 1
"""Bytes of a protobuf message."""


@dataclass(frozen=True)
class ONNXExport:
    """Result of an export.

    Attributes:
        path: the file.
        form: ``"counts"`` or ``"steps"``.
        timesteps: T.
        bits: width of the whole numbers, 32 or 64.
        sites: site -> name of the output with its spike counts; empty without ``spikes``.
        operators: number of nodes of each ONNX operator.
        exact_floats: the max-pooling nodes that compare whole numbers in floating point, which holds them exactly,
            because onnxruntime has no integer kernel. All other nodes are integer operators, except for the last
            product, which gives the logits.
    """

    path: Path
    form: Form
    timesteps: int
    bits: int
    sites: dict[str, str]
    operators: dict[str, int]
    exact_floats: tuple[str, ...]


def export_onnx(
    network: SpikingNetwork,
    path: str | Path,
    form: Form | Literal["auto"] = "auto",
    *,
    spikes: bool = False,
    overwrite: bool = False,
) -> ONNXExport:
    r"""Write a network on whole numbers as an ONNX file of integer operators.

    The file has the input ``pixels``, uint8 [N, ...], and the outputs ``sums``, the summed logits as whole numbers, and
    ``logits``, in float32 or float64: the bits of ``network(images)``. N is open. The form is

    - ``counts`` for neurons that wait for their whole input. A site is :math:`\mathrm{clip}(\lfloor (\sum_t I[t] +
      V_0)/\theta \rfloor, n_{min}, n_{max})`, computed once: the file is a quantised analog network.
    - ``steps`` for neurons that stream. The T steps are written one after the other; what depends on the image alone,
      and the readout, is written once.

    Weighted layers are ConvInteger and MatMulInteger with uint8 operands and int32 sums. Weights and values beyond
    8 bits are written as several digits. No sum can leave its width: the file has int32 values, or int64 if the weights
    require it.

    Args:
        network: a network made by :func:`rheobase.integers`; not modified.
        path: file to write.
        form: ``"counts"``, ``"steps"``, or ``"auto"``: the one that the neurons have.
        spikes: also output the net number of spikes of every neuron over all steps; the outputs have the names of the
            sites.
        overwrite: replace an existing file.

    Raises:
        RecipeError: if the network is not on whole numbers, or its neurons do not have the form.
        StoreError: if an operation has no form in ONNX, naming the node; if the file exists or cannot be written.
        ModelError: if the package ``onnx`` is missing.

    Example:
        >>> whole = rb.integers(snn, calibration=images)  # doctest: +SKIP
        >>> rb.exchange.export_onnx(whole, "net.onnx", spikes=True).form  # doctest: +SKIP
        'counts'
        >>> session = onnxruntime.InferenceSession("net.onnx")  # doctest: +SKIP
        >>> pixels = rb.exchange.onnx.to_pixels(whole, images).numpy()  # doctest: +SKIP
        >>> sums, logits, *counts = session.run(None, {"pixels": pixels})  # doctest: +SKIP
    """
    check_converted(network)
    onnx = require_onnx()
    network = _check(network)
    check_flag(spikes, "spikes")
    chosen = _form_of(network, form)
    path = as_path(path)
    if path.exists() and not overwrite:
        raise StoreError("already exists", where=str(path), remedy="choose another name, or pass overwrite=True")
    narrow = _Export(network, chosen, 32)
    # the largest number is known once the file is written
    export = narrow if narrow.writer.largest < 2**31 - 1 else _Export(network, chosen, 64)
    model = export.model(spikes)
    data = _serialised(model, path)
    onnx.checker.check_model(data, full_check=True)
    with whole_file(path) as draft:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
    operators: dict[str, int] = {}
    for node in model.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    sites = export.names if spikes else {}
    exact = tuple(export.writer.exact_floats)
    return ONNXExport(path, chosen, network.timesteps, export.writer.bits, sites, operators, exact)


def to_pixels(network: IntegerNetwork, images: Tensor) -> Tensor:
    """Images as the pixels that an exported file reads, uint8 [N, ...].

    Args:
        network: the exported network.
        images: as the network reads them; uint8 is returned unchanged.

    Example:
        >>> rb.exchange.onnx.to_pixels(whole, images).dtype  # doctest: +SKIP
        torch.uint8
    """
    checked = network.check_images(images)
    if images.dtype == torch.uint8:
        return images
    zero = torch.tensor(network.units.zero, device=checked.device).reshape(-1, *(1,) * (images.dim() - 2))
    return (network.pixels(checked) + zero).to(torch.uint8)


def _check(network: SpikingNetwork) -> IntegerNetwork:
    """The network, if all its numbers are whole."""
    if not isinstance(network, IntegerNetwork):
        remedy = "make it whole first: rb.integers(network, calibration=...), or rheobase export FOLDER --to integers"
        raise RecipeError("is not on whole numbers", where="network", remedy=remedy)
    for node in network.graph.nodes:
        for argument, name in node.parameters.items():
            check_whole_numbers(network.graph.tensor(name), f"{node.name}.{argument}")
    for site in network.sites:
        for name, buffer in network.neuron(site.name).named_buffers():
            if name != "spike_value":  # which no spike depends on
                check_whole_numbers(buffer, f"{site.name}.{name}")
    return network


def _form_of(network: IntegerNetwork, form: str) -> Form:
    """The form that the neurons have."""
    check_choice(form, ("auto", "counts", "steps"), "form")
    waits = all(network.waits(site.name) for site in network.sites)
    found: Form = "counts" if waits else "steps"
    if form not in ("auto", found):
        reason = "wait for their whole input" if waits else "fire at every step, so that their counts depend on time"
        remedy = f'use form="{found}" (--form {found})'
        raise RecipeError(f"has neurons that {reason}", where=network.sites[0].name, remedy=remedy)
    return found


def _serialised(model: Any, path: Path) -> bytes:
    """The bytes of the file."""
    try:
        data = model.SerializeToString()
    except ValueError:  # of protobuf, beyond 2 GiB
        data = b""
    if not 0 < len(data) <= LARGEST_FILE:
        raise StoreError("would have more than 2 GiB", where=str(path), remedy="save the network with rb.save instead")
    return bytes(data)


@contextmanager
def _refusing(node: Node) -> Iterator[None]:
    """Convert :class:`NotExpressible` to a StoreError that names the node."""
    try:
        yield
    except NotExpressible as cause:
        remedy = "replace the operation before the conversion, or save the network as a folder: rb.save(network, ...)"
        reason = f"{cause}, which has no form in integer operators of ONNX"
        raise StoreError(reason, where=node.name, remedy=remedy) from None


class _Export:
    """The network in ONNX nodes of whole numbers of a width.

    Attributes:
        counts: site -> the net number of spikes of its neurons.
        names: site -> name of the output with them.
    """

    def __init__(self, network: IntegerNetwork, form: Form, bits: int) -> None:
        self.network, self.form = network, form
        self.graph = network.graph
        self.shapes = {node.name: node.shape for node in self.graph.nodes}
        self.writer = Writer(bits, reserved=(INPUT, SUMS, LOGITS, *(site.name for site in network.sites)))
        taken = {INPUT, SUMS, LOGITS}
        self.names = {site.name: f"{site.name}_spikes" if site.name in taken else site.name for site in network.sites}
        self.counts: dict[str, Value] = {}
        self.memories: dict[str, Memory] = {}
        self.totals: dict[str, Value] = {}
        self.sums_read: dict[str, Value] = {}
        self.given: dict[str, Value] = {}
        self._multiples: dict[str, Value] = {}
        before, self.between, self.readout = split_at_sites(self.graph)
        self.constant = self._image(before[0])
        for node in before[1:]:
            self.constant[node.name] = self.write(node, self.constant, 1)
        self.sums = self._in_closed_form() if form == "counts" else self._in_steps()

    # -- running over time -----------------------------------------------------------------------------------------

    def _image(self, node: Node) -> dict[str, Value]:
        """The pixels less the one that stands for 0."""
        writer, zero = self.writer, np.array(self.network.units.zero, np.int64)
        writer.begin(node.name)
        zero = zero.reshape(-1, *(1,) * (len(node.shape) - 1))
        number = writer.as_number(INPUT, 0, PIXELS)
        image = writer.plus(number, -zero)
        if (zero == zero.flat[0]).all():
            writer.declare_bytes(image, INPUT, int(zero.flat[0]))
        return {node.name: image}

    def _in_closed_form(self) -> Value:
        """The summed output; every value is a sum over all steps."""
        sums: dict[str, Value] = {}
        for node in (*self.between, *self.readout):
            sums[node.name] = self.write(node, self.summed(node.inputs, sums), self.network.timesteps)
        return self.summed([self.graph.output], sums)[self.graph.output]

    def _in_steps(self) -> Value:
        """The summed output; the readout reads sums."""
        late = {node.name for node in self.readout}
        read = {name for node in self.readout for name in node.inputs} or {self.graph.output}
        sums: dict[str, Value] = {}
        for t in range(self.network.timesteps):
            values = dict(self.constant)
            for node in self.between:
                values[node.name] = self.write(node, values, 1, t)
            for name in sorted(read - late - self.constant.keys()):
                self.writer.begin(name, "sum")
                sums[name] = self.writer.add(sums[name], values[name]) if name in sums else values[name]
        for node in self.readout:
            sums[node.name] = self.write(node, self.summed(node.inputs, sums), self.network.timesteps)
        return self.summed([self.graph.output], sums)[self.graph.output]

    def summed(self, names: Iterable[str], sums: dict[str, Value]) -> dict[str, Value]:
        """Sums over all steps by name; a constant value times the number of steps."""
        found = {}
        for name in names:
            if name in self.constant and name not in self._multiples:
                self.writer.begin(name, "sum")
                steps = np.array(self.network.timesteps)
                self._multiples[name] = self.writer.times(self.constant[name], steps)
            found[name] = self._multiples[name] if name in self.constant else sums[name]
        return found

    # -- nodes -----------------------------------------------------------------------------------------------------

    def write(self, node: Node, values: dict[str, Value], steps: int, t: int | None = None) -> Value:
        """Write a node that reads ``values``, sums over a number of steps; ``t``: the step of neurons that stream."""
        self.writer.begin(node.name, t)
        tensors = {argument: self.graph.tensor(name) for argument, name in node.parameters.items()}
        inputs = tuple(values[name] for name in node.inputs)
        call = Call(node, inputs, tuple(self.shapes[name] for name in node.inputs), tensors, steps)
        with _refusing(node):
            if node.operation == "site":
                return self.site(node, inputs[0], t)
            if node.operation == "max_pool":
                return self.max_pool(call, t)
            if node.operation == Lookup.name:
                return self.look_up(call, t)
            return write(self.writer, call)

    def site(self, node: Node, current: Value, t: int | None) -> Value:
        """Write the neurons of a site: their counts, or their spikes at step t."""
        neuron, dims = self.network.neuron(node.name), len(node.shape) + 1
        if isinstance(neuron, IntegerFire) and t is not None:
            memory = self.memories.get(node.name, Memory())
            spikes, memory = fire(self.writer, neuron, current, memory, t, dims)
            assert memory.sent is not None
            self.memories[node.name], self.counts[node.name] = memory, memory.sent
            return spikes
        assert isinstance(neuron, IntegerCount)
        self.counts[node.name] = count(self.writer, neuron, current, dims)
        return self.counts[node.name]

    def max_pool(self, call: Call, t: int | None) -> Value:
        """Write max-pooling: of sums and of constants, or the gate of a time series."""
        (read,), (x,) = call.node.inputs, call.inputs
        if t is None or read in self.constant:
            return max_pool(self.writer, call)
        total = self.writer.add(self.totals[read], x) if read in self.totals else x
        self.totals[read] = total
        return gate(self.writer, call, total)

    def look_up(self, call: Call, t: int | None) -> Value:
        """Write a lookup: of sums over all steps, of a constant, or what step t adds."""
        name, (x,) = call.node.name, call.inputs
        if t is None:
            return self.writer.times(look_up(self.writer, call, x, call.steps), np.array(call.steps))
        total = self.writer.add(self.sums_read[name], x) if name in self.sums_read else x
        reached = self.writer.times(look_up(self.writer, call, total, t + 1), np.array(t + 1))
        given = self.given.get(name)
        self.sums_read[name], self.given[name] = total, reached
        return reached if given is None else self.writer.add(reached, self.writer.negative(given))

    # -- the file --------------------------------------------------------------------------------------------------

    def model(self, spikes: bool) -> Any:
        """The file."""
        writer, types = self.writer, self.writer.types
        outputs = [writer.tensor_info(SUMS, writer.number, self.graph.output_shape)]
        self._put(self.sums.name, SUMS)
        outputs.append(writer.tensor_info(LOGITS, self._logits(), self.graph.output_shape))
        for site in self.network.sites if spikes else ():
            self._put(self.counts[site.name].name, self.names[site.name])
            outputs.append(writer.tensor_info(self.names[site.name], writer.number, site.shape))
        inputs = [writer.tensor_info(INPUT, types.UINT8, self.graph.input_shape)]
        return writer.model(inputs, outputs, "rheobase", self._metadata(spikes), versions()["rheobase"])

    def _put(self, name: str, output: str) -> None:
        self.writer.nodes.append(self.writer.onnx.helper.make_node("Identity", [name], [output], name=output))

    def _logits(self) -> Any:
        """Write the logits, the product of the sums and their unit; returns their type."""
        writer = self.writer
        writer.begin(LOGITS)
        unit = writer.array(self.network.units.logit / self.network.timesteps, np.float64)
        logits = writer.op("Mul", writer.cast(SUMS, "DOUBLE"), unit)
        double = self.network.ann.dtype == torch.float64
        self._put(logits if double else writer.cast(logits, "FLOAT"), LOGITS)
        return writer.types.DOUBLE if double else writer.types.FLOAT

    def _metadata(self, spikes: bool) -> dict[str, str]:
        units = self.network.units
        document = {
            "form": self.form,
            "timesteps": self.network.timesteps,
            "units": units.model_dump(mode="json", exclude={"target"}),
            "target": units.target.model_dump(mode="json"),
            "sites": self.names if spikes else [site.name for site in self.network.sites],
            "exact_floats": list(self.writer.exact_floats),
            "recipe": self.network.recipe,
            "versions": {**versions(), "onnx": self.writer.onnx.__version__},
        }
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in document.items()}
