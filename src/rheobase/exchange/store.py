"""Spiking networks on disk: a folder with the structure as JSON and the tensors as safetensors, without pickle.

``network.json`` holds everything but the tensors, and the SHA-256 of both files' content;
``tensors.safetensors`` holds each distinct tensor once. The folder is written atomically.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from torch import Tensor

from rheobase.activations import ACTIVATIONS
from rheobase.core.errors import StoreError, first_line
from rheobase.core.folders import as_path, refuse_foreign
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.network.integer_network import IntegerNetwork, Units
from rheobase.network.protocol import PROTOCOLS
from rheobase.network.spiking_network import Provenance, SpikingNetwork, check_converted
from rheobase.neurons import NEURONS, Neuron
from rheobase.signals.alignment import Alignment

FORMAT = "rheobase-network"
VERSION = 2
STRUCTURE_FILE = "network.json"
TENSORS_FILE = "tensors.safetensors"
GOLDEN_FILE = "golden.safetensors"
"""Golden vectors in the folder of a network on whole numbers; replaced together with the network."""

_Scalar = bool | int | float | str | None
_AGAIN = "copy the original folder again, or save the network again"
_IMPORT = "import the module that registers it (rb.register), or upgrade rheobase"


def save(network: SpikingNetwork, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a spiking network to a folder, atomically.

    Args:
        network: a converted network, on any device.
        folder: folder to create, with its parents; must not exist unless ``overwrite``.
        overwrite: replace a saved network or an empty folder; a folder with other files is never replaced.

    Raises:
        StoreError: if the folder exists or cannot be written (no permission, no space), or :func:`load` would refuse
            the network. An existing folder is then unchanged.

    Example:
        >>> rb.save(snn, "out/resnet20")  # doctest: +SKIP
        PosixPath('out/resnet20')
    """
    check_converted(network)
    folder = as_path(folder, "folder")
    content, tensors = describe(network, str(folder))
    blob = safetensors.torch.save(tensors)
    content["tensors_sha256"] = hashlib.sha256(blob).hexdigest()
    content["sha256"] = digest(content)
    text = json.dumps(content, indent=1).encode()
    try:
        target = folder.resolve()  # a link is kept; its target is replaced
        if os.path.lexists(target):
            if not overwrite:
                remedy = "choose another folder, or pass overwrite=True"
                raise StoreError("already exists", where=str(folder), remedy=remedy)
            ours = (STRUCTURE_FILE, TENSORS_FILE, GOLDEN_FILE) if (target / STRUCTURE_FILE).exists() else ()
            refuse_foreign(target, ours, "a saved network", hidden=True)
        _put(target, {TENSORS_FILE: blob, STRUCTURE_FILE: text})
    except OSError as cause:
        reason, remedy = f"cannot be written ({cause.strerror or cause})", "free space, or choose another folder"
        raise StoreError(reason, where=str(folder), remedy=remedy) from cause
    return folder


def load(folder: str | Path) -> SpikingNetwork:
    """Read a network that :func:`save` wrote, on the CPU; the class of the original network is not needed.

    The logits are bit-identical to those before saving, on the same machine and versions. No code in the files is run.

    Raises:
        StoreError: if a file is missing, damaged or altered, was written by a newer rheobase, or does not describe a
            spiking network.

    Example:
        >>> rb.load("out/resnet20").timesteps  # doctest: +SKIP
        8
    """
    folder = as_path(folder, "folder")
    if not folder.is_dir():
        raise StoreError("is not a folder", where=str(folder), remedy="check the path")
    structure, where = str(folder / STRUCTURE_FILE), str(folder / TENSORS_FILE)
    content = _parse(_read(structure), structure)
    blob = _read(where)
    if hashlib.sha256(blob).hexdigest() != content.get("tensors_sha256"):
        raise StoreError("is truncated or altered (SHA-256 differs)", where=where, remedy=_AGAIN)
    with _refusing("holds no tensors of a network", where):
        tensors = safetensors.torch.load(blob)
    return rebuild(content, tensors, structure)


# -- the document --------------------------------------------------------------------------------------------


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Node(_Entry):
    name: str
    operation: str
    inputs: tuple[str, ...]
    attributes: dict[str, _Scalar | list[_Scalar] | dict[str, _Scalar]]
    parameters: dict[str, str]
    shape: tuple[NonNegativeInt, ...]
    origin: str


class _Graph(_Entry):
    nodes: tuple[_Node, ...] = Field(min_length=1)
    output: str
    tensors: dict[str, str]  # name in the graph -> name in the file


class _Neuron(_Entry):
    kind: str
    config: dict[str, Any]
    buffers: dict[str, str | None]  # name of the buffer -> name in the file


class _WholeNumbers(_Entry):
    units: Units
    unrounded: dict[str, str]  # as in _Graph: the tensors of the graph before rounding
    dtypes: dict[str, str]  # name of a tensor in the file -> its dtype in the network


class _Document(_Entry):
    format: str
    version: int
    timesteps: int = Field(ge=1)
    alignment: Alignment = Alignment()
    protocol: dict[str, Any] | None = None
    whole_numbers: _WholeNumbers | None = None
    recipe: dict[str, Any]
    provenance: Provenance
    sites: list[dict[str, Any]]  # for readers of the file; load uses the graph
    graph: _Graph
    ann: _Graph
    neurons: list[_Neuron]
    channels_last: list[str]
    tensors_sha256: str = ""
    sha256: str = ""


def describe(network: SpikingNetwork, where: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return everything but the hashes as JSON values, and the tensors by their names in the file.

    Raises:
        StoreError: if :func:`rebuild` would refuse the network.
    """
    bank = _Bank(narrows=isinstance(network, IntegerNetwork))

    def graph_entry(graph: Graph, prefix: str) -> dict[str, Any]:
        nodes = [asdict(node) for node in graph.nodes]
        return {"nodes": nodes, "output": graph.output, "tensors": tensor_names(graph, prefix)}

    def tensor_names(graph: Graph, prefix: str) -> dict[str, str]:
        return {name: bank.put(f"{prefix}.{name}", t) for name, t in graph.tensors.items()}

    def neuron_entry(index: int, neuron: Neuron) -> dict[str, Any]:
        # not named_buffers(), which omits buffers that are None
        buffers = {
            name: None if value is None else bank.put(f"neurons.{index}.{name}", value)
            for name, value in neuron._buffers.items()
        }
        return {"kind": neuron.kind, "config": neuron.config(), "buffers": buffers}

    content = {
        "format": FORMAT,
        "version": VERSION,
        "timesteps": network.timesteps,
        "alignment": network.alignment.model_dump(),
        "protocol": None if network.protocol is None else network.protocol.model_dump(mode="json"),
        "recipe": network.recipe,
        "provenance": asdict(network.provenance),
        "sites": [{"name": s.name, "shape": s.shape, "neurons": s.neurons} for s in network.sites],
        "graph": graph_entry(network.graph, "graph"),
        "ann": graph_entry(network.ann, "ann"),
        "neurons": [neuron_entry(i, cast(Neuron, n)) for i, n in enumerate(network.neurons)],
        "channels_last": bank.channels_last,
    }
    if isinstance(network, IntegerNetwork):
        unrounded = tensor_names(network.unrounded, "unrounded")
        units = network.units.model_dump(mode="json")
        content["whole_numbers"] = {"units": units, "unrounded": unrounded, "dtypes": bank.dtypes}
    try:
        content = json.loads(json.dumps(content))  # exactly the values that load will read
    except (TypeError, ValueError) as cause:
        reason = f"holds a value that JSON cannot express ({first_line(cause)})"
        remedy = "keep plain values in recipe, provenance and attributes"
        raise StoreError(reason, where="network", remedy=remedy) from cause
    _validate(content, bank.tensors, f"network for {where}")
    return content, bank.tensors


class _Bank:
    """Tensors by name, each distinct one once; compared bit by bit, so that -0.0 and NaN are preserved.

    ``narrows``: whole numbers in floating-point tensors are stored as the smallest integers that hold them.
    """

    def __init__(self, narrows: bool) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.dtypes: dict[str, str] = {}
        self._narrows = narrows
        self.channels_last: list[str] = []
        self._names: dict[tuple[Any, ...], str] = {}

    def put(self, name: str, tensor: Tensor) -> str:
        """Store a tensor; return its stored name: ``name``, or that of an equal tensor."""
        plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        # A 1x1 weight fits both memory formats; its strides can select the kernel that computes with it.
        last = tensor.dim() == 4 and tensor.stride() == plain.clone(memory_format=torch.channels_last).stride()
        bits = hashlib.sha256(plain.reshape(-1).view(torch.uint8).numpy().data).digest()
        stored = self._names.setdefault((plain.dtype, plain.shape, last, bits), name)
        if stored == name:
            self.tensors[name] = _narrowed(plain) if self._narrows else plain
            if self.tensors[name].dtype != plain.dtype:
                self.dtypes[name] = str(plain.dtype).removeprefix("torch.")
            self.channels_last += [name] if last else []
        return stored


def _narrowed(values: Tensor) -> Tensor:
    """The values as the smallest integers from which the same bits come back, if there are such."""
    for dtype in (torch.int8, torch.int16, torch.int32) if values.is_floating_point() else ():
        found = values.to(dtype)
        if torch.equal(*(one.reshape(-1).view(torch.uint8) for one in (found.to(values.dtype), values))):
            return found
    return values


def digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of a document without the entry that holds it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# -- reading -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _refusing(reason: str, where: str) -> Iterator[None]:
    """Convert any error to a StoreError: the hashes are correct, so that no release has written the file."""
    try:
        yield
    except StoreError:
        raise
    except Exception as cause:
        raise StoreError(f"{reason} ({first_line(cause)})", where=where, remedy=_AGAIN) from cause


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as cause:
        remedy = f"check that the folder holds a saved network; {_AGAIN}"
        raise StoreError("is missing", where=path, remedy=remedy) from cause
    except OSError as cause:
        raise StoreError(f"cannot be read ({cause.strerror})", where=path, remedy="check its permissions") from cause


def _parse(data: bytes, where: str) -> dict[str, Any]:
    with _refusing("is truncated, damaged or not JSON", where):
        content = json.loads(data)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        remedy = "give the folder of a saved network"
        raise StoreError("is not the file of a rheobase network", where=where, remedy=remedy)
    version = content.get("version")
    check_version(version, VERSION, where)
    if content.get("sha256") != digest(content):
        raise StoreError("is altered (SHA-256 differs)", where=where, remedy=_AGAIN)
    if version != VERSION:
        raise StoreError(f"has the unknown format version {version!r}", where=where, remedy=_AGAIN)
    return content


def check_version(version: object, known: int, where: str) -> None:
    """Refuse a file of another rheobase."""
    if not isinstance(version, int) or version == known:
        return
    newer = version > known
    reason = f"has format version {version} of {'a newer' if newer else 'an older'} rheobase (this one reads {known})"
    raise StoreError(reason, where=where, remedy="upgrade rheobase" if newer else "convert and save the network again")


def rebuild(content: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> SpikingNetwork:
    """Build the network from the content and tensors that :func:`describe` returned.

    Raises:
        StoreError: if the content does not describe a spiking network.
    """
    document = _validate(content, tensors, where)
    channels_last = set(document.channels_last)
    dtypes = document.whole_numbers.dtypes if document.whole_numbers else {}

    def copy(stored: str) -> Tensor:
        # A copy is aligned by torch, and does not share memory with an equal tensor.
        memory_format = torch.channels_last if stored in channels_last else torch.contiguous_format
        found = tensors[stored]
        if stored in dtypes:
            found = found.to(getattr(torch, dtypes[stored]))
        return found.clone(memory_format=memory_format)

    @functools.cache
    def shared(_name: str, stored: str) -> Tensor:
        return copy(stored)  # one for both graphs, as after conversion

    def graph(entry: _Graph) -> Graph:
        nodes = [Node(**node.model_dump()) for node in entry.nodes]
        return Graph(nodes, entry.output, {name: shared(name, stored) for name, stored in entry.tensors.items()})

    def neuron(entry: _Neuron) -> Neuron:
        buffers = {name: None if stored is None else copy(stored) for name, stored in entry.buffers.items()}
        return NEURONS[entry.kind](**entry.config, **buffers)

    with _refusing("does not describe a valid network", where):
        spiking = graph(document.graph)
        analog = spiking if document.ann == document.graph else graph(document.ann)
        neurons = [neuron(entry) for entry in document.neurons]
        parts = spiking, analog, neurons, document.timesteps, document.recipe, document.provenance
        if (whole := document.whole_numbers) is not None:
            tensors_before = {name: shared(name, stored) for name, stored in whole.unrounded.items()}
            return IntegerNetwork(*parts, units=whole.units, unrounded=spiking.replace(tensors=tensors_before))
        return SpikingNetwork(
            *parts,
            document.alignment,
            None if document.protocol is None else PROTOCOLS[document.protocol["kind"]](**document.protocol),
        )


def _validate(content: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> _Document:
    """Check everything that does not need the values of tensors.

    Raises:
        StoreError: for the first field, node or neuron that :func:`rebuild` could not build.
    """
    try:
        document = _Document.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StoreError(f"field {place}: {first['msg']}", where=where, remedy=_AGAIN) from None
    for graph in (document.graph, document.ann):
        _check_graph(graph, tensors, where)
    protocol = document.protocol
    if protocol is not None and protocol.get("kind") not in PROTOCOLS:
        raise StoreError(f"has a protocol of the unknown kind {protocol.get('kind')!r}", where=where, remedy=_IMPORT)
    for index, entry in enumerate(document.neurons):
        if entry.kind not in NEURONS:
            known = ", ".join(NEURONS)
            reason = f"has neurons (site {index}) of the unknown kind {entry.kind!r}; known: {known}"
            raise StoreError(reason, where=where, remedy=_IMPORT)
        try:
            inspect.signature(NEURONS[entry.kind]).bind(**entry.config, **entry.buffers)
        except TypeError as error:
            reason = f"has neurons (site {index}, {entry.kind}) that cannot be built: {error}"
            remedy = "write a constructor that takes every buffer and every value of config() by name"
            raise StoreError(reason, where=where, remedy=remedy) from None
    return document


def _check_graph(graph: _Graph, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse unknown operations, wrong arguments, and inputs that are not computed before.

    Raises:
        StoreError: for the first such node.
    """
    known: set[str] = set()
    for index, node in enumerate(graph.nodes):
        if fault := _fault(node, index, known, graph, tensors):
            remedy = f"{_IMPORT}, or {_AGAIN}" if "unknown" in fault else _AGAIN
            raise StoreError(f"has a node {node.name!r} that {fault}", where=where, remedy=remedy)
        known.add(node.name)
    if graph.output not in known:
        raise StoreError(f"has the output {graph.output!r}, which is not a node", where=where, remedy=_AGAIN)


def _fault(node: _Node, index: int, known: set[str], graph: _Graph, tensors: Mapping[str, Tensor]) -> str | None:
    if node.name in known:
        return "occurs twice"
    if (node.operation == "input") != (index == 0):
        return "is the first, but not the input" if index == 0 else "is a second input"
    for name in node.inputs:
        if name not in known:
            return f"reads {name!r}, which is not computed before it"
    for name in node.parameters.values():
        if graph.tensors.get(name) not in tensors:
            return f"uses the missing tensor {name!r}"
    if node.operation == "input":
        return None
    attributes = dict(node.attributes)
    for name, value in attributes.items():
        if isinstance(value, dict) and name != "arguments":  # of a function on numbers
            return f"has a mapping as its attribute {name!r}"
    if node.operation == "site":
        kind = attributes.pop("activation", None)
        function = getattr(ACTIVATIONS.get(str(kind)), "apply", None)
        if function is None:
            return f"has the unknown activation {kind!r}; known: {', '.join(ACTIVATIONS)}"
    else:
        function = getattr(OPERATIONS.get(node.operation), "apply", None)
        if function is None:
            return f"has the unknown operation {node.operation!r}"
    try:
        inspect.signature(function).bind(*node.inputs, **attributes, **node.parameters)
    except TypeError as error:
        return f"cannot be computed ({node.operation}: {error})"
    return None


# -- writing -------------------------------------------------------------------------------------------------


def _put(target: Path, files: Mapping[str, bytes]) -> None:
    """Replace ``target`` by a folder with these files, atomically; after an error nothing is changed."""
    missing = [path for path in target.parents if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        # a folder inside, because mkdtemp's folder has mode 0700
        new, old = work / "new", work / "old"
        try:
            new.mkdir()
            for name, data in files.items():
                _write(new / name, data)
            if target.exists():
                os.rename(target, old)
            os.rename(new, target)
        except BaseException as cause:
            if old.exists() and not target.exists():
                _restore(old, target, cause)
            raise
        finally:
            # if restoring the old folder failed, ``old`` is the only copy
            if target.exists() or not old.exists():
                shutil.rmtree(work, ignore_errors=True)
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):  # another process may have written there
                path.rmdir()
        raise


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _restore(old: Path, target: Path, cause: BaseException) -> None:
    try:
        os.rename(old, target)
    except OSError:
        reason = f"could not be replaced ({first_line(cause)}), nor could the old network be restored"
        raise StoreError(reason, where=str(target), remedy=f"move the old network back from {old}") from cause
