"""Images from recordings of event cameras, by counting events in frames.

The frames of a recording are channels, so a network without a time axis can be trained on such images and converted
(as in the QVM paper, appendix A.5, with SpikingJelly's integration of events).
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, FiniteFloat, PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rheobase.core.checks import check_whole, is_whole
from rheobase.core.errors import DataError, RheobaseError
from rheobase.core.folders import user_path
from rheobase.core.values import Value
from rheobase.data.readers import jaer
from rheobase.data.readers.image_dataset import find_remedy, reading
from rheobase.data.sampling import sample_order

Recordings = Sequence[tuple[Any, Any]]
"""Pairs (structured events or their file, class index) by index: a list, or a data set of tonic."""
_AXES = ("x", "y", "p", "t")
_NAME = re.compile(r"[^.].*\.(bin|aedat4|aedat2?)", re.IGNORECASE)
_TRIALS = "trials_to_{}.txt"
"""Files of DVS128 Gesture that list the recordings of a part."""


class Recording(NamedTuple):
    """A file of events; with start and stop, only the events at start ≤ t < stop, in µs."""

    path: Path
    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.start is None else f"{self.path} from {self.start} to {self.stop} µs"


class Framing(Value):
    """Counts the events of a recording in T frames of P polarities: an image [T·P, H, W].

    Channel f·P + p at (y, x) is min(n, clip) / scale, where n is the number of events of polarity p (0 is OFF, 1 is ON)
    at the pixel (x, y) in frame f. With N events in order of time, event i at time t_i is in frame

        by="time":   f = min(⌊T·(t_i − t_0) / (t_{N−1} − t_0)⌋, T − 1)
        by="count":  f = ⌊T·i / N⌋

    Every event is in exactly one frame; if all have the same time, in frame 0. The frames are those of SpikingJelly if
    T divides the duration or N. Otherwise SpikingJelly rounds the length of a frame down and adds the remainder to the
    last frame, so an edge differs by less than T microseconds or events. Tonic's `ToFrame` drops the remainder.

    Args:
        frames: T.
        sensor: width and height in pixels, such as (34, 34) for N-MNIST.
        by: frames of equal duration, or of equal numbers of events.
        polarities: P: 2 separates ON and OFF, 1 counts them together.
        clip: the largest count; 1 only marks pixels with an event.
        scale: divisor of the counts. Without clip and scale an image holds the counts.

    Raises:
        DataError: on construction, if a value is invalid; on a call, if events have no integer fields x, y, p and t, a
            polarity other than 0 and 1, or a position outside the sensor.

    Example:
        >>> events = np.array([(0, 0, 1, 10), (1, 0, 0, 20), (1, 0, 0, 30)], [(axis, int) for axis in "xypt"])
        >>> Framing(frames=2, sensor=(2, 1))(events)[:, 0].tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    """

    place: ClassVar[str | None] = "framing"
    refusal: ClassVar[type[RheobaseError]] = DataError

    frames: PositiveInt
    sensor: tuple[PositiveInt, PositiveInt]
    by: Literal["time", "count"] = "time"
    polarities: Literal[1, 2] = 2
    clip: PositiveInt | None = None
    scale: FiniteFloat = Field(default=1.0, gt=0)

    def __call__(self, events: np.ndarray, where: str = "recording") -> np.ndarray:
        """Count a structured array of events; `where` is its name in errors."""
        x, y, p, t = self._checked(events, where)
        width, height = self.sensor
        if self.polarities == 1:
            p = np.zeros_like(p)
        shape = (self.frames * self.polarities, height, width)
        channel = self._frame(t) * self.polarities + p
        # Not tonic's ToFrame: it drops the remainder, counts in int16, and loses events that are all at one time.
        counts = np.bincount((channel * height + y) * width + x, minlength=math.prod(shape)).reshape(shape)
        return (counts if self.clip is None else counts.clip(max=self.clip)).astype(np.float32) / np.float32(self.scale)

    def _frame(self, t: np.ndarray) -> np.ndarray:
        """The frame of every event."""
        if not len(t):
            return t
        if self.by == "time":
            elapsed = t - t.min()
            return np.minimum(elapsed * self.frames // max(elapsed.max(), 1), self.frames - 1)
        rank = np.empty_like(t)
        rank[np.argsort(t, kind="stable")] = np.arange(len(t))
        return rank * self.frames // len(t)

    def _checked(self, events: np.ndarray, where: str) -> list[np.ndarray]:
        """The fields x, y, p, t as int64, checked."""
        fields = getattr(getattr(events, "dtype", None), "fields", None) or {}
        if any(axis not in fields or fields[axis][0].kind not in "iub" for axis in _AXES):
            raise DataError(
                f"is {type(events).__name__} without integer fields x, y, p and t",
                where=where,
                remedy="give a structured array, such as from tonic.io.make_structured_array",
            )
        x, y, p, t = (events[axis].astype(np.int64) for axis in _AXES)
        width, height = self.sensor
        outside = np.flatnonzero((x < 0) | (x >= width) | (y < 0) | (y >= height))
        if len(outside):
            first = outside[0]
            raise DataError(
                f"has {len(outside)} of {len(x)} events outside the sensor of {width}x{height}, "
                f"such as at x {x[first]}, y {y[first]}",
                where=where,
                remedy="give the width and height of the camera, or repair the recording",
            )
        strange = p[(p != 0) & (p != 1)]
        if len(strange):
            raise DataError(f"has polarity {strange[0]}", where=where, remedy="write 0 for OFF and 1 for ON")
        return [x, y, p, t]


class _Images(Dataset[tuple[Tensor, int]]):
    """Recordings, each read and counted on access, and the names of their classes."""

    def __init__(
        self, recordings: Recordings, framing: Framing, positions: Sequence[int], classes: Sequence[str]
    ) -> None:
        self.recordings, self.framing, self.positions, self.classes = recordings, framing, positions, list(classes)
        if not positions:
            raise DataError("holds no recording", where="data set", remedy="give at least one recording")
        self[0]  # raises here for a wrong sensor, not in the middle of a long run

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = self.positions[index]
        events, label = self.recordings[position]
        if isinstance(events, Path):
            events = Recording(events)
        where = str(events) if isinstance(events, Recording) else f"recording {position}"
        if not is_whole(label, least=0):
            raise DataError(f"has the label {label!r}", where=where, remedy="give a class index, 0 or more")
        if isinstance(events, Recording):
            events = _read(events, self.framing.sensor)
        return torch.from_numpy(self.framing(events, where)), int(label)


def load(
    source: str | os.PathLike[str] | Recordings,
    framing: Framing,
    *,
    folder: str | None = None,
    batch_size: int = 100,
    limit: int | None = None,
    seed: int | None = None,
) -> DataLoader[Any]:
    """Open recordings of an event camera as images, like `rheobase.data.load`.

    A folder contains recordings `<class>/<name>` with one of the endings

    | ending | format |
    | --- | --- |
    | `.bin` | 40 bits per event: N-MNIST and N-Caltech101 |
    | `.aedat` | AEDAT 2: DVS128 and DAVIS, and CIFAR10-DVS as published; AEDAT 3.1 |
    | `.aedat4` | AEDAT 4: iniVation's cameras, and CIFAR10-DVS as downloaded by tonic |

    or, as in DVS128 Gesture, recordings `<name>.aedat`, each with the samples in it in `<name>_labels.csv` (lines of
    class from 1, start and end in µs). Other files are ignored. A class index is the position of the class folder's
    name in sorted order, or the class of the csv file minus 1. Reading `.bin` and AEDAT 4 needs tonic (`pip install
    'rheobase[events]'`). In place of a folder, give a list of (events, label) or a data set of tonic, such as
    `tonic.datasets.DVSGesture`.

    Args:
        source: the folder or the recordings.
        framing: the conversion of events into an image.
        folder: a sub-folder, such as "Caltech101"; for DVS128 Gesture "train" or "test".
        batch_size, limit, seed: as for `rheobase.data.load`.

    Returns:
        A loader of (float32 images [B, T·P, H, W], int64 labels [B]).

    Raises:
        DataError: if there is no recording, the layout of the folder is wrong, or tonic is missing; if a recording is
            damaged or does not fit the framing (at once for the first one, else while iterating).

    Example:
        >>> loader = load("N-MNIST/Test", Framing(frames=4, sensor=(34, 34)), seed=0)  # doctest: +SKIP
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None:
            check_whole(value, name, error=DataError)
    if isinstance(source, str | os.PathLike):
        recordings, classes = _in_folder(user_path(source), folder)
    else:
        if folder is not None:
            raise DataError("has no effect on a list of recordings", where="folder", remedy="leave it out")
        recordings, classes = source, getattr(source, "classes", [])
    positions = sample_order(len(recordings), limit, seed)
    return DataLoader(_Images(recordings, framing, positions, classes), batch_size=batch_size)


def _in_folder(root: Path, folder: str | None) -> tuple[Recordings, list[str]]:
    """The recordings `<class>/<name>` in a folder, or the samples in its recordings, and the names of the classes."""
    with reading(str(root)):
        files = [path for path in sorted(root.iterdir()) if path.suffix.lower() == ".aedat"]
        cut = [path for path in files if _labels_of(path).is_file()]
    if cut:
        return _within_files(root, cut, folder)
    root = root / folder if folder else root
    with reading(str(root)):
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        inside = [[path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name)] for folder in folders]
    empty = [folder for folder, paths in zip(folders, inside, strict=True) if not paths]
    if empty or not folders:
        deeper = [path.name for path in empty if any(inner.is_dir() for inner in path.iterdir())]
        layout = "give a folder of recordings <class>/<name> with the ending .bin, .aedat or .aedat4"
        raise DataError(
            "holds no recording" if empty else "holds no class folder",
            where=str(empty[0] if empty else root),
            remedy=find_remedy(layout, deeper, is_optional=False),
        )
    recordings = [(Recording(path), label) for label, paths in enumerate(inside) for path in paths]
    return recordings, [folder.name for folder in folders]


def _labels_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_labels.csv")


def _within_files(root: Path, files: list[Path], folder: str | None) -> tuple[Recordings, list[str]]:
    """The samples of DVS128 Gesture's recordings, of one of its parts, and the names of the classes."""
    parts = [part for part in ("test", "train") if (root / _TRIALS.format(part)).is_file()]
    if folder is not None or len(parts) > 1:
        if folder not in parts:
            reason = "holds both train and test data" if folder is None else f"holds no {_TRIALS.format(folder)}"
            remedy = f"choose folder {' or '.join(parts)}" if parts else "leave folder out"
            raise DataError(reason, where=str(root), remedy=remedy)
        trials = root / _TRIALS.format(folder)
        with reading(str(trials)):
            listed = set(trials.read_text().split())
        missing = sorted(listed - {path.name for path in files})
        if missing:
            reason = f"lists {missing[0]}, which does not exist, or has no file of labels"
            raise DataError(reason, where=str(trials), remedy="download the data again")
        files = [path for path in files if path.name in listed]
    samples = [sample for path in files for sample in _samples(path)]
    names = _class_names(root / "gesture_mapping.csv")
    most = max((label for _, label in samples), default=-1)
    return samples, [names.get(label, str(label + 1)) for label in range(most + 1)]


def _samples(path: Path) -> list[tuple[Recording, int]]:
    """The samples in a recording, from the lines `class,start,end` of its file of labels."""
    table = _labels_of(path)
    with reading(str(table)), table.open(newline="") as stream:
        rows = [[int(value) for value in row[:3]] for row in list(csv.reader(stream))[1:] if row]
        if any(len(row) < 3 or row[0] < 1 or row[1] >= row[2] for row in rows):
            raise ValueError("a line is not class from 1, start, later end")
    return [(Recording(path, start, stop), label - 1) for label, start, stop in rows]


def _class_names(path: Path) -> dict[int, str]:
    """The names of classes from the lines `name,class` of a file; empty if it does not exist."""
    if not path.is_file():
        return {}
    with reading(str(path)), path.open(newline="") as stream:
        return {int(row[1]) - 1: row[0] for row in list(csv.reader(stream))[1:] if row}


def _read(recording: Recording, sensor: tuple[int, int]) -> np.ndarray:
    """The events of a file; a file without events is refused, because it is likely a failed download."""
    path = recording.path
    with reading(str(recording)):
        is_aedat4 = path.suffix.lower() == ".aedat4" or jaer.version(path) == 4
        if path.suffix.lower() == ".bin" or is_aedat4:
            events = _read_by_tonic(path, is_aedat4)
        else:
            events = jaer.read(path, sensor, recording.start, recording.stop)
        if not len(events):
            raise ValueError("it holds no event")
    return events


def _read_by_tonic(path: Path, is_aedat4: bool) -> np.ndarray:
    try:
        import aedat  # noqa: F401  tonic imports it only when it reads AEDAT 4
        from tonic import io
    except ImportError as cause:
        reason = f"need a package that is not installed ({cause})"
        raise DataError(reason, where="recordings", remedy="run pip install 'rheobase[events]'") from cause
    if is_aedat4:
        return io.read_aedat4(str(path))
    if (size := path.stat().st_size) % 5:  # tonic would read a truncated file
        raise ValueError(f"its {size} bytes are not a multiple of 5 bytes per event")
    return io.read_mnist_file(str(path), dtype=io.events_struct)
