from __future__ import annotations

import base64
import json
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import rheobase as rb
from rheobase.cli import app
from rheobase.core.errors import DataError
from rheobase.data import events
from rheobase.data.events import Framing
from rheobase.data.sampling import sample_order

pytest.importorskip("tonic", reason="recordings are read with tonic: pip install -e '.[events]'")
pytest.importorskip("aedat", reason="AEDAT 4 is read with aedat: pip install -e '.[events]'")

Event = tuple[int, int, int, int]  # x, y, p, t
AXES = [(axis, np.int64) for axis in "xypt"]

# An ON and an OFF event in two corners, and three at (1, 2); 0 to 8 µs.
FIVE: list[Event] = [(0, 0, 1, 0), (1, 2, 1, 1), (1, 2, 0, 5), (1, 2, 1, 6), (3, 2, 0, 8)]

# Written with dv-processing 2.0.4, the camera maker's own library: two packets, LZ4, sensor 8x6.
AEDAT4 = zlib.decompress(
    base64.b64decode(
        "eNqNVM1u00AQHmyD65SmCOXQAwd322OJTVUhDo5JaFIRqaESjUrggtx4W1Y4Xmu9jpSeqj5BXwHEA3DskUNfgLfoDVUIcWVs"
        "EjCJgYw061nvN9/s37drq43W8/vNRnerai+VNlSAFQBo7z1tQWYl7GtwGxYwAriBfgf9iwq/7LsC4PhDc0hFzHhYI5tVm7gl"
        "E80JuU/N0BvQGuGJbIdHnJiRJ9/UiDXuW2PoNNyeAdp5aAb3pBTmWzqqkT4fRILGaX1iylGEBLEULDwm7u6rLcdKkX9N5oId"
        "s9ALOtxPAvoMy09zdHjIt/G/8F4IJqmYk3AvkVEiiwjpkIYy/g9NmtKkcV+wSBYsbDuJJR+Yvie9bMTkWbnqHKxtH8uzI0bF"
        "NGnroLtfSJA7GlZ0jLbFpk6zoHbMTmhvUpKFkriPiooVZL38I+vhPFk8Ef2ZjW8e9KKACypex94gCmjhWq10sblrmetPYsfy"
        "h24pu/9ddI10Vur1T6lmvlV2xyJJ9xLgFkpHwxZB6KlurlTU0WEqpY/aMjzQ4aYBq4GuwzkOK5nGJtb5ze1ieF1x/sGNOoRL"
        "A/PfTWguFpeRVM8RjslGGH7+gE0FfafbeILwr9osXW8drvFbhk18AjRE34N1KNtw9nNq79UluKvoOHppGEAuFhdAUeBxGTbq"
        "APvpxuzUQdVhDa4MOA1yE/kBo7oIqQ=="
    )
)
IN_AEDAT4: list[Event] = [(0, 0, 1, 1000), (7, 5, 0, 1200), (3, 2, 1, 1900), (3, 2, 1, 2500), (7, 0, 0, 3000)]


def structured(recording: list[Event]) -> np.ndarray:
    return np.array(recording, AXES)


def nmnist(recording: list[Event]) -> bytes:
    """Bits of an event, first to last: 8 of x, 8 of y, 1 of p, 23 of t."""
    return b"".join(((x << 32) | (y << 24) | (p << 23) | t).to_bytes(5, "big") for x, y, p, t in recording)


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def counted(recording: list[Event], framing: Framing) -> np.ndarray:
    """The image by walking through the frames' edges, in exact integers."""
    width, height = framing.sensor
    image = np.zeros((framing.frames * framing.polarities, height, width))
    in_order = sorted(recording, key=lambda event: event[3])
    for i, (x, y, p, t) in enumerate(in_order):
        start, end = in_order[0][3], in_order[-1][3]
        at, span = (t - start, end - start) if framing.by == "time" else (i, len(in_order))
        frame = 0
        while frame + 1 < framing.frames and span and at * framing.frames >= (frame + 1) * span:
            frame += 1
        image[frame * framing.polarities + (p if framing.polarities == 2 else 0), y, x] += 1
    return np.minimum(image, framing.clip or np.inf) / framing.scale


def everything(loader: torch.utils.data.DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


# Counting


def test_golden_frames_by_time_and_by_count() -> None:
    by_time = Framing(frames=2, sensor=(4, 3))(structured(FIVE))  # frame 0 ends before 4 µs
    assert by_time.dtype == np.float32
    assert by_time.shape == (4, 3, 4)
    off_0, on_0, off_1, on_1 = by_time
    assert not off_0.any()
    assert [on_0[0, 0], on_0[2, 1], on_0.sum()] == [1, 1, 2]
    assert [off_1[2, 1], off_1[2, 3], off_1.sum()] == [1, 1, 2]
    assert [on_1[2, 1], on_1.sum()] == [1, 1]

    by_count = Framing(frames=2, sensor=(4, 3), by="count", polarities=1)(structured(FIVE))
    assert by_count.shape == (2, 3, 4)
    assert [by_count[0, 0, 0], by_count[0, 2, 1], by_count[0].sum()] == [1, 2, 3]
    assert [by_count[1, 2, 1], by_count[1, 2, 3], by_count[1].sum()] == [1, 1, 2]


recordings = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1), st.integers(0, 2**23 - 1)), max_size=40
) | st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1), st.integers(0, 9)), max_size=40)
framings = st.builds(
    Framing,
    frames=st.integers(1, 9),
    sensor=st.just((4, 3)),
    by=st.sampled_from(["time", "count"]),
    polarities=st.sampled_from([1, 2]),
    clip=st.none() | st.integers(1, 3),
    scale=st.sampled_from([1.0, 2.0, 0.5]),
)


@given(recordings, framings)
def test_frames_are_those_of_a_plain_loop_over_events(recording: list[Event], framing: Framing) -> None:
    np.testing.assert_array_equal(framing(structured(recording)), counted(recording, framing))


@given(recordings, framings, st.integers(-(2**60), 2**60))
def test_the_start_of_time_and_the_order_of_the_file_do_not_matter(
    recording: list[Event], framing: Framing, start: int
) -> None:
    distinct = list({event[3]: event for event in recording}.values())  # by count, ties are cut in the file's order
    moved = [(x, y, p, t + start) for x, y, p, t in reversed(distinct)]
    np.testing.assert_array_equal(framing(structured(moved)), framing(structured(distinct)))


@given(recordings, st.integers(1, 9), st.sampled_from(["time", "count"]))
def test_every_event_is_counted_once_and_frames_by_count_are_equal(
    recording: list[Event], frames: int, by: str
) -> None:
    image = Framing(frames=frames, sensor=(4, 3), by=by)(structured(recording))  # type: ignore[arg-type]
    assert image.sum() == len(recording)
    if by == "count":
        held = image.reshape(frames, -1).sum(1)
        assert held.max() - held.min() <= 1


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False))
def test_where_nothing_remains_tonic_counts_the_same(frames: int, each: int, random: object) -> None:
    from tonic.transforms import ToFrame

    recording = structured([(i % 4, i % 3, i % 2, 3 * i + random.randint(0, 2)) for i in range(frames * each)])  # type: ignore[attr-defined]
    ours = Framing(frames=frames, sensor=(4, 3), by="count")(recording)
    theirs = ToFrame(sensor_size=(4, 3, 2), n_event_bins=frames)(recording)
    np.testing.assert_array_equal(ours, theirs.reshape(-1, 3, 4))


@given(recordings.filter(lambda found: len(found) > 1), st.integers(1, 9))
def test_edges_lie_within_t_of_spikingjellys(recording: list[Event], frames: int) -> None:
    """SpikingJelly: length ⌊D/T⌋, the remainder in the last frame (integrate_events_by_fixed_frames_number)."""
    times = sorted(event[3] for event in recording)
    duration = times[-1] - times[0]
    image = Framing(frames=frames, sensor=(4, 3))(structured(recording))
    before = np.cumsum([0, *image.reshape(frames, -1).sum(1)])
    for i, (first, _) in enumerate(pairwise(before)):
        theirs = times[0] + i * (duration // frames)
        shift = frames - 1 if duration % frames else 0
        assert sum(t < theirs for t in times) <= first <= sum(t < theirs + shift for t in times)


def test_more_events_than_int16_holds() -> None:
    assert Framing(frames=1, sensor=(1, 1))(structured([(0, 0, 1, 0)] * 40_000)).max() == 40_000


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    second = [(2, 1, 0, 7), (2, 1, 0, 9)]
    return write(
        tmp_path / "Test",
        {"1/b.bin": nmnist(second), "0/a.bin": nmnist(FIVE), "1/a.BIN": nmnist(FIVE[:2]), "0/notes.txt": b"x"},
    )


@pytest.mark.parametrize("by", ["time", "count"])
def test_from_bytes_on_disk_to_merged_channels(folder: Path, by: str) -> None:
    framing = Framing(frames=3, sensor=(4, 3), by=by)  # type: ignore[arg-type]
    loader = events.load(folder, framing, batch_size=2)
    images, labels = everything(loader)
    assert loader.dataset.classes == ["0", "1"]  # type: ignore[attr-defined]
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1]
    want = [counted(recording, framing) for recording in (FIVE, FIVE[:2], [(2, 1, 0, 7), (2, 1, 0, 9)])]
    np.testing.assert_array_equal(images.numpy(), np.stack(want))


@given(recordings.filter(bool))
def test_any_recording_survives_the_file(recording: list[Event]) -> None:
    import tempfile

    framing = Framing(frames=4, sensor=(4, 3))
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), {"0/0.bin": nmnist(recording)})
        images, _ = everything(events.load(name, framing))
    np.testing.assert_array_equal(images[0].numpy(), counted(recording, framing))


def test_aedat4_of_the_camera_makers_library(tmp_path: Path) -> None:
    framing = Framing(frames=2, sensor=(8, 6))
    images, labels = everything(events.load(write(tmp_path, {"cat/0.aedat4": AEDAT4}), framing))
    assert labels.tolist() == [0]
    np.testing.assert_array_equal(images[0].numpy(), counted(IN_AEDAT4, framing))


def test_limit_and_seed_choose_as_for_images(folder: Path) -> None:
    framing = Framing(frames=1, sensor=(4, 3))
    images, labels = everything(events.load(folder, framing))
    chosen, chosen_labels = everything(events.load(folder, framing, seed=5, limit=2))
    order = sample_order(3, 2, 5)
    assert order != [0, 1]
    assert torch.equal(chosen, images[order])
    assert torch.equal(chosen_labels, labels[order])


def test_recordings_in_memory_such_as_a_data_set_of_tonic() -> None:
    from tonic.io import make_structured_array

    class Two:
        classes = ("off", "on")

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64]:
            return make_structured_array([1, 2], [0, 0], [3, 4], [index, index]), np.int64(index)

    loader = events.load(Two(), Framing(frames=1, sensor=(4, 1)))
    images, labels = everything(loader)
    assert loader.dataset.classes == ["off", "on"]  # type: ignore[attr-defined]
    assert labels.tolist() == [0, 1]
    assert images[0].tolist() == [[[0, 1, 1, 0]], [[0, 0, 0, 0]]]
    assert images[1].tolist() == [[[0, 0, 0, 0]], [[0, 1, 1, 0]]]


# Conversion, and the command line

MODULE = """
import torch
from torch import nn
from rheobase.data import events

def recordings():
    return events.load("Test", events.Framing(frames=2, sensor=(4, 3)), seed=0)

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).eval()
"""


def test_the_frames_are_converted_and_evaluated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    Path("event_net.py").write_text(MODULE)
    converted = CliRunner().invoke(
        app, ["convert", "event_net:network", "--data", "event_net:recordings", "--timesteps", "4", "--out", "snn"]
    )
    assert converted.exit_code == 0, converted.output
    network = rb.load("snn")
    assert network.graph.input_shape == (4, 3, 4)
    evaluated = CliRunner().invoke(app, ["evaluate", "snn", "--data", "event_net:recordings", "--json"])
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)["evaluation"]["images"] == 3


# What is refused


def refusal(source: object, **options: object) -> str:
    chosen = {"framing": Framing(frames=2, sensor=(4, 3)), **options}
    with pytest.raises(DataError) as caught:
        everything(events.load(source, **chosen))  # type: ignore[arg-type]
    assert caught.value.where
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize("bad", [b"", nmnist(FIVE)[:-1], nmnist(FIVE)[:-2], nmnist(FIVE)[:-3], nmnist(FIVE) + b"x"])
@pytest.mark.parametrize("name", ["0/a.bin", "1/b.bin"])  # read at once, and later
def test_a_damaged_bin_is_named(folder: Path, bad: bytes, name: str) -> None:
    write(folder, {name: bad})
    message = refusal(folder)
    assert str(folder / name) in message
    assert "holds no event" in message if not bad else "not a multiple of 5 bytes" in message


def test_a_bin_of_time_overflows_alone_holds_no_event(folder: Path) -> None:
    assert "holds no event" in refusal(write(folder, {"0/a.bin": nmnist([(0, 240, 0, 0)] * 3)}))


@pytest.mark.parametrize("length", [0, 5, 14, 100, 900, 960])
def test_a_truncated_aedat4_is_named(tmp_path: Path, length: int) -> None:
    message = refusal(write(tmp_path, {"0/a.aedat4": AEDAT4[:length]}), framing=Framing(frames=2, sensor=(8, 6)))
    assert "a.aedat4" in message
    assert "damaged" in message


@pytest.mark.parametrize(("event", "place"), [((4, 0, 0, 0), "x 4, y 0"), ((0, 3, 1, 0), "x 0, y 3")])
def test_events_outside_the_sensor_are_refused_with_the_file(folder: Path, event: Event, place: str) -> None:
    message = refusal(write(folder, {"1/b.bin": nmnist([*FIVE, event])}))
    assert f"1 of 6 events outside the sensor of 4x3, such as at {place}" in message
    assert str(folder / "1" / "b.bin") in message


def test_folders_that_are_laid_out_otherwise(tmp_path: Path, folder: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nothing")
    assert "Not a directory" in refusal(folder / "0" / "a.bin")
    assert "holds no class folder" in refusal(write(tmp_path / "flat", {"a.bin": nmnist(FIVE), ".x/a.bin": b""}))
    assert "holds no recording" in refusal(tmp_path)  # one level too high
    (folder / "2").mkdir()
    message = refusal(folder)
    assert str(folder / "2") in message
    assert "holds no recording" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("frames", value) for value in (0, -1, 1.5)),
        *(("sensor", value) for value in ((4, 0), (4, 3, 2))),
        *(("scale", value) for value in (0.0, float("nan"))),
        ("by", "events"),
        ("polarities", 3),
        ("clip", 0),
    ],
)
def test_framings_that_count_nothing(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"framing: {field}.*Remedy"):
        Framing(**{"frames": 2, "sensor": (4, 3), field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"limit": 0}])
def test_amounts_below_one(folder: Path, options: dict[str, int]) -> None:
    assert "use a whole number from 1" in refusal(folder, **options)


@pytest.mark.parametrize(
    ("recordings", "reason"),
    [
        ([], "holds no recording"),
        ([(structured(FIVE), "cat")], "recording 0: has the label 'cat'"),
        ([(structured(FIVE), -1)], "recording 0: has the label -1"),
        ([(structured([(0, 0, 0, 0), (0, 0, -1, 0)]), 0)], "recording 0: has polarity -1"),
        ([(structured([(-1, 0, 0, 0)]), 0)], "outside the sensor"),
        ([(np.zeros((3, 4), int), 0)], "without integer fields x, y, p and t"),
        ([(structured(FIVE).astype([(axis, float) for axis in "xypt"]), 0)], "without integer fields x, y, p and t"),
        ([(torch.zeros(3, 4), 0)], "Tensor without integer fields"),
        ([(structured(FIVE), 0), (structured(FIVE)[["x", "y", "p"]], 0)], "recording 1"),
    ],
)
def test_recordings_in_memory_that_are_none(recordings: list[tuple[object, object]], reason: str) -> None:
    assert reason in refusal(recordings)


@pytest.mark.parametrize("package", ["tonic", "aedat"])
def test_without_the_packages_the_extra_is_named(folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(folder)
    assert package in message
    assert "pip install 'rheobase[events]'" in message
    images, _ = everything(events.load([(structured(FIVE), 0)], Framing(frames=1, sensor=(4, 3))))
    assert images.sum() == len(FIVE)  # what needs no file needs no package
