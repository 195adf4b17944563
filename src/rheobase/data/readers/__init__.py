"""Read image classification data: one file for each kind of source, and ``load``, which picks by what it is given."""

from rheobase.data.readers._load import load, read_all
from rheobase.data.readers.image_dataset import ImageDataset, Sample
from rheobase.data.readers.preprocessing import Preprocessing

__all__ = ["ImageDataset", "Preprocessing", "Sample", "load", "read_all"]
