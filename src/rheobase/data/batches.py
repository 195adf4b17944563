"""What counts as a data set, and the checks every batch goes through."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import DataError

Batches = Tensor | tuple[Tensor, Tensor] | Iterable[Any]
"""Images [N, ...]; (images, labels [N]); or any loader of either."""


def batches(data: Batches, *, where: str, batch_size: int = 100) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Iterate over (images, labels or None) in the order given.

    Raises:
        DataError: if it yields nothing, or something that is not a batch.
    """
    if isinstance(data, Tensor):
        yield from ((part, None) for part in _nonempty(data, where).split(batch_size))
        return
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        images, labels = data
        _check_as_many(images, labels, where)
        pairs = zip(_nonempty(images, where).split(batch_size), labels.split(batch_size), strict=True)
        yield from pairs
        return
    if not isinstance(data, Iterable):
        raise DataError(
            f"is a {type(data).__name__}",
            where=where,
            remedy="pass a tensor, a pair (images, labels), or a loader",
        )
    empty = True
    for batch in data:
        empty = False
        if isinstance(batch, Tensor):
            yield batch, None
        elif isinstance(batch, (tuple, list)) and len(batch) >= 1 and isinstance(batch[0], Tensor):
            labels = _as_labels(batch[1], where) if len(batch) > 1 else None
            if labels is not None:
                _check_as_many(batch[0], labels, where)
            yield batch[0], labels
        else:
            raise DataError(
                f"yields {type(batch).__name__}",
                where=where,
                remedy="make each batch a tensor or (images, labels)",
            )
    if empty:
        raise _empty(where)


def count(data: Batches, batch_size: int = 100) -> int | None:
    """Number of batches, or None where the data does not say."""
    if isinstance(data, tuple) and data and isinstance(data[0], Tensor):
        data = data[0]
    if isinstance(data, Tensor):
        return -(-len(data) // batch_size)
    try:
        return len(data)  # type: ignore[arg-type]
    except TypeError:
        return None


class Digest:
    """SHA-256 over the values of all tensors fed to it, whatever the batch size they came in."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def update(self, **tensors: Tensor | None) -> None:
        """Feed one batch; each keyword is a stream of its own."""
        for name, tensor in tensors.items():
            if tensor is not None:
                data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
                self._hashes.setdefault(name, hashlib.sha256()).update(data.data)

    def hexdigest(self) -> str:
        """The hash of all streams together."""
        total = hashlib.sha256()
        for name in sorted(self._hashes):
            total.update(name.encode() + self._hashes[name].digest())
        return total.hexdigest()


def _empty(where: str) -> DataError:
    return DataError("is empty", where=where, remedy="give at least one image")


def _nonempty(images: Tensor, where: str) -> Tensor:
    if images.dim() < 2 or len(images) == 0:
        raise _empty(where)
    return images


def _as_labels(labels: Any, where: str) -> Tensor:
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"has labels that are no numbers ({type(labels).__name__}: {error})",
            where=where,
            remedy="give the number of its class for each image",
        ) from None


def _check_as_many(images: Tensor, labels: Tensor, where: str) -> None:
    if labels.shape[:1] != images.shape[:1]:
        raise DataError(
            f"has {len(images)} images but {len(labels) if labels.dim() else 'no'} labels",
            where=where,
            remedy="give each image one label",
        )


def check_labels(labels: Tensor, where: str, classes: int | None = None, offset: int = 0) -> None:
    """Refuse labels that are not one whole number for each image, from 0 to below ``classes``.

    Raises:
        DataError: naming the first such image, counted from ``offset``.
    """
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"have shape {list(labels.shape)} and dtype {labels.dtype}",
            where=f"labels of the {where}",
            remedy="give one whole number for each image",
        )
    bad = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        problem = f"is {int(labels[first])}"
        if classes is not None:
            problem += f", but the network has {classes} classes (0 to {classes - 1})"
        raise DataError(
            problem,
            where=f"label of image {offset + first} of the {where}",
            remedy="give the network's last layer one output for each class, and number the classes from 0",
        )


def check_answers(answers: Tensor, labels: Tensor, where: str, offset: int = 0) -> None:
    """Refuse labels for which the network's answers [B, ...] have no place: of maps, or of other classes.

    Raises:
        DataError: naming what does not fit.
    """
    if answers.dim() != 2:
        raise DataError(
            f"are one for each image, and the network answers with {list(answers.shape[1:])} numbers for each",
            where=f"labels of the {where}",
            remedy="leave the labels out, or give a network that ends in one number for each class",
        )
    check_labels(labels, where, answers.shape[1], offset)
