"""What NIR cannot say, in the metadata of a file that Rheobase wrote.

``metadata["rheobase"]`` is a JSON document: what ``network.json`` of a saved network holds, where each tensor lies, and
a hash. A tensor that is, bit for bit, the weight of a NIR node is read from there; any other is in
``metadata["tensors"]``. HDF5 holds numbers and text only, so a file runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheobase.core.errors import StoreError
from rheobase.exchange.nir.lower import Lowering
from rheobase.exchange.store import describe, rebuild
from rheobase.network.spiking_network import SpikingNetwork

VERSION = 1
_AGAIN = "export the network again, or copy the file again from where it was made"


def write_contract(
    network: SpikingNetwork, lowering: Lowering, reset: str, losses: Sequence[Any], where: str
) -> dict[str, Any]:
    """The metadata for a graph's nodes."""
    content, tensors = describe(network, where)
    held: dict[str, list[Any]] = {}
    apart: dict[str, Any] = {}
    wanted = _names_of_weights(network, content["graph"]["tensors"], lowering)
    for name, tensor in tensors.items():
        place = wanted.get(name)
        if place is not None and _same_bits(getattr(lowering.nodes[place[0]], place[1]), tensor.numpy()):
            held[name] = list(place)
        else:
            held[name] = [f"t{len(apart)}", list(tensor.shape)]  # HDF5 does not compress scalars: flat
            apart[f"t{len(apart)}"] = tensor.numpy().reshape(-1)
    document = {
        "version": VERSION,
        "network": content,
        "tensors": held,
        "input": "the same image at every step, dt = 1",
        "output": "mean over time",
        "reset": reset,
        "losses": [str(loss) for loss in losses],
    }
    document["sha256"] = _digest(document, tensors)
    return {"rheobase": json.dumps(document), **({"tensors": apart} if apart else {})}


def _names_of_weights(
    network: SpikingNetwork, stored: Mapping[str, str], lowering: Lowering
) -> dict[str, tuple[str, str]]:
    """Name of a stored tensor -> (NIR node, field) that may hold it."""
    places: dict[str, tuple[str, str]] = {}
    for node in network.graph.nodes:
        for argument in ("weight", "bias"):
            if argument in node.parameters and node.name in lowering.names:
                places.setdefault(stored[node.parameters[argument]], (lowering.names[node.name], argument))
    return places


def _same_bits(array: Any, other: Any) -> bool:
    same = array.dtype == other.dtype and array.shape == other.shape
    return same and array.tobytes() == np.ascontiguousarray(other).tobytes()


def _digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    found = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        array = tensors[name].detach().cpu().contiguous().numpy()
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def read_contract(graph: Any, where: str) -> SpikingNetwork | None:
    """The network that a file of ours describes; None for other files.

    Raises:
        StoreError: if the file was changed since, or is from a newer Rheobase.
    """
    metadata = getattr(graph, "metadata", None) or {}
    if "rheobase" not in metadata:
        return None
    try:
        text = metadata["rheobase"]
        document = json.loads(text.decode() if isinstance(text, bytes) else text)
        version = document["version"]
        if isinstance(version, int) and version > VERSION:
            raise StoreError(
                f"has metadata of version {version}, made by a newer rheobase (this one reads {VERSION})",
                where=where,
                remedy="upgrade rheobase",
            )
        tensors = {name: _tensor(graph, metadata, place) for name, place in document["tensors"].items()}
        intact = version == VERSION and document["sha256"] == _digest(document, tensors)
    except StoreError:
        raise
    except Exception:  # whatever is wrong with it, it is not what was written
        intact = False
    if not intact:
        raise StoreError("was changed after Rheobase wrote it (SHA-256 differs)", where=where, remedy=_AGAIN)
    return rebuild(document["network"], tensors, where)


def _tensor(graph: Any, metadata: Mapping[str, Any], place: Sequence[Any]) -> Tensor:
    name, rest = place
    if isinstance(rest, str):
        return torch.from_numpy(np.array(getattr(graph.nodes[name], rest)))
    return torch.from_numpy(np.array(metadata["tensors"][name])).reshape(rest)
