"""Data from a user's function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from rheobase.core import user_code
from rheobase.core.errors import DataError
from rheobase.data.batches import as_batch
from rheobase.data.sampling import sample_order


class _Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of (images, labels) from any iterable, each checked."""

    def __init__(self, spec: str, batches: Iterable[Any]) -> None:
        self._spec = spec
        # An iterator would be exhausted after one epoch.
        self._batches = list(batches) if isinstance(batches, Iterator) else batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (_checked(batch, f"{self._spec} batch {i}") for i, batch in enumerate(self._batches))


def read_function(spec: str, batch_size: int, limit: int | None, seed: int | None) -> DataLoader[Any]:
    """A loader of the data that `module:function` returns; tensors are batched, other data keeps its batches."""
    source = user_code.call(spec, DataError)
    if isinstance(source, tuple | list) and len(source) == 2 and all(map(torch.is_tensor, source)):
        images, labels = _checked(source, spec)
        if limit is not None or seed is not None:  # otherwise nothing is copied
            order = torch.tensor(sample_order(len(images), limit, seed), dtype=torch.long)
            images, labels = images[order], labels[order]
        return DataLoader(TensorDataset(images, labels), batch_size=batch_size)
    if limit is not None or seed is not None:
        raise DataError(
            f"has no effect on the batches of {spec}",
            where="limit" if limit is not None else "seed",
            remedy=f"leave it out, or select the samples in {spec}",
        )
    if not isinstance(source, Iterable):
        raise DataError.typed(
            f"returned {type(source).__name__}, which is not data",
            where=spec,
            remedy="return a DataLoader, batches of (images, labels), or (images, labels) tensors",
        )
    if isinstance(source, DataLoader):
        loader, is_empty = source, not isinstance(source.dataset, IterableDataset) and len(source) == 0
    else:
        batches = _Batches(spec, source)
        loader, is_empty = DataLoader(batches, batch_size=None), next(iter(batches), None) is None
    if is_empty:
        raise DataError("returned no sample", where=spec, remedy="return at least one batch")
    return loader


def _checked(pair: Any, where: str) -> tuple[Tensor, Tensor]:
    """Float images [B, C, H, W] and integer labels [B] of a batch."""
    images, labels = as_batch(pair, where)
    found = f"images {images.dtype} {list(images.shape)} and "
    found += "no labels" if labels is None else f"labels {labels.dtype} {list(labels.shape)}"
    if labels is None or not images.is_floating_point() or labels.is_floating_point() or not len(images):
        raise DataError(
            f"has {found}", where=where, remedy="return at least one float image [B, C, H, W], and integer labels [B]"
        )
    return images.float(), labels.long()
