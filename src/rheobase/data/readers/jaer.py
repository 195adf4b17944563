"""Events of AEDAT 2 and 3.1 files, the formats of jAER and cAER.

Not tonic's readers, of which 1.7.0 fails on the header of most cameras, swaps x and y of the DVS128, and takes frames
and other packets of AEDAT 3.1 for events. Formats: docs.inivation.com, "AEDAT file formats"; addresses of AEDAT 2 as
jAER decodes them (classes DVS128 and DavisBaseCamera), with y counted from the top, as in images.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

import numpy as np

from rheobase.core.errors import DataError

EVENTS = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", bool)])
_DAVIS = {128: (128, 128), 208: (208, 192), 240: (240, 180), 346: (346, 260), 640: (640, 480)}
"""Number in the name of a DAVIS camera -> width and height."""
_PACKET = struct.Struct("<hhiiiiii")
"""Type, source, bytes of an event, offset of its time, overflow of times, capacity, number, number of valid events."""
_POLARITY = 1


def version(path: Path) -> int:
    """The major version of AEDAT that the first line names; 0 if it names none."""
    with path.open("rb") as stream:
        found = re.match(rb"#!AER-DAT(\d)\.\d", stream.read(16))
    return int(found[1]) if found else 0


def read(path: Path, sensor: tuple[int, int], start: int | None = None, stop: int | None = None) -> np.ndarray:
    """The events of an AEDAT 2 or 3.1 file as a structured array with x, y, t (µs) and p.

    Args:
        path: the file.
        sensor: width and height of the camera, for AEDAT 2 files that do not name it.
        start, stop: only events with start ≤ t < stop, in µs.

    Raises:
        DataError: if the camera of an AEDAT 2 file is unknown.
        ValueError: if the file is damaged or of another version.
    """
    first, last = -np.inf if start is None else start, np.inf if stop is None else stop
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        header, begin = _header(content)
        if header.startswith("#!AER-DAT2."):
            events = _version_2(content[begin:], *_camera(header, sensor, str(path)))
            return events[(events["t"] >= first) & (events["t"] < last)]
        if header.startswith("#!AER-DAT3.1"):
            return _version_3(content, begin, header, first, last)
        raise ValueError("its first line does not name AEDAT 2 or 3.1")


def _header(content: mmap.mmap) -> tuple[str, int]:
    """The lines that start with # and are text, and where the data begin."""
    begin = 0
    while content[begin : begin + 1] == b"#":
        end = content.find(b"\n", begin) + 1
        line = content[begin:end]
        if not end or re.search(rb"[^\t\r\n -~]", line):  # the data of AEDAT 2 may start with the byte of #
            break
        begin = end
        if line.startswith(b"#!END-HEADER"):
            break
    return content[:begin].decode("ascii"), begin


def _camera(header: str, sensor: tuple[int, int], where: str) -> tuple[bool, tuple[int, int]]:
    """Whether the camera of an AEDAT 2 file is a DAVIS, and its width and height."""
    found = re.search(r"AEChip:.*?(?:(DVS128|Tmpdiff128)|Davis(\d+)|SBret10)", header, re.IGNORECASE)
    if found is None and sensor in ((128, 128), *_DAVIS.values()):
        return sensor != (128, 128), sensor
    if found is None or (found[2] and int(found[2]) not in _DAVIS):
        named = re.search(r"AEChip:\s*(\S+)", header)
        reason = f"was recorded by {named[1]}, whose addresses are unknown" if named else "does not name its camera"
        cameras = ", ".join(f"{width}x{height}" for width, height in _DAVIS.values())
        remedy = f"give the sensor of a DVS128 or DAVIS ({cameras}), or pass a list of (events, label)"
        raise DataError(reason, where=where, remedy=remedy)
    if found[1]:
        return False, (128, 128)
    return True, _DAVIS[int(found[2] or 240)]


def _version_2(data: bytes, is_davis: bool, size: tuple[int, int]) -> np.ndarray:
    """Pairs of address and time in µs, big-endian, of 8 bytes."""
    if len(data) % 8:
        raise ValueError(f"its {len(data)} bytes of data are not a multiple of 8 bytes per event")
    address, time = np.frombuffer(data, ">u4").astype(np.uint32).reshape(-1, 2).T
    elapsed = np.diff(time).view(np.int32).astype(np.int64)  # times of 32 bits overflow
    time = np.concatenate([time[:1].astype(np.int64), elapsed]).cumsum()
    if is_davis:  # without frames (bit 31), and inertial samples and external events (bit 10)
        is_event, polarity = (address & 0x80000400) == 0, address >> 11 & 1
        x, y = address >> 12 & 0x3FF, address >> 22 & 0x1FF
    else:  # without external events (bit 15); the bit of an ON event is 0
        is_event, polarity = (address & 0x8000) == 0, ~address & 1
        x, y = address >> 1 & 0x7F, address >> 8 & 0x7F
    return _structured(size[0] - 1 - x.astype(int), size[1] - 1 - y.astype(int), time, polarity)[is_event]


def _version_3(content: mmap.mmap, begin: int, header: str, first: float, last: float) -> np.ndarray:
    """The polarity events of packets, each of an address and a time in µs, little-endian."""
    packing = re.search(r"#Format: *(\S+)", header)
    if packing and packing[1] != "RAW":
        raise ValueError(f"its packets are packed as {packing[1]}, only RAW is read")
    parts = [np.empty(0, EVENTS)]
    while begin < len(content):
        if len(content) - begin < _PACKET.size:
            raise ValueError("its last packet is incomplete")
        kind, _, size, _, overflow, capacity, number, valid = _PACKET.unpack_from(content, begin)
        begin += _PACKET.size
        end = begin + size * capacity
        if size <= 0 or not 0 <= number <= capacity or (kind == _POLARITY and size != 8):
            raise ValueError(f"the packet before byte {begin} has {number} of {capacity} events of {size} bytes")
        if end > len(content):
            raise ValueError("its last packet is incomplete")
        if kind == _POLARITY:
            data, time = np.frombuffer(content[begin : begin + 8 * number], "<u4").reshape(-1, 2).T
            time = time.astype(np.int64) + (overflow << 31)
            wanted = (time >= first) & (time < last)
            if valid < number:
                wanted &= (data & 1).astype(bool)
            if wanted.any():
                data, time = data[wanted], time[wanted]
                parts.append(_structured(data >> 17, data >> 2 & 0x7FFF, time, data >> 1 & 1))
        begin = end
    return np.concatenate(parts)


def _structured(x: np.ndarray, y: np.ndarray, t: np.ndarray, p: np.ndarray) -> np.ndarray:
    events = np.empty(len(t), EVENTS)
    events["x"], events["y"], events["t"], events["p"] = x, y, t, p
    return events
