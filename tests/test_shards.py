"""Many archives as one data set, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rheobase as rb
from command_line import assert_refused, runner
from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.readers import load
from rheobase.data.readers.tars import archives
from rheobase.data.sampling import sample
from test_data import everything, plain, refusal, write_tar

BLACK = plain(0, 0, 0)


def write_shards(root: Path, kind: str = "cls", ending: str = "tar", shards: int = 3) -> Path:
    """Shards of four images each, whose first channel is their number and whose label is its remainder by 3."""
    root.mkdir(exist_ok=True)
    for shard in range(shards):
        tree = {}
        for n in range(4 * shard, 4 * shard + 4):
            tree[f"{n:04}.jpg" if kind != "class folders" else f"{n % 3}/{n:04}.png"] = plain(n, 0, 0)
            if kind == "cls":
                tree[f"{n:04}.cls"] = str(n % 3).encode()
                tree[f"{n:04}.json"] = b'{"caption": "no class"}'
            elif kind == "json":
                tree[f"{n:04}.json"] = json.dumps({"label": n % 3, "width": 4}).encode()
        write_tar(root / f"train-{shard:03}.{ending}", tree)
    return root


def numbers_of(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


@pytest.mark.parametrize("spec", ["", "train-{000..002}.tar", "train-*.tar", "train-00?.tar", "train-0{00..01}*.tar"])
@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards_in_order(tmp_path: Path, spec: str, kind: str) -> None:
    images, labels = everything(load(write_shards(tmp_path / "shards", kind) / spec))
    expected = list(range(8 if "01}" in spec else 12))
    assert numbers_of(images) == expected
    assert labels.tolist() == [n % 3 for n in expected]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("readers", [0, 2])
def test_the_same_images_for_any_number_of_processes(tmp_path: Path, ending: str, readers: int) -> None:
    loader = load(write_shards(tmp_path, ending=ending), seed=3, limit=7, readers=readers, batch_size=2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3)).tolist()[:7]
    images, labels = everything(loader)
    assert numbers_of(images) == order
    assert labels.tolist() == [n % 3 for n in order]


def test_class_folders_in_several_archives(tmp_path: Path) -> None:
    loader = load(write_shards(tmp_path, "class folders"))
    images, labels = everything(loader)
    assert loader.dataset.classes == ["0", "1", "2"]  # type: ignore[attr-defined]
    assert [n % 3 for n in numbers_of(images)] == labels.tolist()
    assert sorted(numbers_of(images)) == list(range(12))


def test_only_the_drawn_images_are_decoded(tmp_path: Path) -> None:
    """A damaged image that is not in the sample is never seen."""
    write_shards(tmp_path)
    write_tar(tmp_path / "train-003.tar", {"0012.jpg": b"no image", "0012.cls": b"0"})
    drawn = sample(load(tmp_path), 4, seed=0)
    assert drawn.given == 13
    assert numbers_of(drawn.images) == list(drawn.numbers)


def test_a_file_of_json_beside_class_folders_is_ignored(tmp_path: Path) -> None:
    tree = {"a/1.png": plain(1, 1, 1), "a/1.json": b'{"label": 7}', "b/2.png": plain(2, 2, 2)}
    assert everything(load(write_tar(tmp_path / "d.tar", tree)))[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("tree", "where", "reason"),
    [
        ({"1.jpg": BLACK, "1.cls": b"0", "2.jpg": BLACK, "3.jpg": BLACK}, "2.jpg", "has no label, like 1 more"),
        ({"1.jpg": BLACK, "1.cls": b"cat"}, "1.cls", "is damaged"),
        ({"1.jpg": BLACK, "1.cls": b"1.5"}, "1.cls", "names no class"),
        ({"1.jpg": BLACK, "1.json": b'{"caption": "a cat"}'}, "1.json", "names no class"),
        ({"1.jpg": BLACK, "1.json": b"{"}, "1.json", "is damaged"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, tree: dict[str, bytes], where: str, reason: str) -> None:
    path = write_tar(tmp_path / "d.tar", tree)
    error = refusal(path)
    assert error.where == f"{path}:{where}"
    assert error.reason.startswith(reason)


def test_a_file_in_two_archives(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {"cat/1.png": plain(1, 1, 1)})
    error = refusal(tmp_path)
    assert (error.where, error.reason) == (f"{tmp_path / 'b.tar'}:cat/1.png", "is in a.tar too")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("train-{000..004}.tar", "stands for 5 archives, of which 2 do not exist, such as train-003.tar"),
        ("test-*.tar", "fits no file"),
        ("train-{3..0}.tar", "has a range that ends before it starts"),
    ],
)
def test_a_pattern_of_archives_that_are_not_there(tmp_path: Path, pattern: str, reason: str) -> None:
    error = refusal(write_shards(tmp_path) / pattern)
    assert (error.where, error.reason) == (str(tmp_path / pattern), reason)


def test_a_range_has_the_digits_of_its_first_number(tmp_path: Path) -> None:
    for name in ("8", "9", "10", "11"):
        (tmp_path / f"{name}.tar").write_bytes(b"")
    assert [path.name for path in archives(tmp_path / "{8..11}.tar")] == ["8.tar", "9.tar", "10.tar", "11.tar"]


def damage(path: Path) -> None:
    """Overwrite the third image's header, and all after it."""
    content = path.read_bytes()
    at = content.index(b"0006.jpg")
    path.write_bytes(content[:at] + b"\xff" * (len(content) - at))


def test_a_damaged_archive_is_refused_or_the_rest_goes_on(tmp_path: Path) -> None:
    damage(write_shards(tmp_path) / "train-001.tar")
    error = refusal(tmp_path)
    assert error.where == str(tmp_path / "train-001.tar")
    with pytest.warns(RheobaseWarning, match=r"train-001.tar: is damaged, .*; the rest of it is left out"):
        images, labels = everything(load(tmp_path, skip_damaged=True))
    assert numbers_of(images) == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]
    assert labels.tolist() == [n % 3 for n in numbers_of(images)]


def test_damaged_images_are_refused_or_left_out(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_tar(tmp_path / "train-003.tar", {"0012.jpg": BLACK[:40], "0012.cls": b"0"})
    assert refusal(tmp_path).where == f"{tmp_path / 'train-003.tar'}:0012.jpg"
    with pytest.warns(RheobaseWarning, match=r"1 of 13 images are damaged and left out: .*train-003.tar:0012.jpg"):
        assert numbers_of(everything(load(tmp_path, skip_damaged=True))[0]) == list(range(12))


def test_skipping_does_not_hide_other_errors(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "d.tar", {"a/0.png": plain(0, 0, 0, width=6), "b/1.png": plain(0, 0, 0, width=8)})
    with pytest.raises(DataError, match="becomes 8x4"):
        everything(load(path, skip_damaged=True))
    with pytest.raises(DataError, match="skip_damaged: has no effect on the data of"):
        load("rheobase.zoo.digits:digits_test", skip_damaged=True)
    with pytest.raises(DataError, match="readers: is -1"):
        load(path, readers=-1)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network is converted and evaluated on shards, of which one is damaged, read by another process."""
    shards = write_shards(tmp_path / "shards")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    rb.save(rb.convert(net, rb.RateCoding(timesteps=2), calibration=everything(load(shards))[0]), tmp_path / "net")
    damage(shards / "train-001.tar")
    command = ["evaluate", str(tmp_path / "net"), "--data", str(shards / "train-{000..002}.tar")]
    run = runner(capsys)
    assert_refused(run(*command, "--scale", 255, "--json"), "train-001.tar: is damaged")
    done = run(*command, "--skip-damaged", "--readers", 1, "--device", "cpu,cpu")
    assert done.code == 0, done.err
    assert "10 images" in done.out
    assert "the rest of it is left out" in done.err
