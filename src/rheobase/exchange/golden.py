"""Golden vectors: the spikes of every site for some images, with which a chip or another simulator is checked.

One safetensors file of whole numbers, readable without Rheobase:

- ``pixels`` [B, ...], int16: the input of the first layers at every step, which is the pixel less ``units.zero``;
- ``spikes.SITE`` [T, B, C, ...], int8 (int16 for alphabets beyond 127): the spikes of every neuron at every step;
- ``logits`` [B, ...], int64: the readout summed over the steps;
- in the metadata, under ``rheobase``, a JSON document: T, sites in the order of execution with their tensors, shapes
  and alphabets, units, recipe, provenance with the seed of the conversion, versions, and a hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rheobase.core.errors import DataError, RecipeError, StoreError, first_line
from rheobase.core.folders import as_path, whole_file
from rheobase.core.versions import versions
from rheobase.exchange.store import check_version, digest
from rheobase.network.integer_network import IntegerNetwork, Units
from rheobase.network.spiking_network import SpikingNetwork, check_converted
from rheobase.signals.signal import along_channels

FORMAT = "rheobase-golden-vectors"
VERSION = 1
_AXES = {
    "pixels": "[images, ...]: the input at every step, the pixel less units.zero",
    "spikes": "[timesteps, images, channels, ...]: spikes of each neuron at each step",
    "logits": "[images, ...]: summed over the steps; times units.logit and divided by timesteps: the logits",
}


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """The content of a file of golden vectors.

    Attributes:
        timesteps: T.
        pixels: the input of the first layers, [B, ...], int16.
        spikes: by site in the order of execution, [T, B, C, ...].
        logits: summed over the steps, [B, ...], int64.
        units: what the whole numbers stand for, and the target.
        document: the JSON document of the file.
    """

    timesteps: int
    pixels: Tensor
    spikes: dict[str, Tensor]
    logits: Tensor
    units: Units
    document: dict[str, Any]

    @property
    def images(self) -> Tensor:
        """Pixels from 0 to 255, uint8, which the network takes as images."""
        return (self.pixels + along_channels(torch.tensor(self.units.zero), self.pixels.dim())).to(torch.uint8)

    def check(self, spikes: Mapping[str, Any], logits: Any = None) -> None:
        """Compare the spikes of a chip or simulator with the file.

        Args:
            spikes: by site, [T, B, C, ...], tensors or arrays; all sites or some.
            logits: summed over the steps, [B, ...]; None: not compared.

        Raises:
            DataError: for the first difference, by site in the order of execution, step, image and neuron; for unknown
                sites and other shapes.
        """
        if unknown := set(spikes) - set(self.spikes):
            reason = f"has the site {min(unknown)!r}, which the file does not have"
            raise DataError(reason, where="spikes", remedy=f"use the names of the file: {', '.join(self.spikes)}")
        if not spikes and logits is None:
            raise DataError("is empty", where="spikes", remedy="give the spikes of at least one site")
        for site, expected in self.spikes.items():
            if site in spikes:
                _compare(spikes[site], expected, f"spikes of {site}", ("step", "image"), "neuron")
        if logits is not None:
            _compare(logits, self.logits, "logits", ("image",), "output")


def _compare(given: Any, expected: Tensor, where: str, axes: tuple[str, ...], last: str) -> None:
    """Refuse the first value that differs; ``axes``: names of the first axes, ``last``: of the others together."""
    try:
        found = torch.as_tensor(given)
    except Exception as cause:  # numpy and torch raise errors of any kind
        reason = f"is a {type(given).__name__}, not a tensor or array ({first_line(cause)})"
        raise DataError.typed(reason, where=where, remedy="give a tensor or an array of numbers") from cause
    found = found.cpu()
    if found.shape != expected.shape:
        reason = f"has shape {list(found.shape)}, the file {list(expected.shape)}"
        raise DataError(reason, where=where, remedy=f"give all values in the order [{', '.join(axes)}, {last}...]")
    different = (found != expected).nonzero()
    if not len(different):
        return
    index = tuple(different[0].tolist())
    place = ", ".join(f"{name} {i}" for name, i in zip(axes, index, strict=False))
    reason = (
        f"is {found[index].item():g} at {place}, {last} {list(index[len(axes) :])}, and {int(expected[index])} in the "
        f"file; {len(different)} of {expected.numel()} values differ (counted from 0)"
    )
    remedy = "compare the weights, the bias, the threshold and the initial potential of this layer, and its input"
    raise DataError(reason, where=where, remedy=remedy)


def write_golden_vectors(network: SpikingNetwork, images: Tensor, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the spikes of every site for some images, for a check on a chip or in another simulator.

    Args:
        network: of :func:`rheobase.integers`.
        images: [B, ...], values as in training, or pixels (uint8); a few suffice.
        path: file to write, such as ``golden.safetensors``.
        overwrite: replace an existing file.

    Raises:
        RecipeError: if the network is not on whole numbers.
        DataError: if there is no image, or the images do not fit the network.
        StoreError: if the file exists or cannot be written.

    Example:
        >>> rb.exchange.write_golden_vectors(whole, images[:10], "golden.safetensors")  # doctest: +SKIP
        PosixPath('golden.safetensors')
    """
    check_converted(network)
    if not isinstance(network, IntegerNetwork):
        reason = "is not on whole numbers, so that its spikes depend on rounding"
        remedy = "make it with rb.integers (rheobase export --to integers) first"
        raise RecipeError(reason, where="network", remedy=remedy)
    path = as_path(path)
    if path.exists() and not overwrite:
        raise StoreError("already exists", where=str(path), remedy="choose another name, or pass overwrite=True")
    images = network.check_images(images)
    if not len(images):
        raise DataError("are none", where="images", remedy="give at least one image")
    spikes, logits = network.record(images)
    tensors = {f"spikes.{site}": train.contiguous() for site, train in spikes.items()}
    tensors |= {"pixels": network.pixels(images).to(torch.int16).cpu().contiguous(), "logits": logits.contiguous()}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "timesteps": network.timesteps,
        "axes": _AXES,
        "sites": [
            {
                "name": site.name,
                "tensor": f"spikes.{site.name}",
                "shape": list(site.shape),
                "alphabet": list(network.neuron(site.name).alphabet.values),
            }
            for site in network.sites
        ],
        "units": network.units.model_dump(mode="json"),
        "recipe": network.recipe,
        "provenance": asdict(network.provenance),
        "versions": versions(),
    }
    document = json.loads(json.dumps(document))
    document["sha256"] = _digest(document, tensors)
    with whole_file(path) as draft:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, draft, {"rheobase": json.dumps(document)})
    return path


def read_golden_vectors(path: str | Path) -> GoldenVectors:
    """Read a file that :func:`write_golden_vectors` wrote.

    Raises:
        StoreError: if the file is missing, truncated or altered, or was written by another version of the format.

    Example:
        >>> golden = rb.exchange.read_golden_vectors("golden.safetensors")  # doctest: +SKIP
        >>> golden.check({"layer1.relu": spikes_of_the_chip})  # doctest: +SKIP
    """
    path = as_path(path)
    where = str(path)
    if not path.is_file():
        raise StoreError("is not a file", where=where, remedy="check the path")
    remedy = "copy the original file again, or write it again"
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        document = json.loads(metadata.get("rheobase", "{}"))
        known = document.get("format") == FORMAT
    except Exception as cause:  # safetensors and JSON raise errors of many kinds
        reason = f"is truncated, damaged or not a safetensors file ({first_line(cause)})"
        raise StoreError(reason, where=where, remedy=remedy) from cause
    if not known:
        other = "give a file of rb.exchange.write_golden_vectors"
        raise StoreError("holds no golden vectors", where=where, remedy=other)
    check_version(document.get("version"), VERSION, where)
    if document.get("sha256") != _digest(document, tensors):
        raise StoreError("is altered (SHA-256 differs)", where=where, remedy=remedy)
    spikes = {site["name"]: tensors[site["tensor"]] for site in document["sites"]}
    units = Units.model_validate(document["units"])
    return GoldenVectors(document["timesteps"], tensors["pixels"], spikes, tensors["logits"], units, document)


def _digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    content = {
        name: hashlib.sha256(f"{t.dtype} {list(t.shape)}".encode() + t.numpy().tobytes()).hexdigest()
        for name, t in sorted(tensors.items())
    }
    return digest({**document, "tensors": content})
