"""Metadata of a NIR file with everything that NIR nodes cannot express.

``metadata["rheobase"]`` is a JSON document with the content of ``network.json``, the place of each tensor, and a hash.
A tensor that is bit-identical to the weight of a NIR node is read from the node, any other from
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
_AGAIN = "export the network again, or copy the original file again"


def write_contract(
    network: SpikingNetwork, lowering: Lowering, reset: str, losses: Sequence[Any], where: str
) -> dict[str, Any]:
    """Return the metadata of the file."""
    content, tensors = describe(network, where)
    places: dict[str, list[Any]] = {}
    separate: dict[str, Any] = {}
    candidates = _names_of_weights(network, content["graph"]["tensors"], lowering)
    for name, tensor in tensors.items():
        place = candidates.get(name)
        if place is not None and _same_bits(getattr(lowering.nodes[place[0]], place[1]), tensor.numpy()):
            places[name] = list(place)
        else:
            places[name] = [f"t{len(separate)}", list(tensor.shape)]  # flat, because HDF5 does not compress scalars
            separate[f"t{len(separate)}"] = tensor.numpy().reshape(-1)
    document = {
        "version": VERSION,
        "network": content,
        "tensors": places,
        "input": "the same image at every step, dt = 1",
        "output": "mean over time",
        "reset": reset,
        "losses": [str(loss) for loss in losses],
    }
    document["sha256"] = _digest(document, tensors)
    return {"rheobase": json.dumps(document), **({"tensors": separate} if separate else {})}


def _names_of_weights(
    network: SpikingNetwork, stored: Mapping[str, str], lowering: Lowering
) -> dict[str, tuple[str, str]]:
    """Map the name of a stored tensor to the (NIR node, field) that may hold it."""
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
    """Return the network of a file that Rheobase wrote; None for other files.

    Raises:
        StoreError: if the file was changed after writing, or is from a newer Rheobase.
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
                f"has metadata of version {version} of a newer rheobase (this one reads {VERSION})",
                where=where,
                remedy="upgrade rheobase",
            )
        tensors = {name: _tensor(graph, metadata, place) for name, place in document["tensors"].items()}
        intact = version == VERSION and document["sha256"] == _digest(document, tensors)
    except StoreError:
        raise
    except Exception:  # any error means that the file was changed
        intact = False
    if not intact:
        raise StoreError("was changed after Rheobase wrote it (SHA-256 differs)", where=where, remedy=_AGAIN)
    return rebuild(document["network"], tensors, where)


def _tensor(graph: Any, metadata: Mapping[str, Any], place: Sequence[Any]) -> Tensor:
    name, rest = place
    if isinstance(rest, str):
        return torch.from_numpy(np.array(getattr(graph.nodes[name], rest)))
    return torch.from_numpy(np.array(metadata["tensors"][name])).reshape(rest)
