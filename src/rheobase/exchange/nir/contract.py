"""What a NIR file holds beyond NIR nodes: metadata with everything that they cannot express.

``metadata["rheobase"]`` is a JSON document with the content of ``network.json``, the place of each tensor, and a hash.
A tensor that is bit-identical to the weight of a NIR node is read from the node, any other from
``metadata["tensors"]``. HDF5 holds numbers and text only, so a file runs no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rheobase.core.errors import StoreError
from rheobase.exchange.nir.lower import Lowering
from rheobase.exchange.store import check_version, describe, digest, rebuild
from rheobase.network.integer_network import IntegerNetwork
from rheobase.network.spiking_network import SpikingNetwork

VERSION = 2
"""Of the metadata; version 1 had another hash."""
Reset = Literal["value", "subtract"]
"""Reset of IF nodes in a file's simulator: to a value, as NIR defines it, or by subtraction of θ."""


ACTIVATIONS = {"input": "the same image at every step, dt = 1", "output": "mean over time"}
WHOLE = {
    "input": "the same pixels at every step, dt = 1: round(image / pixel + fraction) from -zero to 255 - zero, "
    "with pixel, fraction and zero of network.units, for each channel",
    "output": "sum over time; times network.units.logit and divided by T: the logits",
}
"""How to read a file, in the units of activations and in whole numbers."""


def require_nir() -> Any:
    """Import the optional package ``nir``.

    Raises:
        StoreError: if the package is not installed.
    """
    try:
        import nir
    except ImportError as cause:
        remedy = "run `pip install 'rheobase[nir]'`"
        raise StoreError(f"is not installed ({cause})", where="package nir", remedy=remedy) from cause
    return nir


def write_contract(
    network: SpikingNetwork, lowering: Lowering, declared: Mapping[str, str], losses: Sequence[Any], where: str
) -> dict[str, Any]:
    """Return the metadata of the file; ``declared``: what the file assumes of IF nodes in its simulator."""
    content, tensors = describe(network, where)
    weights = {
        _bits(getattr(node, argument)): [name, argument]
        for name, node in lowering.nodes.items()
        for argument in ("weight", "bias")
        if hasattr(node, argument)
    }
    places: dict[str, list[Any]] = {}
    separate: dict[str, Any] = {}
    for name, tensor in tensors.items():
        bits, own = _bits(tensor.numpy()), f"t{len(separate)}"
        places[name] = weights.get(bits) or [own, list(tensor.shape)]
        if bits not in weights:
            separate[own] = tensor.numpy().reshape(-1)  # flat, because HDF5 does not compress scalars
    document = {
        "version": VERSION,
        "network": content,
        "tensors": places,
        **(WHOLE if isinstance(network, IntegerNetwork) else ACTIVATIONS),
        **declared,
        "losses": [str(loss) for loss in losses],
    }
    document["sha256"] = _digest(document, tensors)
    return {"rheobase": json.dumps(document), **({"tensors": separate} if separate else {})}


def _bits(array: Any) -> str:
    """A hash of an array's dtype, shape and bits."""
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()


def _digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return digest({**document, "bits": {name: _bits(tensor.numpy()) for name, tensor in tensors.items()}})


def read_contract(graph: Any, where: str) -> SpikingNetwork | None:
    """Return the network of a file that Rheobase wrote; None for other files.

    Raises:
        StoreError: if the file was changed after writing, or is from a newer Rheobase.
    """
    metadata = getattr(graph, "metadata", None) or {}
    if "rheobase" not in metadata:
        return None
    try:
        document = json.loads(metadata["rheobase"])  # text or bytes
        check_version(document["version"], VERSION, where)
        tensors = {name: _tensor(graph, metadata, *place) for name, place in document["tensors"].items()}
        intact = document["version"] == VERSION and document["sha256"] == _digest(document, tensors)
    except StoreError:
        raise
    except Exception:  # any error means that the file was changed
        intact = False
    if not intact:
        reason = "was changed after Rheobase wrote it (SHA-256 differs)"
        raise StoreError(reason, where=where, remedy="export the network again, or copy the original file again")
    return rebuild(document["network"], tensors, where)


def _tensor(graph: Any, metadata: Mapping[str, Any], name: str, rest: str | list[int]) -> Tensor:
    if isinstance(rest, str):
        return torch.from_numpy(np.array(getattr(graph.nodes[name], rest)))
    return torch.from_numpy(np.array(metadata["tensors"][name])).reshape(rest)
