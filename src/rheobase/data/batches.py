"""Batches of images and labels, and their checks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from operator import length_hint
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheobase.core.errors import DataError

Batches = Tensor | tuple[Tensor, Tensor] | Mapping[str, Any] | Iterable[Any]
"""One batch, or an iterable of batches. A batch is what loaders yield: images [B, ...], a tuple or list (images,
labels [B, ...], ...), or a dictionary with named fields, such as ``image`` and ``label``."""
Batch = tuple[Tensor, Any]
"""Images [B, ...], and labels [B, ...] or None; for a loss of one's own also a dict of labels."""

IMAGE_FIELDS = ("image", "images", "pixel_values", "img", "x", "input", "inputs", "data")
LABEL_FIELDS = ("label", "labels", "y", "target", "targets")
"""Names of the fields of a batch that is a dictionary, in any case."""
_CHECKED_AT_ONCE = 1000


def batches(
    data: Batches, *, where: str, batch_size: int = 100, fields: bool = False, labels: bool = True
) -> Iterator[Batch]:
    """Iterate over (images, labels or None) in the order given, without empty batches.

    ``fields``: labels may be a dict of tensors; not ``labels``: any are ignored.

    Raises:
        DataError: if the data is empty, or an item is not a batch.
    """
    whole = tensors(data, where)
    if whole is not None:
        images, given = whole
        parts = repeat(None) if given is None else given.split(batch_size)
        yield from zip(images.split(batch_size), parts, strict=False)
        return
    if not isinstance(data, Iterable):
        raise DataError.typed(
            f"is a {type(data).__name__}", where=where, remedy="pass a tensor, a pair (images, labels), or a loader"
        )
    empty = True
    with reading_files(where):
        parts = (as_batch(batch, where, fields) for batch in data)
        for images, given in alike(((x, y if labels else None) for x, y in parts if len(x)), where):
            empty = False
            yield images, given
    if empty:
        raise DataError("is empty", where=where, remedy="give at least one image")


@contextmanager
def reading_files(where: str) -> Iterator[None]:
    """Turn the failure of a data set to read a file into a DataError that names the data.

    A worker process of a loader sends its whole traceback as the message; its last line is the error.
    """
    try:
        yield
    except OSError as cause:
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[-1]
        raise DataError(f"cannot be read ({reason})", where=where, remedy="repair or remove the file") from cause


def as_batch(batch: Any, where: str, fields: bool = False) -> Batch:
    """Images, and labels if there are any, of one batch; refuse other types, and another number of labels.

    Example:
        >>> images, labels = as_batch({"image": torch.zeros(2, 1, 4, 4), "label": [0, 1]}, "batch")
        >>> labels.tolist()
        [0, 1]
    """
    if isinstance(batch, Mapping):
        batch = _fields(batch, where)
    images, *labels = batch if isinstance(batch, tuple | list) and batch else [batch]
    if isinstance(images, np.ndarray) and images.dtype.kind in "biufc":
        images = torch.as_tensor(images)
    if not isinstance(images, Tensor):
        remedy = "make each batch a tensor or (images, labels), with all images of one shape"
        raise DataError(f"yields {type(images).__name__} in place of an image tensor", where=where, remedy=remedy)
    if images.is_meta or images.layout != torch.strided:
        raise DataError("has images without dense values", where=where, remedy="give dense tensors")
    if images.dim() < 2 and images.shape != (0,):
        raise DataError(f"has images of shape {list(images.shape)}", where=where, remedy="give images [B, ...]")
    if not labels or labels[0] is None:
        return images, None
    if isinstance(labels[0], Mapping):
        return images, _with_fields(images, labels[0], where, fields)
    try:
        given = torch.as_tensor(labels[0])
    except (TypeError, ValueError, RuntimeError) as error:
        reason = f"has labels that are not numbers ({type(labels[0]).__name__}: {error})"
        raise DataError(reason, where=where, remedy="give one class index for each image") from None
    if given.is_complex():
        raise DataError(f"has labels of type {given.dtype}", where=where, remedy="give whole or real numbers")
    if given.dtype in (torch.uint16, torch.uint32, torch.uint64):  # for which PyTorch has few functions
        given = given.long()
    check_as_many(images, given, where)
    return images, given


def _fields(batch: Mapping[Any, Any], where: str) -> list[Any]:
    """Images, and labels if there are any, of a batch with named fields."""
    named = {str(name).lower(): value for name, value in batch.items()}
    found = [[name for name in fields if name in named] for fields in (IMAGE_FIELDS, LABEL_FIELDS)]
    for names, what, fields in zip(found, ("images", "labels"), (IMAGE_FIELDS, LABEL_FIELDS), strict=True):
        if len(names) > 1 or (not names and what == "images"):
            reason = f"has {'the fields ' + ' and '.join(names) if names else 'no field'} for {what}"
            reason += f" (fields: {', '.join(map(str, batch))})"
            remedy = f"yield (images, labels), or name one field {', '.join(fields)}"
            raise DataError(reason, where=where, remedy=remedy)
    return [named[name] for names in found for name in names]


def is_one_batch(data: object) -> bool:
    """True for one batch, such as ``next(iter(loader))``; False for an iterable of batches.

    A tuple of two tensors is (images, labels). A list [images, targets] is told from two batches of images by the
    targets: they are whole numbers, have fewer axes or have another number of channels.
    """
    if isinstance(data, Tensor | np.ndarray | Mapping):
        return True
    if not isinstance(data, tuple | list) or len(data) < 2 or not isinstance(data[0], Tensor | np.ndarray):
        return False
    images, targets = data[:2]
    if isinstance(targets, tuple | list | Mapping):
        return not any(isinstance(part, Tensor | np.ndarray) for part in targets)
    if not isinstance(targets, Tensor | np.ndarray) or (isinstance(data, tuple) and len(data) == 2):
        return True
    targets = torch.as_tensor(targets)
    if images.shape[:1] != targets.shape[:1]:
        return targets.ndim < images.ndim
    return not targets.is_floating_point() or targets.ndim < images.ndim or images.shape[1] != targets.shape[1]


def _with_fields(images: Tensor, labels: Mapping[str, Any], where: str, fields: bool) -> dict[str, Tensor]:
    """A dict of labels, of which each tensor has one entry for each image."""
    if not fields:
        reason = f"has labels with the fields {', '.join(map(str, labels))}, which only a loss of your own can take"
        raise DataError(reason, where=where, remedy="give one tensor of labels, or rb.train(loss=...)")
    for name, value in labels.items():
        if not isinstance(value, Tensor):
            remedy = "collate the labels of a batch to tensors"
            raise DataError(f"has {type(value).__name__} as labels {name!r}", where=where, remedy=remedy)
        check_as_many(images, value, where)
    return dict(labels)


def each(labels: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to labels, or to each field of a dict of labels; None stays."""
    if isinstance(labels, Mapping):
        return {name: function(value) for name, value in labels.items()}
    return None if labels is None else function(labels)


def tensors(data: object, where: str, fields: bool = False) -> Batch | None:
    """Images and labels (or None), if the data are one batch and not empty; None for an iterable of batches."""
    if not is_one_batch(data):
        return None
    images, labels = as_batch(data, where, fields)
    if len(images) == 0:
        raise DataError("is empty", where=where, remedy="give at least one image")
    return images, labels


def count(data: Batches, batch_size: int = 100) -> int | None:
    """Number of batches, or None if the data has no length."""
    images = as_batch(data, "data", fields=True)[0] if is_one_batch(data) else data
    return -(-len(images) // batch_size) if isinstance(images, Tensor) else length_hint(data) or None


class Digest:
    """SHA-256 over the values of tensors, independent of the batch size."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def update(self, **tensors: Any) -> Digest:
        """Add one batch, and return the digest; each keyword, and field of a dict, is a separate stream of values."""
        for name, tensor in tensors.items():
            if isinstance(tensor, Mapping):
                self.update(**{f"{name}.{field}": value for field, value in tensor.items()})
            elif tensor is not None:
                data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                self._hashes.setdefault(name, hashlib.sha256()).update(data.data)
        return self

    def hexdigest(self) -> str:
        """The hash of all streams."""
        total = hashlib.sha256()
        for name in sorted(self._hashes):
            total.update(name.encode() + self._hashes[name].digest())
        return total.hexdigest()


def alike(parts: Iterable[Batch], where: str) -> Iterator[Batch]:
    """Yield the batches; refuse images of different shapes, and labels for some batches only."""
    shape = labelled = None
    for images, labels in parts:
        if shape is None:
            shape, labelled = images.shape[1:], labels is not None
        if images.shape[1:] != shape:
            problem = f"mixes shapes {list(shape)} and {list(images.shape[1:])}"
            raise DataError(problem, where=where, remedy="resize or crop all images to one shape")
        if (labels is not None) != labelled:
            raise DataError("has labels for some batches only", where=where, remedy="give each image one label")
        yield images, labels


def check_as_many(images: Any, labels: Any, where: str) -> None:
    """Refuse images [N, ...] if the number of labels is not N."""
    if labels.shape[:1] != images.shape[:1]:
        reason = f"has {len(images)} images but {len(labels) if labels.ndim else 'no'} labels"
        raise DataError(reason, where=where, remedy="give each image one label")


def check_images(images: Tensor, where: str, numbers: Sequence[int] | None = None) -> None:
    """Refuse images [N, ...] that are not finite floating-point numbers; ``numbers`` are their indices in the data."""
    if not images.is_floating_point():
        raise DataError(f"holds {images.dtype} values", where=where, remedy="convert to float and normalise")
    for start, part in enumerate(images.split(_CHECKED_AT_ONCE)):
        if not bool(torch.isfinite(part).all()):
            first = int((~torch.isfinite(part)).flatten(1).any(1).nonzero()[0]) + start * _CHECKED_AT_ONCE
            reason = f"image {first if numbers is None else numbers[first]} holds NaN or infinite values"
            raise DataError(reason, where=where, remedy="repair or remove the image")
