"""Loading of data from any source. A batch is float32 images [B, C, H, W], and labels if any, mostly int64 [B]."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from rheobase.core import user_code
from rheobase.core.checks import check_flag, check_whole
from rheobase.core.errors import DataError
from rheobase.core.folders import user_path
from rheobase.data.batches import Batch, Batches, as_batch, is_one_batch
from rheobase.data.readers.arrays import as_samples, idx_files, read_idx, read_npz
from rheobase.data.readers.cifar import cifar_layout, read_cifar
from rheobase.data.readers.image_dataset import ImageDataset, Preprocessing, Sample, reading, undamaged
from rheobase.data.readers.image_files import read_image_files
from rheobase.data.readers.tars import is_pattern, is_tar
from rheobase.data.sampling import sample_order
from rheobase.data.sources import IN_MEMORY, OnDisk, dataset_of, is_map_style


def load(
    spec: str | os.PathLike[str],
    *,
    folder: str | None = None,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 100,
    limit: int | None = None,
    seed: int | None = None,
    readers: int = 0,
    skip_damaged: bool = False,
) -> DataLoader[Any]:
    """Open image data by path or function.

    | spec | data |
    | --- | --- |
    | a directory | images `<class>/<name>`, the IDX files of MNIST and Fashion-MNIST, or the binary files of CIFAR |
    | `.tar`, `.tar.gz`, `.tar.xz`, `.tar.bz2` | images `<class>/<name>`, or `<name>.jpg` with a label in `<name>.cls` |
    | `train-{000..146}.tar`, or a folder of archives | the same in several archives, in the order of their names |
    | `.npz` | arrays `images` and `labels`, `x` and `y`, `signals` and `labels`, or with a folder `x_<folder>`... |
    | `.npy` | one array without labels |
    | `module:function` | the returned data set, DataLoader, batches or tensors of (images, labels) |
    | `module:function(name=value)` | the same, with arguments |

    A class index is the position of the class folder's name in sorted order; `loader.dataset.classes` contains the
    names. Where labels are not needed, such as for calibration, a directory or archive may contain images `<name>`
    only, and an `.npz` file one array. Image files are converted to RGB unless `preprocessing.grayscale` is set.

    Arrays are images [N, H, W], [N, C, H, W] or [N, H, W, C] with C of 1, 3 or 4 (RGBA, of which RGB is read); signals
    [N, C, L] or [N, L] under the name `signals`; or tables [N, F].

    The order is the same in every epoch. Without a seed it is the order of the file; image files are sorted by class,
    so with a `limit` alone only the first classes are read. Images stay on disk until they are read, except those
    of a compressed archive, which cannot be read by index and is kept, encoded, in memory.

    Args:
        spec: the path or function; an existing path takes precedence.
        folder: a sub-folder of a directory or tar, such as "test"; for IDX files and CIFAR "train" or "test".
        preprocessing: resize, crop and normalisation; default: pixels are divided by 255. Not for `module:function`.
        batch_size: images in a batch. A DataLoader or batches from a function keep their batch size.
        limit: maximum number of samples; the first ones in order are read.
        seed: shuffle the samples once with this seed, before the limit is applied.
        readers: number of processes that read and decode images; 0: this one. Not for a loader that a function returns.
        skip_damaged: leave damaged images and what follows the damage in an archive out, with a warning, and do not
            refuse them. Every chosen image is decoded once before.

    Returns:
        A loader of (float32 images [B, C, H, W], int64 labels [B]), or of the images alone. Arrays and functions may
        also give targets of other tasks than classification, [B, ...]: whole numbers, float32 or truth values
        (:mod:`rheobase.tasks`).

    Raises:
        DataError: if the data does not exist, cannot be read, or has another layout; while iterating, if an image is
            damaged or of another size.

    Example:
        >>> norm = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> loader = load("cifar10.tar", folder="test", preprocessing=norm, seed=0)  # doctest: +SKIP
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None:
            check_whole(value, name, error=DataError)
    check_whole(readers, "readers", error=DataError, least=0)
    check_flag(skip_damaged, "skip_damaged", error=DataError)
    preprocessing = preprocessing or Preprocessing()
    path, spec = user_path(spec), str(spec)
    with reading(spec):
        exists = path.exists() or is_pattern(path)
    if not exists and user_code.names_function(spec):
        if folder is not None or preprocessing != Preprocessing():
            unused = "folder" if folder is not None else "preprocessing"
            raise DataError(
                f"has no effect on the data of {spec}", where=unused, remedy=f"leave it out, or apply it in {spec}"
            )
        if skip_damaged:
            remedy = f"leave it out, or skip damaged samples in {spec}"
            raise DataError(f"has no effect on the data of {spec}", where="skip_damaged", remedy=remedy)
        return _from_function(spec, batch_size, limit, seed, readers)
    if not exists:
        raise DataError("does not exist", where=spec, remedy="give a path that exists, or module:function")

    samples, classes = _samples(path, folder, preprocessing, skip_damaged)
    samples = [samples[i] for i in sample_order(len(samples), limit, seed)]
    if skip_damaged:
        samples = undamaged(samples, preprocessing)
    return DataLoader(ImageDataset(samples, classes, preprocessing), batch_size=batch_size, num_workers=readers)


def _samples(
    path: Path, folder: str | None, preprocessing: Preprocessing, skip_damaged: bool
) -> tuple[list[Sample], list[str]]:
    """The samples and the class names, by the kind of file."""
    idx = idx_files(path) if path.is_dir() else {}
    cifar = cifar_layout(path) if path.is_dir() else None
    if idx:
        arrays = read_idx(path, idx, folder)
    elif cifar is not None:
        arrays, names = read_cifar(path, cifar, folder)
        return as_samples(arrays, str(path), preprocessing)[0], names
    elif path.is_dir() or is_tar(path):
        return read_image_files(path, folder, skip_damaged=skip_damaged)
    elif path.suffix.lower() in (".npz", ".npy"):
        arrays = read_npz(path, folder)
    else:
        remedy = "give a folder of images, a .tar, .tar.gz, .tar.xz, .tar.bz2, .npz or .npy file, or module:function"
        raise DataError("is not a supported data file", where=str(path), remedy=remedy)
    return as_samples(arrays, str(path), preprocessing)


def read_all(loader: DataLoader[Any], *, progress: bool = False) -> Batches:
    """Read all samples of a loader from :func:`load` into memory, for repeated use, if they have up to 1 GiB.

    Files are decoded directly into one tensor. Tensors are not copied. A loader of more images, or from a user's
    function, which may yield other samples each time, is returned unchanged.

    Raises:
        DataError: if an image is damaged or of another size.

    Example:
        >>> images, labels = read_all(load("rheobase.zoo.digits:digits_train"))
        >>> images.shape
        torch.Size([1097, 1, 8, 8])
    """
    dataset = dataset_of(loader)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) <= 2:
        return dataset.tensors if len(dataset.tensors) == 2 else dataset.tensors[0]
    if not isinstance(dataset, ImageDataset):
        return loader
    source = OnDisk(dataset, loader.num_workers, "data set")
    if source.nbytes > IN_MEMORY:
        return loader
    found = source.in_memory(progress)
    return found.images if found.labels is None else (found.images, found.labels)


def _from_function(spec: str, batch_size: int, limit: int | None, seed: int | None, readers: int) -> DataLoader[Any]:
    """A loader of the data that `module:function` returns; tensors and data sets are batched, others keep batches."""
    source = user_code.call(spec, DataError)
    if is_one_batch(source):
        images, labels = _checked(source, spec)
        source = TensorDataset(images) if labels is None else TensorDataset(images, labels)
    if is_map_style(source):
        found = OnDisk(source, 0, spec)  # refuses an empty one
        _ = found.labelled  # reads one image, which may not be a tensor
        size = len(found)
        if limit is not None or seed is not None:
            source = _chosen(source, sample_order(size, limit, seed))
        return DataLoader(source, batch_size=batch_size, num_workers=readers)
    for name, value in (("limit", limit), ("seed", seed), ("readers", readers or None)):
        if value is not None:
            remedy = f"leave it out, or select and read the samples in {spec}"
            raise DataError(f"has no effect on the batches of {spec}", where=name, remedy=remedy)
    if not isinstance(source, Iterable):
        remedy = "return a data set, a DataLoader, batches of (images, labels), or (images, labels) tensors"
        raise DataError.typed(f"returned {type(source).__name__}, which is not data", where=spec, remedy=remedy)
    if isinstance(source, DataLoader):
        loader, is_empty = source, not isinstance(source.dataset, IterableDataset) and len(source) == 0
    else:
        batches = _Batches(spec, source)
        loader, is_empty = DataLoader(batches, batch_size=None), next(iter(batches), None) is None
    if is_empty:
        raise DataError("returned no sample", where=spec, remedy="return at least one batch")
    return loader


def _chosen(dataset: Dataset[Any], order: list[int]) -> Dataset[Any]:
    """The samples of a data set in this order; tensors are copied once, so that they stay tensors."""
    return TensorDataset(*dataset[order]) if isinstance(dataset, TensorDataset) else Subset(dataset, order)


def _checked(batch: Any, where: str) -> Batch:
    """Float images [B, C, H, W] of a batch, and its labels, if any: int64, float32 or truth values [B, ...]."""
    images, labels = as_batch(batch, where)
    if not images.is_floating_point() or images.ndim < 2 or not len(images):
        found = "no labels" if labels is None else f"labels {labels.dtype} {list(labels.shape)}"
        reason = f"has images {images.dtype} {list(images.shape)} and {found}"
        remedy = "return at least one float image [B, C, H, W], and a label or other target for each"
        raise DataError(reason, where=where, remedy=remedy)
    if labels is None or labels.dtype == torch.bool:
        return images.float(), labels
    return images.float(), labels.float() if labels.is_floating_point() else labels.long()


class _Batches(IterableDataset[Any]):
    """Batches from any iterable, each checked: (images, labels), or images alone."""

    def __init__(self, spec: str, batches: Iterable[Any]) -> None:
        self._spec = spec
        # An iterator would be exhausted after one epoch.
        self._batches = list(batches) if isinstance(batches, Iterator) else batches

    def __iter__(self) -> Iterator[Any]:
        for i, batch in enumerate(self._batches):
            images, labels = _checked(batch, f"{self._spec} batch {i}")
            yield images if labels is None else (images, labels)
