"""Read recordings of event cameras and count their events into images.

A network without a time axis can be trained on such images, and converted like any other: the frames of a
recording are channels (as in the QVM paper, appendix A.5, with SpikingJelly's integration of events).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rheobase.core.checks import check_choice, check_positive, check_whole, is_whole
from rheobase.core.errors import DataError
from rheobase.data.sampling import sample_order

_AXES = ("x", "y", "p", "t")


@dataclass(frozen=True, kw_only=True)
class Framing:
    """Counts a recording's events in T frames of P polarities: an image [T·P, H, W].

    Channel f·P + p at (y, x) is min(n, clip) / scale, where n is the number of events of polarity p (0 is OFF,
    1 is ON) at the pixel (x, y) in frame f. With N events in order of time, event i at time t_i falls in frame

        by="time":   f = min(⌊T·(t_i − t_0) / (t_{N−1} − t_0)⌋, T − 1)
        by="count":  f = ⌊T·i / N⌋

    so that every event is in exactly one frame and the frames are equally long, or hold equally many events, to
    within one event. Events all at one time fall in frame 0.

    These are the frames of SpikingJelly where T divides the duration or N; otherwise it rounds a frame's length
    down to whole microseconds or events and gives the remainder to the last frame, which moves an edge by less
    than T microseconds or events. Tonic's `ToFrame` drops the remainder.

    Args:
        frames: T.
        sensor: width and height in pixels, such as (34, 34) for N-MNIST.
        by: frames of equal duration, or of equally many events.
        polarities: P: 2 keeps ON and OFF apart, 1 counts them together.
        clip: the largest count; 1 tells only whether there was an event.
        scale: the count that becomes 1. Without clip and scale an image holds the counts themselves.

    Raises:
        DataError: here, a value that nothing can be counted with; when called, events without integer fields
            x, y, p and t, of a polarity other than 0 and 1, or outside the sensor.

    Example:
        >>> events = np.array([(0, 0, 1, 10), (1, 0, 0, 20), (1, 0, 0, 30)], [(axis, int) for axis in "xypt"])
        >>> Framing(frames=2, sensor=(2, 1))(events)[:, 0].tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    """

    frames: int
    sensor: tuple[int, int]
    by: Literal["time", "count"] = "time"
    polarities: Literal[1, 2] = 2
    clip: int | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_whole(self.frames, "frames", error=DataError)
        if self.clip is not None:
            check_whole(self.clip, "clip", error=DataError)
        if len(self.sensor) != 2:
            raise DataError(f"is {self.sensor}", where="sensor", remedy="give width and height")
        for value in self.sensor:
            check_whole(value, "sensor", error=DataError)
        check_choice(self.by, ("time", "count"), "by", error=DataError)
        check_choice(self.polarities, (1, 2), "polarities", error=DataError)
        check_positive(self.scale, "scale", error=DataError)

    def __call__(self, events: np.ndarray, where: str = "recording") -> np.ndarray:
        """Count a structured array of events; `where` names it in an error."""
        x, y, p, t = self._checked(events, where)
        width, height = self.sensor
        if self.polarities == 1:
            p = np.zeros_like(p)
        shape = (self.frames * self.polarities, height, width)
        channel = self._frame(t) * self.polarities + p
        # Not tonic's ToFrame, which drops the remainder, counts in int16, and loses events all at one time.
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
        """The axes as int64, all of them in range."""
        fields = getattr(getattr(events, "dtype", None), "fields", None) or {}
        if any(axis not in fields or fields[axis][0].kind not in "iub" for axis in _AXES):
            raise DataError(
                f"is {type(events).__name__} without integer fields x, y, p and t",
                where=where,
                remedy="give a structured array, such as tonic.io.make_structured_array makes",
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


class Recordings(Protocol):
    """What gives (structured events, class index) by position: a list, or a data set of tonic."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Any, Any]: ...


class EventDataset(Dataset[tuple[Tensor, int]]):
    """Recordings that are read and counted when they are asked for.

    Args:
        recordings: at least one recording.
        framing: how its events become an image.
        positions: the recordings to use, in this order; without it all of them.

    Raises:
        DataError: here, where the first recording cannot be read or does not fit the framing; on access, where
            that one cannot or does not.

    Example:
        >>> events = np.array([(0, 0, 1, 10)], [(axis, int) for axis in "xypt"])
        >>> image, label = EventDataset([(events, 3)], Framing(frames=1, sensor=(2, 2)))[0]
        >>> image.sum().item(), label
        (1.0, 3)
    """

    def __init__(self, recordings: Recordings, framing: Framing, positions: Sequence[int] | None = None) -> None:
        self.recordings, self.framing = recordings, framing
        self.positions = range(len(recordings)) if positions is None else positions
        self.classes: list[str] = list(getattr(recordings, "classes", ()))
        if not len(self):
            raise DataError("holds no recording", where="data set", remedy="give at least one")
        self[0]  # a wrong sensor shows here, not in the middle of a long run

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        position = self.positions[index]
        events, label = self.recordings[position]
        where = f"recording {position}"
        if isinstance(self.recordings, _Folder):
            where = str(self.recordings.paths[position])
        if not is_whole(label, least=0):
            raise DataError(f"has the label {label!r}", where=where, remedy="give a class index, 0 or more")
        return torch.from_numpy(self.framing(events, where)), int(label)


def load(
    source: str | os.PathLike[str] | Recordings,
    framing: Framing,
    *,
    batch_size: int = 100,
    limit: int | None = None,
    seed: int | None = None,
) -> DataLoader[Any]:
    """Open recordings of an event camera as images, with the contract of `rheobase.data.load`.

    A folder holds recordings `<class>/<name>` with one of the endings

    | ending | what it is |
    | --- | --- |
    | `.bin` | 40 bits an event, the format of N-MNIST and N-Caltech101 |
    | `.aedat4` | AEDAT 4, the format of iniVation's cameras and of CIFAR10-DVS as tonic fetches it |

    Other files are left alone. A class index is the position of the class folder's name in sorted order. Reading
    takes tonic (`pip install 'rheobase[events]'`). A list of (events, label) or a data set of tonic, such as
    `tonic.datasets.DVSGesture`, goes without a folder.

    Args:
        source: the folder or the recordings.
        framing: how the events of a recording become an image.
        batch_size: images in a batch.
        limit: read at most that many recordings, the first ones of the order.
        seed: shuffle the recordings once with this seed, before the limit is applied.

    Returns:
        A loader of (float32 images [B, T·P, H, W], int64 labels [B]).

    Raises:
        DataError: nothing is there, the folder is not laid out as above, tonic is missing, or the first recording
            is damaged or does not fit the framing; while iterating, where that is so for a later one.

    Example:
        >>> loader = load("N-MNIST/Test", Framing(frames=4, sensor=(34, 34)), seed=0)  # doctest: +SKIP
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None:
            check_whole(value, name, error=DataError)
    recordings = _Folder(Path(source)) if isinstance(source, str | os.PathLike) else source
    positions = sample_order(len(recordings), limit, seed)
    return DataLoader(EventDataset(recordings, framing, positions), batch_size=batch_size)


# Files


class _Folder:
    """The recordings `<class>/<name>` beneath a folder."""

    def __init__(self, root: Path) -> None:
        try:
            folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
            inside = {folder: sorted(filter(_is_recording, folder.iterdir())) for folder in folders}
        except OSError as cause:
            raise DataError(
                f"cannot be listed ({cause.strerror})",
                where=str(cause.filename or root),
                remedy="give a folder that exists and may be read",
            ) from cause
        for folder in folders or [root]:
            if not inside.get(folder):
                raise DataError(
                    "holds no recording" if folders else "holds no class folder",
                    where=str(folder),
                    remedy=f"give the folder that holds <class>/<name> with the endings {' '.join(_ENDINGS)}",
                )
        self.classes = [folder.name for folder in folders]
        self.paths = [path for paths in inside.values() for path in paths]
        self._labels = [label for label, paths in enumerate(inside.values()) for _ in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return _read(self.paths[index]), self._labels[index]


_ENDINGS = (".bin", ".aedat4")


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() in _ENDINGS and not path.name.startswith(".")


def _read(path: Path) -> np.ndarray:
    """The events of a file; one without any is refused, for it is more likely a failed download."""
    try:
        events = _read_bin(path) if path.suffix.lower() == ".bin" else _tonic().read_aedat4(str(path))
        if not len(events):
            raise ValueError("it holds no event")
    except (DataError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as cause:  # tonic lets any exception through, and aedat's panics are no Exception
        raise DataError(
            f"is damaged, truncated or of another kind ({str(cause) or type(cause).__name__})",
            where=str(path),
            remedy="fetch or write it again, or take it away",
        ) from cause
    return events


def _read_bin(path: Path) -> np.ndarray:
    tonic_io = _tonic()
    size = path.stat().st_size
    if size % 5:  # tonic would read what is there
        raise ValueError(f"its {size} bytes are no multiple of the 5 bytes of an event")
    return tonic_io.read_mnist_file(str(path), dtype=tonic_io.events_struct)


def _tonic() -> Any:
    try:
        import aedat  # noqa: F401  what tonic imports only when it reads AEDAT 4
        from tonic import io
    except ImportError as cause:
        raise DataError(
            f"a package to read them with is missing ({cause})",
            where="recordings",
            remedy="pip install 'rheobase[events]'",
        ) from cause
    return io
