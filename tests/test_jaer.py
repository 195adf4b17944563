"""Event files of jAER and cAER, and the data sets that are published in them; no file needs another package."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheobase.core.errors import DataError
from rheobase.data import events
from rheobase.data.events import Framing
from rheobase.data.readers import jaer

Event = tuple[int, int, int, int]  # x, y, p, t

HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"
DVS128 = HEADER + b"# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n"
DAVIS346 = HEADER + b"# AEChip: eu.seebetter.ini.chips.davis.Davis346red\r\n"
HEADER_3 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def pairs(addresses: list[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack(">II", address, t % 2**32) for address, t in addresses)


def dvs128(recording: list[Event]) -> bytes:
    """Bits: 14-8 of y from below, 7-1 of x from the right, 0 is 0 for ON."""
    return pairs([((127 - y) << 8 | (127 - x) << 1 | (1 - p), t) for x, y, p, t in recording])


def davis(recording: list[Event], width: int = 346, height: int = 260) -> bytes:
    """Bits: 31 is 0, 30-22 of y from below, 21-12 of x from the right, 11 is 1 for ON, 10 is 0."""
    return pairs([((height - 1 - y) << 22 | (width - 1 - x) << 12 | p << 11, t) for x, y, p, t in recording])


def packet(recording: list[Event], *, kind: int = 1, overflow: int = 0, valid: list[int] | None = None) -> bytes:
    """Bits of an address: 31-17 of x, 16-2 of y from above, 1 of p, 0 of validity."""
    marks = valid or [1] * len(recording)
    body = b"".join(
        struct.pack("<II", x << 17 | y << 2 | p << 1 | mark, t)
        for (x, y, p, t), mark in zip(recording, marks, strict=True)
    )
    return struct.pack("<hhiiiiii", kind, 1, 8, 4, overflow, len(recording), len(recording), sum(marks)) + body


def found(path: Path, **options: int) -> list[Event]:
    read = jaer.read(path, (346, 260), **options)  # type: ignore[arg-type]
    assert read.dtype == jaer.EVENTS
    return [(int(e["x"]), int(e["y"]), int(e["p"]), int(e["t"])) for e in read]


def written(folder: Path, content: bytes, name: str = "a.aedat") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def recordings(width: int, height: int) -> st.SearchStrategy[list[Event]]:
    one = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 1), st.integers(0, 2**31 - 1))
    return st.lists(one, min_size=1, max_size=20).map(lambda every: sorted(every, key=lambda event: event[3]))


@given(recordings(128, 128))
def test_any_recording_of_a_dvs128(tmp_path_factory: pytest.TempPathFactory, recording: list[Event]) -> None:
    assert found(written(tmp_path_factory.mktemp("data"), DVS128 + dvs128(recording))) == recording


@given(recordings(346, 260))
def test_any_recording_of_a_davis(tmp_path_factory: pytest.TempPathFactory, recording: list[Event]) -> None:
    folder = tmp_path_factory.mktemp("data")
    assert found(written(folder, DAVIS346 + davis(recording))) == recording
    assert found(written(folder, HEADER + davis(recording))) == recording  # by the sensor


@given(recordings(2**15, 2**15), st.integers(0, 20), st.integers(0, 3))
def test_any_recording_in_aedat_3(
    tmp_path_factory: pytest.TempPathFactory, recording: list[Event], cut: int, overflow: int
) -> None:
    path = written(
        tmp_path_factory.mktemp("data"),
        HEADER_3 + packet(recording[:cut]) + packet(recording[cut:], overflow=overflow),
    )
    expected = [(x, y, p, t + (overflow << 31 if i >= cut else 0)) for i, (x, y, p, t) in enumerate(recording)]
    assert found(path) == expected
    start, stop = recording[0][3], recording[len(recording) // 2][3]
    assert found(path, start=start, stop=stop) == [event for event in expected if start <= event[3] < stop]


TWO: list[Event] = [(3, 5, 1, 100), (7, 1, 0, 250)]


def test_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    external, frame, inertial = (1 << 15, 120), (1 << 31 | 5 << 12, 130), (1 << 10, 140)
    assert found(written(tmp_path, DVS128 + dvs128(TWO[:1]) + pairs([external]) + dvs128(TWO[1:]))) == TWO
    assert found(written(tmp_path, DAVIS346 + davis(TWO[:1]) + pairs([frame, inertial]) + davis(TWO[1:]))) == TWO
    special = packet([(0, 0, 0, 7)], kind=0)
    image = struct.pack("<hhiiiiii", 2, 1, 36, 12, 0, 1, 1, 1) + bytes(36)
    invalid = packet([(9, 9, 1, 120), *TWO], valid=[0, 1, 1])
    assert found(written(tmp_path, HEADER_3 + special + image + invalid + packet([]))) == TWO
    unmarked = packet(TWO, valid=[0, 0]).replace(struct.pack("<iii", 2, 2, 0), struct.pack("<iii", 2, 2, 2))
    assert found(written(tmp_path, HEADER_3 + unmarked)) == TWO


def test_data_that_start_with_the_byte_of_a_comment(tmp_path: Path) -> None:
    recording = [(2, 259 - (0x23000000 >> 22), 0, 5), (4, 4, 1, 10)]
    content = DAVIS346 + davis(recording)
    assert content[len(DAVIS346) : len(DAVIS346) + 1] == b"#"
    assert found(written(tmp_path, content)) == recording


def test_times_that_overflow(tmp_path: Path) -> None:
    times = [2**32 - 10, 2**32 - 5, 2**32 + 5, 2**32 + 3]
    recording = [(1, 1, 1, t) for t in times]
    assert [event[3] for event in found(written(tmp_path, DVS128 + dvs128(recording)))] == times


def test_tonic_reads_the_same_words(tmp_path: Path) -> None:
    """Where tonic is right: one packet, of polarity events alone."""
    io = pytest.importorskip("tonic.io")
    for content, version, data in ((DVS128 + dvs128(TWO), 2.0, dvs128(TWO)), (HEADER_3 + packet(TWO), 3.1, b"")):
        path = written(tmp_path, content)
        words = io.get_aer_events_from_file(str(path), version, len(DVS128) if data else len(HEADER_3))
        assert words["timeStamp"].tolist() == [event[3] for event in found(path)]
        if not data:
            assert [int(word) >> 17 for word in words["address"]] == [event[0] for event in found(path)]


# Data sets


def images(source: Path, **options: object) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    loader = events.load(source, Framing(frames=1, sensor=(128, 128)), **options)  # type: ignore[arg-type]
    (batch,) = list(loader)
    return *batch, loader.dataset.classes  # type: ignore[attr-defined, return-value]


@pytest.fixture
def gestures(tmp_path: Path) -> Path:
    """The layout of DVS128 Gesture: a file has several samples."""
    first, second = [(x, x, 1, 1000 * x) for x in range(10)], [(0, x, 0, 2**31 - 5 + x) for x in range(10)]
    written(tmp_path, HEADER_3 + packet(first[:4]) + packet(first[4:]), "user01_led.aedat")
    tail = [(x, y, p, t - 2**31) for x, y, p, t in second[5:]]
    written(tmp_path, HEADER_3 + packet(second[:5]) + packet(tail, overflow=1), "user02_led.aedat")
    head = "class,startTime_usec,endTime_usec\r\n"
    written(tmp_path, f"{head}3,1000,3000\r\n1,5000,9001\r\n".encode(), "user01_led_labels.csv")
    written(tmp_path, f"{head}2,{2**31 - 2},{2**31 + 3}\r\n".encode(), "user02_led_labels.csv")
    written(tmp_path, b"user01_led.aedat\r\n", "trials_to_train.txt")
    written(tmp_path, b"user02_led.aedat\n", "trials_to_test.txt")
    written(tmp_path, b"action,label\nclap,1\nwave,2\nroll,3\n", "gesture_mapping.csv")
    return tmp_path


def test_dvs_gesture(gestures: Path) -> None:
    found, labels, classes = images(gestures, folder="train")
    assert labels.tolist() == [2, 0]
    assert classes == ["clap", "wave", "roll"]
    assert [found[i, 1].nonzero().tolist() for i in range(2)] == [[[1, 1], [2, 2]], [[x, x] for x in range(5, 10)]]
    found, labels, _ = images(gestures, folder="test")
    assert labels.tolist() == [1]
    assert found[0, 0].nonzero().tolist() == [[y, 0] for y in range(3, 8)]
    with pytest.raises(DataError, match=r"both train and test.*choose folder test or train"):
        images(gestures)
    for name in ("trials_to_train.txt", "trials_to_test.txt", "gesture_mapping.csv"):
        (gestures / name).unlink()
    assert images(gestures)[2] == ["1", "2", "3"]
    assert len(images(gestures)[0]) == 3


@pytest.mark.parametrize(
    "content", [b"class,start,end\n0,1,2\n", b"class,start,end\n1,2\n", b"class,start,end\n1,a,b\n"]
)
def test_faulty_labels_are_named(gestures: Path, content: bytes) -> None:
    written(gestures, content, "user01_led_labels.csv")
    with pytest.raises(DataError, match=r"user01_led_labels\.csv"):
        images(gestures, folder="train")


def test_a_sample_without_events_is_named(gestures: Path) -> None:
    written(gestures, b"class,start,end\n1,90000,90001\n", "user01_led_labels.csv")
    with pytest.raises(DataError, match=r"user01_led.aedat from 90000 to 90001 µs.*no event"):
        images(gestures, folder="train")


def test_cifar10_dvs_as_published(tmp_path: Path) -> None:
    """Class folders of files that do not name the camera."""
    for name, recording in (("bird/b.aedat", TWO), ("airplane/a.aedat", TWO[:1])):
        written(tmp_path, HEADER + dvs128(recording), name)
    found, labels, classes = images(tmp_path)
    assert (labels.tolist(), classes) == ([0, 1], ["airplane", "bird"])
    assert found.sum((1, 2, 3)).tolist() == [1, 2]
    assert found[1, 0, 1, 7] == found[1, 1, 5, 3] == 1


def test_n_caltech101_as_published(tmp_path: Path) -> None:
    """Folders of `.bin` files of an ATIS, with overflows of the time, next to a folder of annotations."""
    pytest.importorskip("tonic")

    def event(x: int, y: int, p: int, t: int) -> bytes:
        return ((x << 32) | (y << 24) | (p << 23) | t).to_bytes(5, "big")

    recording = event(239, 179, 1, 10) + event(0, 240, 0, 0) + event(0, 0, 0, 20)
    for name in ("accordion", "BACKGROUND_Google"):
        written(tmp_path, recording, f"Caltech101/{name}/image_0001.bin")
        written(tmp_path, b"\0" * 8, f"Caltech101_annotations/{name}/annotation_0001.bin")
    framing = Framing(frames=2, sensor=(240, 180))
    loader = events.load(tmp_path, framing, folder="Caltech101")
    ((found, labels),) = list(loader)
    assert loader.dataset.classes == ["BACKGROUND_Google", "accordion"]  # type: ignore[attr-defined]
    assert labels.tolist() == [0, 1]
    assert found[0].nonzero().tolist() == [[1, 179, 239], [2, 0, 0]]
    with pytest.raises(DataError, match=r"--folder\) Caltech101 or Caltech101_annotations"):
        events.load(tmp_path, framing)


# What is refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"#!AER-DAT1.0\r\n" + bytes(6), "does not name AEDAT 2 or 3.1"),
        (bytes(16), "does not name AEDAT 2 or 3.1"),
        (DVS128 + dvs128(TWO)[:-1], "not a multiple of 8 bytes"),
        (DVS128, "holds no event"),
        (HEADER_3 + packet(TWO)[:-1], "last packet is incomplete"),
        (HEADER_3 + packet(TWO) + bytes(10), "last packet is incomplete"),
        (HEADER_3 + bytes(28), "0 of 0 events of 0 bytes"),
        (HEADER_3.replace(b"RAW", b"Serial-TS") + packet(TWO), "packed as Serial-TS"),
        (HEADER + b"# AEChip: org.example.Cochlea\r\n" + dvs128(TWO), "recorded by org.example.Cochlea"),
    ],
)
def test_damaged_and_other_files_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = written(tmp_path, content, "cat/a.aedat")
    with pytest.raises(DataError) as caught:
        events.load(tmp_path, Framing(frames=1, sensor=(100, 100)))
    assert caught.value.where == str(path)
    assert said in caught.value.reason
    assert caught.value.remedy


def test_an_unknown_camera_has_a_remedy(tmp_path: Path) -> None:
    written(tmp_path, HEADER + dvs128(TWO), "cat/a.aedat")
    with pytest.raises(DataError, match=r"does not name its camera.*128x128, .*346x260"):
        events.load(tmp_path, Framing(frames=1, sensor=(100, 100)))


def test_a_folder_for_a_list_is_refused() -> None:
    recording = np.array(TWO, [(axis, int) for axis in "xypt"])
    with pytest.raises(DataError, match="folder: has no effect"):
        events.load([(recording, 0)], Framing(frames=1, sensor=(8, 8)), folder="train")
