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
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from rheobase.activations import ACTIVATIONS
from rheobase.core.errors import StoreError
from rheobase.core.paths import as_path
from rheobase.graph.graph import Graph
from rheobase.graph.node import Node
from rheobase.graph.operations import OPERATIONS
from rheobase.network.protocol import PROTOCOLS
from rheobase.network.spiking_network import Provenance, SpikingNetwork
from rheobase.neurons import NEURONS, Neuron
from rheobase.signals.alignment import Alignment

FORMAT = "rheobase-network"
VERSION = 1
STRUCTURE_FILE = "network.json"
TENSORS_FILE = "tensors.safetensors"

_Scalar = bool | int | float | str | None
_AGAIN = "copy the original folder again, or save the network again"
_IMPORT = "import the module that registers it (rb.register), or upgrade rheobase"


def save(network: SpikingNetwork, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write a spiking network to a folder, atomically.

    Args:
        network: a converted network, on any device.
        folder: folder to create, with its parents; must not exist unless ``overwrite``.
        overwrite: replace a saved network or an empty folder; a folder with other files is never replaced.

    Returns:
        The folder.

    Raises:
        StoreError: if the folder exists or cannot be written (no permission, no space), or :func:`load` would refuse
            the network. An existing folder is then unchanged.

    Example:
        >>> rb.save(snn, "out/resnet20")  # doctest: +SKIP
        PosixPath('out/resnet20')
    """
    folder = as_path(folder, "folder")
    content, tensors = describe(network, str(folder))
    blob = safetensors.torch.save(tensors)
    content["tensors_sha256"] = hashlib.sha256(blob).hexdigest()
    content["sha256"] = _digest(content)
    text = json.dumps(content, indent=1).encode()
    try:
        target = folder.resolve()  # a link is kept; its target is replaced
        _refuse_existing(target, overwrite, str(folder))
        _put(target, {TENSORS_FILE: blob, STRUCTURE_FILE: text})
    except OSError as cause:
        raise StoreError(
            f"cannot be written ({cause.strerror or cause})",
            where=str(folder),
            remedy="free space, change the permissions, or choose another folder",
        ) from cause
    return folder


def load(folder: str | Path) -> SpikingNetwork:
    """Read a network that :func:`save` wrote; the class of the original network is not needed.

    The logits are bit-identical to those before saving, on the same machine and versions. No code in the files is run.

    Args:
        folder: folder of the saved network.

    Returns:
        The network, on the CPU.

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
    where = str(folder / STRUCTURE_FILE)
    content = _parse(_read(folder / STRUCTURE_FILE), where)
    blob = _read(folder / TENSORS_FILE)
    if hashlib.sha256(blob).hexdigest() != content.get("tensors_sha256"):
        raise StoreError("is truncated or altered (SHA-256 differs)", where=str(folder / TENSORS_FILE), remedy=_AGAIN)
    try:
        tensors = safetensors.torch.load(blob)
    except Exception as cause:  # the hash is correct, so that no release has written this file
        raise StoreError(
            f"holds no tensors of a network ({_first_line(cause)})", where=str(folder / TENSORS_FILE), remedy=_AGAIN
        ) from cause
    return rebuild(content, tensors, where)


def rebuild(content: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> SpikingNetwork:
    """Build the network from the content and tensors that :func:`describe` returned.

    Raises:
        StoreError: if the content does not describe a spiking network.
    """
    document = _validate(content, where)
    try:
        return _rebuild(document, tensors, where)
    except StoreError:
        raise
    except Exception as cause:  # the hashes are correct, so that no release has written this file
        raise StoreError(
            f"does not describe a valid network ({_first_line(cause)})", where=where, remedy=_AGAIN
        ) from cause


# -- the document --------------------------------------------------------------------------------------------


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Node(_Entry):
    name: str
    operation: str
    inputs: tuple[str, ...]
    attributes: dict[str, _Scalar | list[_Scalar]]
    parameters: dict[str, str]
    shape: tuple[int, ...]
    origin: str


class _Graph(_Entry):
    nodes: tuple[_Node, ...] = Field(min_length=1)
    output: str
    tensors: dict[str, str]  # name in the graph -> name in the file


class _Neuron(_Entry):
    kind: str
    config: dict[str, Any]
    buffers: dict[str, str | None]  # name of the buffer -> name in the file


class _Document(_Entry):
    format: str
    version: int
    timesteps: int = Field(ge=1)
    alignment: Alignment = Alignment()
    protocol: dict[str, Any] | None = None
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
    bank = _Bank()

    def graph_entry(graph: Graph, prefix: str) -> dict[str, Any]:
        return {
            "nodes": [asdict(node) for node in graph.nodes],
            "output": graph.output,
            "tensors": {name: bank.put(f"{prefix}.{name}", t) for name, t in graph.tensors.items()},
        }

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
    try:
        content = json.loads(json.dumps(content))  # exactly the values that load will read
    except (TypeError, ValueError) as cause:
        raise StoreError(
            f"holds a value that JSON cannot express ({_first_line(cause)})",
            where="network",
            remedy="keep plain values in recipe, provenance and attributes",
        ) from cause
    document = _validate(content, f"network for {where}")
    for graph in (document.graph, document.ann):
        _check_graph(graph, bank.tensors, f"network for {where}")
    _check_kinds(document, f"network for {where}")
    return content, bank.tensors


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.channels_last)


class _Bank:
    """Tensors by name, each distinct one once; compared bit by bit, so that -0.0 and NaN are preserved."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.channels_last: list[str] = []
        self._names: dict[tuple[Any, ...], str] = {}

    def put(self, name: str, tensor: Tensor) -> str:
        """Store a tensor; return its stored name: ``name``, or that of an equal tensor."""
        plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        # A 1x1 weight fits both memory formats; its strides can select the kernel that computes with it.
        last = tensor.dim() == 4 and tensor.stride() == _channels_last(plain).stride()
        bits = hashlib.sha256(plain.reshape(-1).view(torch.uint8).numpy().data).digest()
        stored = self._names.setdefault((plain.dtype, plain.shape, last, bits), name)
        if stored == name:
            self.tensors[name] = plain
            if last:
                self.channels_last.append(name)
        return stored


def _digest(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# -- reading -------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as cause:
        raise StoreError(
            "is missing", where=str(path), remedy="check that the folder holds a saved network; " + _AGAIN
        ) from cause
    except OSError as cause:
        raise StoreError(
            f"cannot be read ({cause.strerror or cause})", where=str(path), remedy="check its permissions"
        ) from cause


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise StoreError(
            f"is truncated, damaged or not JSON ({_first_line(cause)})", where=where, remedy=_AGAIN
        ) from cause
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(
            "is not the file of a rheobase network", where=where, remedy="give the folder of a saved network"
        )
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise StoreError(
            f"has format version {version} of a newer rheobase (this one reads {VERSION})",
            where=where,
            remedy="upgrade rheobase",
        )
    if content.get("sha256") != _digest(content):
        raise StoreError("is altered (SHA-256 differs)", where=where, remedy=_AGAIN)
    if version != VERSION:
        raise StoreError(f"has the unknown format version {version!r}", where=where, remedy=_AGAIN)
    return content


def _validate(content: Mapping[str, Any], where: str) -> _Document:
    try:
        return _Document.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StoreError(f"field {place}: {first['msg']}", where=where, remedy=_AGAIN) from None


def _rebuild(document: _Document, tensors: Mapping[str, Tensor], where: str) -> SpikingNetwork:
    def copy(stored: str) -> Tensor:
        # A copy is aligned by torch, and does not share memory with an equal tensor.
        return _channels_last(tensors[stored]) if stored in channels_last else tensors[stored].clone()

    @functools.cache
    def shared(_name: str, stored: str) -> Tensor:
        return copy(stored)  # one for both graphs, as after conversion

    def graph(entry: _Graph) -> Graph:
        _check_graph(entry, tensors, where)
        nodes = [Node(**node.model_dump()) for node in entry.nodes]
        return Graph(nodes, entry.output, {name: shared(name, stored) for name, stored in entry.tensors.items()})

    def neuron(entry: _Neuron) -> Neuron:
        buffers = {name: None if stored is None else copy(stored) for name, stored in entry.buffers.items()}
        return NEURONS[entry.kind](**entry.config, **buffers)

    _check_kinds(document, where)
    channels_last = set(document.channels_last)
    spiking = graph(document.graph)
    ann = spiking if document.ann == document.graph else graph(document.ann)
    neurons = [neuron(entry) for entry in document.neurons]
    protocol = document.protocol
    return SpikingNetwork(
        spiking,
        ann,
        neurons,
        document.timesteps,
        document.recipe,
        document.provenance,
        document.alignment,
        None if protocol is None else PROTOCOLS[protocol["kind"]](**protocol),
    )


def _check_kinds(document: _Document, where: str) -> None:
    protocol = document.protocol
    if protocol is not None and protocol.get("kind") not in PROTOCOLS:
        raise StoreError(f"has a protocol of the unknown kind {protocol.get('kind')!r}", where=where, remedy=_IMPORT)
    for index, entry in enumerate(document.neurons):
        if entry.kind not in NEURONS:
            raise StoreError(
                f"has neurons (site {index}) of the unknown kind {entry.kind!r}; known: {', '.join(NEURONS)}",
                where=where,
                remedy=_IMPORT,
            )
        try:
            inspect.signature(NEURONS[entry.kind]).bind(**entry.config, **entry.buffers)
        except TypeError as error:
            raise StoreError(
                f"has neurons (site {index}, {entry.kind}) that cannot be built: {error}",
                where=where,
                remedy="write a constructor that takes every buffer and every value of config() by name",
            ) from None


def _check_graph(graph: _Graph, tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse unknown operations, wrong arguments, and inputs that are not computed before.

    Raises:
        StoreError: for the first such node.
    """
    known: set[str] = set()
    for index, node in enumerate(graph.nodes):
        reason = _fault(node, index, known, graph, tensors)
        if reason:
            remedy = _AGAIN if "unknown operation" not in reason else f"{_IMPORT}, or {_AGAIN}"
            raise StoreError(f"has a node {node.name!r} that {reason}", where=where, remedy=remedy)
        known.add(node.name)
    if graph.output not in known:
        raise StoreError(f"has the output {graph.output!r}, which is not a node", where=where, remedy=_AGAIN)


def _fault(node: _Node, index: int, known: set[str], graph: _Graph, tensors: Mapping[str, Tensor]) -> str | None:
    if node.name in known:
        return "occurs twice"
    if (node.operation == "input") != (index == 0):
        return "is the first, but not the input" if index == 0 else "is a second input"
    attributes = dict(node.attributes)
    if node.operation == "site":
        kind = attributes.pop("activation", None)
        function = getattr(ACTIVATIONS.get(str(kind)), "apply", None)
        if function is None:
            return f"has the unknown activation {kind!r}; known: {', '.join(ACTIVATIONS)}"
    else:
        function = getattr(OPERATIONS.get(node.operation), "apply", None)
        if function is None and node.operation != "input":
            return f"has the unknown operation {node.operation!r}"
    if min(node.shape, default=1) < 0:
        return f"has the shape {list(node.shape)}"
    for name in node.inputs:
        if name not in known:
            return f"reads {name!r}, which is not computed before it"
    for name in node.parameters.values():
        if graph.tensors.get(name) not in tensors:
            return f"uses the missing tensor {name!r}"
    if function is not None:
        try:
            inspect.signature(function).bind(*node.inputs, **attributes, **node.parameters)
        except TypeError as error:
            return f"cannot be computed ({node.operation}: {error})"
    return None


# -- writing -------------------------------------------------------------------------------------------------


def _refuse_existing(target: Path, overwrite: bool, where: str) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise StoreError("already exists", where=where, remedy="choose another folder, or pass overwrite=True")
    if not target.is_dir():
        raise StoreError("is a file, not a folder", where=where, remedy="choose another folder")
    names = sorted(path.name for path in target.iterdir())
    foreign = [name for name in names if name not in (STRUCTURE_FILE, TENSORS_FILE)]
    if names and (foreign or STRUCTURE_FILE not in names):
        raise StoreError(
            f"is not replaced, because it holds other files ({', '.join((foreign or names)[:5])})",
            where=where,
            remedy="choose another folder, or empty this one",
        )


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
            _sync(new)
            _swap(new, target, old)
            _sync(target.parent)
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


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap(new: Path, target: Path, old: Path) -> None:
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(new, target)
    except BaseException as cause:
        if old.exists() and not target.exists():
            try:
                os.rename(old, target)
            except OSError:
                raise StoreError(
                    f"could not be replaced ({_first_line(cause)}), nor could the old network be restored",
                    where=str(target),
                    remedy=f"move the old network back from {old}",
                ) from cause
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
