"""Open image data, whatever holds them. A batch is float32 images [B, C, H, W] and int64 labels [B]."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, TensorDataset

from rheobase.core import user_code
from rheobase.core.checks import check_whole
from rheobase.core.errors import DataError
from rheobase.data.batches import Batches
from rheobase.data.readers.arrays import read_arrays
from rheobase.data.readers.idx import idx_files, read_idx
from rheobase.data.readers.image_dataset import ImageDataset, Sample
from rheobase.data.readers.image_folder import read_image_folder
from rheobase.data.readers.image_tar import is_tar, read_image_tar
from rheobase.data.readers.npz import read_npz
from rheobase.data.readers.preprocessing import Preprocessing
from rheobase.data.readers.reading import reading
from rheobase.data.readers.user_function import read_function
from rheobase.data.sampling import sample_order
from rheobase.data.sources import OnDisk, dataset_of


def load(
    spec: str | os.PathLike[str],
    *,
    folder: str | None = None,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 100,
    limit: int | None = None,
    seed: int | None = None,
) -> DataLoader[Any]:
    """Open the image data that `spec` names.

    | spec | what is read |
    | --- | --- |
    | a directory | images `<class>/<name>`, or the IDX files of MNIST and Fashion-MNIST |
    | `.tar`, `.tar.gz`, `.tar.xz`, `.tar.bz2` | the same layout of images; they stay compressed in memory |
    | `.npz` | arrays `images` and `labels`, `x` and `y`, or with a folder `x_<folder>` and `y_<folder>` |
    | `module:function` | what the function returns: a DataLoader, batches or tensors of (images, labels) |

    A class index is the position of the class folder's name in sorted order; `loader.dataset.classes` has the
    names. Image files become RGB unless `preprocessing.grayscale` is set. Array images are [N, H, W],
    [N, C, H, W], or [N, H, W, C] with C of 1 or 3. The order is the same in every epoch: without a seed it is
    that of the file, for images class by class, so that a `limit` then sees only the first few classes.

    Args:
        spec: the path or function; a path that exists wins.
        folder: the part to read: a sub-folder of a directory or tar, such as "test"; for IDX files "train" or
            "test".
        preprocessing: resize, crop and normalisation; without it, pixels are divided by 255. The data of a
            `module:function` are taken as they are.
        batch_size: images in a batch. A DataLoader or batches that a function returns keep their own.
        limit: read at most that many samples, the first ones in the order above.
        seed: shuffle the samples once with this seed, before the limit is applied.

    Returns:
        A loader of (float32 images [B, C, H, W], int64 labels [B]).

    Raises:
        DataError: nothing is there, it cannot be read, or it is not laid out as above; also while iterating,
            where a later image is damaged or of another size.

    Example:
        >>> norm = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> loader = load("cifar10.tar", folder="test", preprocessing=norm, seed=0)  # doctest: +SKIP
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None:
            check_whole(value, name, error=DataError)
    preprocessing = preprocessing or Preprocessing()
    path, spec = Path(spec), str(spec)
    with reading(spec):
        exists = path.exists()
    if not exists and user_code.names_function(spec):
        if folder is not None or preprocessing != Preprocessing():
            unused = "folder" if folder is not None else "preprocessing"
            raise DataError(
                f"has no effect on the data of {spec}", where=unused, remedy=f"leave it out, or apply it in {spec}"
            )
        return read_function(spec, batch_size, limit, seed)
    if not exists:
        raise DataError("does not exist", where=spec, remedy="give a path that exists, or module:function")

    samples, classes = _samples(path, folder, preprocessing)
    samples = [samples[i] for i in sample_order(len(samples), limit, seed)]
    return DataLoader(ImageDataset(samples, classes, preprocessing), batch_size=batch_size)


def _samples(path: Path, folder: str | None, preprocessing: Preprocessing) -> tuple[list[Sample], list[str]]:
    """Read the samples and the class names, by the kind of file."""
    if path.is_dir():
        idx = idx_files(path)
        if not idx:
            return read_image_folder(path, folder)
        images, labels = read_idx(path, idx, folder)
    elif is_tar(path):
        return read_image_tar(path, folder)
    elif path.suffix.lower() == ".npz":
        images, labels = read_npz(path, folder)
    else:
        raise DataError(
            "is no kind of data file that can be read",
            where=str(path),
            remedy="give a folder of images, a .tar, .tar.gz, .tar.xz, .tar.bz2 or .npz file, or module:function",
        )
    return read_arrays(images, labels, str(path), preprocessing)


def read_all(loader: DataLoader[Any], *, progress: bool = False) -> Batches:
    """All samples of a loader that :func:`load` made, held in memory once, to be gone through many times.

    Files are decoded into one tensor, so that a data set needs its own size and no more. Tensors stay where they are. A
    loader of the user's own is handed on: what it yields may be another thing every time.

    Raises:
        DataError: where an image is damaged or of another size.

    Example:
        >>> images, labels = read_all(load("rheobase.zoo.digits:digits_train"))
        >>> images.shape
        torch.Size([1097, 1, 8, 8])
    """
    dataset = dataset_of(loader)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        images, labels = dataset.tensors
        return images, labels
    if not isinstance(dataset, ImageDataset):
        return loader
    found = OnDisk(dataset, loader.num_workers, "data set").in_memory(progress)
    assert found.labels is not None
    return found.images, found.labels
