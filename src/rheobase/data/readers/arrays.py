"""Arrays of images and labels, from any file."""

from __future__ import annotations

import warnings

import numpy as np

from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.batches import check_as_many
from rheobase.data.readers.image_dataset import Sample
from rheobase.data.readers.preprocessing import Preprocessing


def read_arrays(
    images: np.ndarray, labels: np.ndarray, where: str, preprocessing: Preprocessing
) -> tuple[list[Sample], list[str]]:
    """Samples and class names from images [N, H, W], [N, C, H, W] or [N, H, W, C] and labels [N] or [N, 1].

    Raises:
        DataError: if shapes or types differ from these, images are not finite, or there are none.
    """
    if preprocessing.grayscale:
        raise DataError(
            f"has no effect on the arrays in {where}",
            where="grayscale",
            remedy="leave it out; it is for image files only",
        )
    images, labels = _check_images(images, where), _check_labels(labels, where)
    check_as_many(images, labels, where)
    if not len(images):
        raise DataError("holds no sample", where=where, remedy="give at least one image")
    if images.dtype != np.uint8 and preprocessing.scale == 255.0 and images.max() <= 1:
        warnings.warn(
            f"{where}: the images are at most 1 and are divided by 255. Remedy: set scale to 1.",
            RheobaseWarning,
            stacklevel=4,
        )
    samples = [
        Sample(f"{where} image {i}", int(label), image)
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return samples, [str(i) for i in range(int(labels.max()) + 1)]


def _check_images(images: np.ndarray, where: str) -> np.ndarray:
    """Convert images to uint8 or float32 [N, C, H, W]."""
    if images.dtype.kind not in "uif" or images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise DataError(
            f"has images of type {images.dtype} and shape {list(images.shape)}",
            where=where,
            remedy="give numbers of shape [N, H, W], [N, C, H, W], or [N, H, W, C] with C of 1 or 3",
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype == np.uint8:
        return images
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if len(bad):
        raise DataError(
            "has a pixel that is NaN or infinite", where=f"{where} image {bad[0]}", remedy="repair or remove the image"
        )
    return images.astype(np.float32)


def _check_labels(labels: np.ndarray, where: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or (len(labels) and labels.min() < 0):
        raise DataError(
            f"has labels of type {labels.dtype} and shape {list(labels.shape)} that are not class indices",
            where=where,
            remedy="give one class index from 0 for each image (for one-hot labels: argmax(1))",
        )
    return labels
