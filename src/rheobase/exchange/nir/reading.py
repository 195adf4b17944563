"""Import of NIR files as spiking networks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheobase.core.checks import check_choice, check_whole
from rheobase.core.errors import StoreError
from rheobase.core.folders import as_path
from rheobase.core.versions import versions
from rheobase.exchange.nir.contract import Reset, read_contract, require_nir
from rheobase.exchange.store import first_line
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.network.spiking_network import Provenance, SpikingNetwork
from rheobase.neurons import IntegrateFire


def import_nir(path: str | Path, *, timesteps: int | None = None, reset: Reset = "value") -> SpikingNetwork:
    """Read a NIR file as a spiking network.

    A file that :func:`rheobase.exchange.export_nir` wrote gives the exported network with bit-identical logits, even
    if its NIR nodes only approximate the network. A file from another program is read if Rheobase can run its nodes
    exactly: ``Input``, ``Output``, ``Linear``, ``Affine``, ``Conv1d``, ``Conv2d``, ``Scale``, ``SumPool2d``,
    ``AvgPool2d``, ``Flatten``, and ``IF`` with reset by subtraction; edges into the same node add up.

    Args:
        path: the file.
        timesteps: T, required for files from other programs, because NIR does not contain T.
        reset: for files from other programs: how that program resets IF. NIR defines a reset to a value, which
            Rheobase's neurons do not have; sinabs and snnTorch subtract θ.

    Returns:
        The network, on the CPU. For a file from another program, ``ann`` has a ReLU clipped at θ for each IF.

    Raises:
        StoreError: if the file is not a NIR file, is damaged or was changed; if Rheobase cannot run a node exactly; or
            if the package ``nir`` is missing.

    Example:
        >>> rb.exchange.import_nir("net.nir").timesteps  # doctest: +SKIP
        8
    """
    nir = require_nir()
    check_choice(reset, Reset, "reset", error=StoreError)
    path = as_path(path)
    where = str(path)
    if not path.is_file():
        raise StoreError("is not a file", where=where, remedy="check the path")
    try:
        # without nir's own check of shapes: the reader below infers them, and names a node that does not fit
        unchecked = {"type_check": False} if "type_check" in inspect.signature(nir.read).parameters else {}
        graph = nir.read(path, **unchecked)
    except PermissionError as cause:
        raise StoreError("cannot be read (permission denied)", where=where, remedy="check its permissions") from cause
    except (AssertionError, TypeError, ValueError) as cause:  # of nir's nodes
        reason = f"holds a graph that the package nir refuses ({first_line(cause)})"
        remedy = "correct the graph in the program that wrote the file"
        raise StoreError(reason, where=where, remedy=remedy) from cause
    except Exception as cause:  # h5py raises exceptions of any kind
        reason = f"is not a NIR file, or is damaged ({first_line(cause)})"
        raise StoreError(reason, where=where, remedy="copy or export the file again") from cause
    if not isinstance(graph, nir.NIRGraph):
        raise StoreError(f"holds a single {type(graph).__name__}, not a graph", where=where, remedy="export a graph")
    network = read_contract(graph, where)
    if network is not None:
        if timesteps is not None or reset != "value":
            reason = "have no effect on a file that Rheobase wrote, which contains both"
            raise StoreError(reason, where="timesteps and reset", remedy="leave them out")
        return network
    if timesteps is None:
        remedy = "pass timesteps, such as rb.exchange.import_nir(path, timesteps=16)"
        raise StoreError("does not contain the number of time-steps", where=where, remedy=remedy)
    return _Reader(nir, graph, reset).network(check_whole(timesteps, "timesteps", error=StoreError), where)


_SHAPES = "correct the shapes in the program that wrote the file"


class _Reader:
    """Converts the nodes of a NIR graph from another program to operations."""

    def __init__(self, nir: Any, graph: Any, reset: Reset) -> None:
        self.nir, self.source, self.reset = nir, graph, reset
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.samples: dict[str, Tensor] = {}  # outputs for one image, to infer shapes
        self.neurons: list[IntegrateFire] = []
        weights = [getattr(node, "weight", None) for node in graph.nodes.values()]
        double = any(np.asarray(w).dtype == np.float64 for w in weights if w is not None)
        self.dtype = torch.float64 if double else torch.float32  # the widest of the weights
        self.readers: dict[type, Callable[[str, Any, str], None]] = {
            nir.Linear: self.linear,
            nir.Affine: self.linear,
            nir.Conv1d: self.conv,
            nir.Conv2d: self.conv,
            nir.Scale: self.scale,
            nir.SumPool2d: self.pool,
            nir.AvgPool2d: self.pool,
            nir.Flatten: self.flatten,
            nir.IF: self.integrate_fire,
        }

    def network(self, timesteps: int, where: str) -> SpikingNetwork:
        order = self.order(where)
        inputs, outputs = (
            [n for n in order if isinstance(self.source.nodes[n], kind)] for kind in (self.nir.Input, self.nir.Output)
        )
        if len(inputs) != 1 or len(outputs) != 1:
            reason = f"has {len(inputs)} inputs and {len(outputs)} outputs"
            raise StoreError(reason, where=where, remedy="export a graph with one of each")
        shape = tuple(int(n) for n in self.source.nodes[inputs[0]].input_type["input"])
        self.add(Node(inputs[0], "input", shape=shape, origin="Input"), torch.zeros(1, *shape, dtype=self.dtype))
        output = inputs[0]
        for name in order:
            if name == outputs[0]:
                output = self.arriving(name)
                self.check_output(name, self.samples[output].shape[1:])
            elif name != inputs[0]:
                self.read(name, self.source.nodes[name], self.arriving(name))
        if not self.neurons:
            raise StoreError("has no neurons", where=where, remedy="give a spiking network")
        graph = Graph(self.nodes, output, self.tensors)
        notes = ["read from a NIR file: the analog network has a ReLU clipped at θ for each IF"]
        provenance = Provenance(versions=versions(), notes=notes)
        return SpikingNetwork(graph, graph, self.neurons, timesteps, {"name": "NIR"}, provenance)

    def read(self, name: str, node: Any, arriving: str) -> None:
        kind = type(node).__name__
        if type(node) not in self.readers:
            leaks = kind in ("LIF", "LI", "CubaLIF", "CubaLI")
            reason = "leaks, Rheobase's neurons do not" if leaks else f"is a {kind}, which Rheobase cannot run exactly"
            known = ", ".join(known.__name__ for known in self.readers)
            raise StoreError(reason, where=f"{name} ({kind})", remedy=f"use Input, Output, {known} only")
        try:
            self.readers[type(node)](name, node, arriving)
        except StoreError:
            raise
        except Exception as cause:  # torch's errors for sizes that do not fit
            found = list(self.samples[arriving].shape[1:])
            reason = f"does not fit its input of shape {found} ({first_line(cause)})"
            raise StoreError(reason, where=name, remedy=_SHAPES) from cause

    def check_output(self, name: str, shape: tuple[int, ...]) -> None:
        declared = (self.source.nodes[name].output_type or {}).get("output")
        if declared is not None and math.prod(map(int, np.atleast_1d(declared))) != math.prod(shape):
            reason = f"has shape {[*map(int, np.atleast_1d(declared))]} in the file and receives {list(shape)}"
            raise StoreError(reason, where=name, remedy=_SHAPES)

    def order(self, where: str) -> list[str]:
        before: dict[str, list[str]] = {name: [] for name in self.source.nodes}
        for edge in self.source.edges:
            if unknown := set(edge) - set(before):
                reason = f"has an edge of {min(unknown)!r}, which is not a node"
                raise StoreError(reason, where=where, remedy="export the file again")
            if edge[0] in before[edge[1]]:
                reason = f"has the edge from {edge[0]!r} to {edge[1]!r} twice"
                raise StoreError(reason, where=where, remedy="remove one of them in the program that wrote the file")
            before[edge[1]].append(edge[0])
        try:
            return list(TopologicalSorter(before).static_order())
        except CycleError as cause:
            reason = f"is recurrent ({' → '.join(cause.args[1])})"
            raise StoreError(reason, where=where, remedy="give a feed-forward network") from None

    def arriving(self, name: str) -> str:
        """Return the name of a node's input, the sum of all edges into it."""
        sources = [source for source, target in self.source.edges if target == name]
        if not sources:
            raise StoreError("has no input", where=name, remedy="connect the node, or remove it")
        if len(sources) == 1:
            return sources[0]
        shapes = {tuple(self.samples[source].shape[1:]) for source in sources}
        if len(shapes) > 1:
            reason = f"receives different shapes: {' and '.join(map(str, map(list, sorted(shapes))))}"
            raise StoreError(reason, where=name, remedy=_SHAPES)
        total = OPERATIONS["add"].apply(*(self.samples[source] for source in sources))
        self.add(Node(f"{name}:sum", "add", tuple(sources), shape=tuple(total.shape[1:]), origin=name), total)
        return f"{name}:sum"

    def add(self, node: Node, sample: Tensor) -> None:
        self.nodes.append(node)
        self.samples[node.name] = sample

    def operation(
        self, name: str, operation: str, arriving: str, attributes: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        """Add an affine operation."""
        parameters = {argument: f"{name}.{argument}" for argument in tensors}
        result = OPERATIONS[operation].apply(self.samples[arriving], **attributes, **tensors)
        self.tensors.update({parameters[argument]: tensor for argument, tensor in tensors.items()})
        self.add(Node(name, operation, (arriving,), attributes, parameters, tuple(result.shape[1:]), name), result)

    def tensor(self, name: str, array: Any) -> Tensor:
        """Convert an array of a node to a tensor."""
        values = np.array(array)
        if values.dtype.kind not in "fiu":
            raise StoreError(f"holds {values.dtype} values, not real numbers", where=name, remedy="export real values")
        found = torch.from_numpy(values).to(self.dtype)
        if not bool(torch.isfinite(found).all()):
            raise StoreError("holds NaN or infinite values", where=name, remedy="export finite values")
        return found

    def linear(self, name: str, node: Any, arriving: str) -> None:
        tensors = {"weight": self.tensor(name, node.weight)}
        if hasattr(node, "bias"):
            tensors["bias"] = self.tensor(name, node.bias)
        if tensors["weight"].dim() != 2:
            reason = f"has a weight of shape {list(tensors['weight'].shape)}"
            raise StoreError(reason, where=name, remedy="give a matrix")
        self.operation(name, "linear", arriving, {}, tensors)

    def conv(self, name: str, node: Any, arriving: str) -> None:
        tensors = {"weight": self.tensor(name, node.weight), "bias": self.tensor(name, node.bias)}
        axes = tensors["weight"].dim() - 2
        dilation, stride = _numbers(node.dilation, axes), _numbers(node.stride, axes)
        padding = [0] * axes
        if not isinstance(node.padding, str):
            padding = _numbers(node.padding, axes)
        elif node.padding == "same":
            spans = [d * (k - 1) for d, k in zip(dilation, tensors["weight"].shape[2:], strict=True)]
            if any(span % 2 for span in spans):
                reason = 'has padding "same" with an even kernel, which is asymmetric'
                raise StoreError(reason, where=name, remedy="use an odd kernel or explicit padding")
            padding = [span // 2 for span in spans]
        attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": int(node.groups)}
        self.operation(name, "conv", arriving, attributes, tensors)

    def scale(self, name: str, node: Any, arriving: str) -> None:
        self.operation(name, "affine", arriving, {}, {"scale": self.tensor(name, node.scale)})

    def pool(self, name: str, node: Any, arriving: str) -> None:
        window = {argument: _numbers(getattr(node, argument), 2) for argument in ("kernel_size", "stride", "padding")}
        divisor = 1 if isinstance(node, self.nir.SumPool2d) else None
        self.operation(name, "avg_pool", arriving, {**window, "divisor_override": divisor}, {})

    def flatten(self, name: str, node: Any, arriving: str) -> None:
        sample = self.samples[arriving]
        start, end = (int(d) + 1 if d >= 0 else int(d) for d in (node.start_dim, node.end_dim))
        self.operation(name, "reshape", arriving, {"shape": list(sample.flatten(start, end).shape[1:])}, {})

    def integrate_fire(self, name: str, node: Any, arriving: str) -> None:
        if self.reset == "value":
            reason = "resets to a value (NIR's IF), Rheobase's neurons reset by subtraction"
            remedy = 'pass reset="subtract" if the program that wrote the file subtracts, as sinabs and snnTorch do'
            raise StoreError(reason, where=name, remedy=remedy)
        if np.any(np.asarray(getattr(node, "v_reset", 0)) != 0):
            reason = "has a v_reset other than 0, which excludes a reset by subtraction"
            raise StoreError(reason, where=name, remedy="export with v_reset = 0")
        threshold, gain = self.tensor(name, node.v_threshold), self.tensor(name, node.r)
        if not bool((threshold > 0).all()):
            raise StoreError("has a threshold that is not positive", where=name, remedy="use positive thresholds")
        shape = tuple(self.samples[arriving].shape[1:])
        if tuple(threshold.shape) not in ((), (1,), shape):
            reason = f"has thresholds of shape {list(threshold.shape)} for currents of shape {list(shape)}"
            raise StoreError(reason, where=name, remedy="give one threshold, or one for each neuron")
        scale = gain / threshold  # spikes have amplitude 1, so the current is in units of θ
        if bool((scale != 1).any()):
            self.operation(f"{name}:current", "affine", arriving, {}, {"scale": scale.reshape(scale.shape or (1,))})
            arriving = f"{name}:current"
        site = {"activation": "relu", "upper": 1.0}
        self.add(Node(name, "site", (arriving,), site, shape=shape, origin=name), self.samples[arriving])
        one = torch.ones((), dtype=threshold.dtype)
        self.neurons.append(IntegrateFire(one, one * 0))


def _numbers(value: Any, axes: int) -> list[int]:
    numbers = np.asarray(value).reshape(-1).tolist()
    return [int(n) for n in (numbers * axes if len(numbers) == 1 else numbers)]
