"""Readers of image classification data, one module for each kind of source, and ``load``, which selects one."""

from rheobase.data.readers._load import load, read_all
from rheobase.data.readers.image_dataset import ImageDataset, Preprocessing, Sample

__all__ = ["ImageDataset", "Preprocessing", "Sample", "load", "read_all"]
