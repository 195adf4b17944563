from __future__ import annotations

import gzip
import io
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stand_ins
from rheobase.core.errors import DataError, RheobaseWarning
from rheobase.data.batches import batches
from rheobase.data.readers import Preprocessing, load, read_all
from rheobase.data.readers.arrays import mapped_member
from rheobase.data.sampling import sample_order
from test_docs import ROOT, write_modules

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def plain(*rgb: int, width: int = 4, height: int = 4) -> bytes:
    return encode(np.full((height, width, 3), rgb, np.uint8))


BLACK = plain(0, 0, 0)
TREE = {
    "test/cat/0.png": plain(0, 51, 102),
    "test/cat/1.png": plain(10, 10, 10),
    "test/ant/0.png": plain(255, 255, 255),
    "train/ant/0.png": plain(1, 1, 1),
    "train/cat/0.png": plain(2, 2, 2),
}


def write_tree(root: Path, tree: dict[str, bytes] = TREE) -> Path:
    for name, content in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path: Path, tree: dict[str, bytes] = TREE, prefix: str = "") -> Path:
    ending = path.suffix.removeprefix(".")
    with tarfile.open(path, "w:" if ending == "tar" else f"w:{ending}") as archive:  # type: ignore[call-overload]
        for name, content in tree.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def in_both(root: Path, tree: dict[str, bytes]) -> list[Path]:
    return [write_tree(root / "tree", tree), write_tar(root / "data.tar", tree)]


def write_idx(path: Path, array: np.ndarray) -> None:
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(root: Path, stem: str, count: int = 3, ending: str = "") -> None:
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
    write_idx(root / f"{stem}-images-idx3-ubyte{ending}", images)
    write_idx(root / f"{stem}-labels-idx1-ubyte{ending}", np.arange(count, dtype=np.uint8))


def everything(loader: torch.utils.data.DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def refusal(spec: object, **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        everything(load(spec, **options))  # type: ignore[arg-type]
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> object:
    """Write a module of the given source into the working directory; return the spec of its `make`."""
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> str:
        name = f"data_{abs(hash(request.node.nodeid))}"
        Path(f"{name}.py").write_text("import torch\nfrom torch.utils.data import *\n" + source)
        return f"{name}:make"

    return write


# What is read


@pytest.fixture(params=["folder", "tar", "tar.gz", "tar.xz", "tar.bz2", "tar with ./"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "folder":
        return write_tree(tmp_path / "tree")
    kind, _, dotted = request.param.partition(" with ")
    return write_tar(tmp_path / f"data.{kind}", prefix=dotted)


@pytest.mark.slow
def test_images_are_read_by_class_and_name_with_golden_pixels(source: Path) -> None:
    loader = load(source, folder="test", preprocessing=Preprocessing(mean=MEAN, std=STD))
    images, labels = everything(loader)
    assert loader.dataset.classes == ["ant", "cat"]  # type: ignore[attr-defined]
    assert images.shape == (3, 3, 4, 4)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1]
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([1.0, 3.0, 1.0]))
    torch.testing.assert_close(images[1, :, 3, 3], torch.tensor([-1.0, -0.2, 0.4]))


def test_without_preprocessing_pixels_are_divided_by_255(source: Path) -> None:
    images, labels = everything(load(source, folder="train/"))
    assert images[:, 0, 0, 0].tolist() == pytest.approx([1 / 255, 2 / 255])
    assert labels.tolist() == [0, 1]


def test_a_root_that_holds_the_classes_needs_no_folder(tmp_path: Path) -> None:
    loader = load(write_tree(tmp_path) / "test")
    assert everything(loader)[1].tolist() == [0, 1, 1]


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    tree = {"a/0.PNG": BLACK, "a/._0.png": b"", "a/notes.txt": b"", "__MACOSX/a/0.png": b"", "README": b""}
    for source in in_both(tmp_path, tree):
        assert len(load(source).dataset) == 1  # type: ignore[arg-type]


def test_images_out_of_the_layout_are_mentioned(tmp_path: Path) -> None:
    tree = {"a/0.png": BLACK, "logo.png": BLACK, "a/deep/1.png": BLACK}
    for source in in_both(tmp_path, tree):
        with pytest.warns(RheobaseWarning, match=r"2 images .*a/deep/1\.png"):
            assert len(load(source).dataset) == 1  # type: ignore[arg-type]


def test_linked_class_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_tree(tmp_path / "real", {"x.png": plain(9, 9, 9)})
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "again").symlink_to(root / "a")
    with pytest.warns(RheobaseWarning, match="are ignored"):
        assert len(load(root).dataset) == 1  # type: ignore[arg-type]


def test_gray_files_become_rgb_unless_grayscale_is_set(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {"a/0.png": encode(np.full((2, 2), 51, np.uint8)), "a/1.png": plain(51, 51, 51, width=2, height=2)},
    )
    assert everything(load(tmp_path))[0].shape == (2, 3, 2, 2)
    images, _ = everything(load(tmp_path, preprocessing=Preprocessing(grayscale=True)))
    assert images.shape == (2, 1, 2, 2)
    torch.testing.assert_close(images, torch.full((2, 1, 2, 2), 0.2))


def test_resize_and_crop_are_those_of_pillow(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    write_tree(tmp_path, {"a/0.png": encode(pixels)})
    resized = np.asarray(Image.fromarray(pixels).resize((8, 6), Image.Resampling.BILINEAR))  # int(6 * 13 / 9) = 8
    images, _ = everything(load(tmp_path, preprocessing=Preprocessing(size=6, scale=1)))
    assert np.array_equal(images[0].numpy().transpose(1, 2, 0), resized)
    images, _ = everything(load(tmp_path, preprocessing=Preprocessing(size=6, crop=4, scale=1)))
    assert np.array_equal(images[0].numpy().transpose(1, 2, 0), resized[1:5, 2:6])
    images, _ = everything(load(tmp_path, preprocessing=Preprocessing(crop=9, scale=1)))
    assert np.array_equal(images[0].numpy().transpose(1, 2, 0), pixels[:, 2:11])


def test_arrays_are_resized_like_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 13, 3), dtype=np.uint8)
    write_tree(tmp_path / "tree", {"a/0.png": encode(pixels[0])})
    np.savez(tmp_path / "d.npz", images=pixels, labels=[0])
    fitted = Preprocessing(size=6, crop=5)
    expected, _ = everything(load(tmp_path / "tree", preprocessing=fitted))
    assert torch.equal(everything(load(tmp_path / "d.npz", preprocessing=fitted))[0], expected)


def test_limit_takes_the_first_in_order_or_of_a_seeded_shuffle(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((50, 2, 2), np.uint8), y=np.arange(50))
    path = tmp_path / "d.npz"
    labels = {seed: everything(load(path, limit=8, seed=seed, batch_size=3))[1].tolist() for seed in (None, 0, 1)}
    assert labels[None] == list(range(8))
    assert len(set(labels[0])) == 8
    assert labels[0] != labels[1] != labels[None]
    whole = load(path, seed=0)
    assert everything(whole)[1].tolist()[:8] == labels[0]
    assert everything(whole)[1].tolist() == everything(whole)[1].tolist()
    assert load(path, limit=8, seed=0).dataset.classes == [str(i) for i in range(50)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "folder"), [(("images", "labels"), None), (("x", "y"), None), (("x_test", "y_test"), "test")]
)
def test_npz_names(tmp_path: Path, names: tuple[str, str], folder: str | None) -> None:
    arrays: dict[str, Any] = {names[0]: np.full((2, 3, 5), 51, np.uint8), names[1]: np.array([[4], [2]])}
    np.savez_compressed(tmp_path / "d.npz", **arrays, x_train=np.zeros(1), y_train=np.zeros(1))
    images, labels = everything(load(tmp_path / "d.npz", folder=folder))
    torch.testing.assert_close(images, torch.full((2, 1, 3, 5), 0.2))
    assert labels.tolist() == [4, 2]


def test_channels_at_the_end_are_moved(tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    for stored in (pixels, pixels.transpose(0, 3, 1, 2), pixels.astype(np.float64)):
        np.savez(tmp_path / "d.npz", images=stored, labels=[0, 1])
        images, _ = everything(load(tmp_path / "d.npz", preprocessing=Preprocessing(scale=1)))
        assert np.array_equal(images.numpy(), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_files(tmp_path: Path, ending: str) -> None:
    write_mnist(tmp_path, "t10k", ending=ending)
    alone, _ = everything(load(tmp_path, preprocessing=Preprocessing(scale=1)))
    write_mnist(tmp_path, "train", count=2, ending=ending)
    images, labels = everything(load(tmp_path, folder="test", preprocessing=Preprocessing(scale=1)))
    assert torch.equal(images, torch.arange(12.0).view(3, 1, 2, 2))
    assert torch.equal(images, alone)
    assert labels.tolist() == [0, 1, 2]
    assert len(load(tmp_path, folder="train").dataset) == 2  # type: ignore[arg-type]


def test_floats_within_one_are_mentioned(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.full((2, 2, 2), 0.5), labels=[0, 1])
    with pytest.warns(RheobaseWarning, match=r"set scale \(--scale\) to 1"):
        load(tmp_path / "d.npz")
    images, _ = everything(load(tmp_path / "d.npz", preprocessing=Preprocessing(scale=1)))
    assert images.unique().tolist() == [0.5]


# Without labels, and other values than images


@pytest.mark.parametrize("folder", [None, "test"])
@pytest.mark.parametrize("kind", ["tree", "data.tar"])
def test_a_folder_of_images_alone_has_no_labels(tmp_path: Path, kind: str, folder: str | None) -> None:
    inside = f"{folder}/" if folder else ""
    tree = {f"{inside}{name}": plain(255, 0, value) for name, value in (("b.png", 51), ("a.png", 0))}
    tree[f"{inside}notes/readme.txt"] = b""
    loader = load(dict(zip(["tree", "data.tar"], in_both(tmp_path, tree), strict=True))[kind], folder=folder)
    (images,) = list(loader)
    assert images.shape == (2, 3, 4, 4)
    assert images[:, 2, 0, 0].tolist() == pytest.approx([0, 0.2])
    assert loader.dataset.classes == []  # type: ignore[attr-defined]
    assert torch.equal(read_all(loader), images)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "folder"), [(["images"], None), (["arr_0"], None), (["x_test", "x_train", "y_train"], "test"), ([], None)]
)
def test_arrays_without_labels(tmp_path: Path, names: list[str], folder: str | None) -> None:
    pixels = np.full((2, 3, 5), 51, np.uint8)
    path = tmp_path / ("d.npz" if names else "d.npy")
    np.savez(path, **dict.fromkeys(names, pixels)) if names else np.save(path, pixels)
    (images,) = list(load(path, folder=folder))
    torch.testing.assert_close(images, torch.full((2, 1, 3, 5), 0.2))


def test_labels_of_another_name_are_not_passed_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 2, 2)), classes=[0, 1])
    assert "only images, classes" in refusal(tmp_path / "d.npz").reason


@pytest.mark.parametrize(
    "names", [("TRAIN_images", "train_labels"), ("X_train", "y_train"), ("images_train", "targets_train")]
)
def test_names_of_arrays_in_either_order(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays: dict[str, Any] = {names[0]: np.zeros((2, 2, 2), np.uint8), names[1]: np.array([1, 0])}
    np.savez(tmp_path / "d.npz", **arrays, test_images=np.zeros(1), test_labels=np.zeros(1))
    assert everything(load(tmp_path / "d.npz", folder="train"))[1].tolist() == [1, 0]
    assert "(--folder) test or train" in str(refusal(tmp_path / "d.npz").remedy)


def test_parts_of_the_data_are_no_classes(tmp_path: Path) -> None:
    for source in in_both(tmp_path, {"train/a.png": BLACK, "Test/b.png": BLACK}):
        error = refusal(source)
        assert "contains the folders Test, train" in error.reason
        assert "(--folder) Test or train" in str(error.remedy)
        assert len(load(source, folder="Test").dataset) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape", "becomes"),
    [("signals", (4, 2, 9), (2, 9)), ("signals", (4, 9), (1, 9)), ("x", (4, 9), (9,)), ("signals", (4, 9, 9), (9, 9))],
)
@pytest.mark.parametrize("kind", ["float64", "int16", "uint8"])
def test_signals_and_tables(
    tmp_path: Path, name: str, shape: tuple[int, ...], becomes: tuple[int, ...], kind: str
) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(kind)
    np.savez(tmp_path / "d.npz", **{name: values, "y": np.arange(4)})
    expected = values.reshape(4, *becomes).astype(np.float64)
    images, _ = everything(load(tmp_path / "d.npz"))
    np.testing.assert_allclose(images.numpy(), expected / (255 if kind == "uint8" else 1), rtol=1e-6)
    mean = np.arange(1.0, becomes[0] + 1)
    preprocessing = Preprocessing(mean=tuple(mean), std=tuple(2 * mean), scale=2)
    images, _ = everything(load(tmp_path / "d.npz", preprocessing=preprocessing))
    column = mean.reshape(-1, *[1] * (len(becomes) - 1))
    np.testing.assert_allclose(images.numpy(), (expected / 2 - column) / (2 * column), rtol=1e-5, atol=1e-6)


def test_a_transparent_image_is_mentioned(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 4), dtype=np.uint8)
    write_tree(tmp_path / "tree", {f"a/{i}.png": encode(image) for i, image in enumerate(pixels)})
    np.savez(tmp_path / "d.npz", images=pixels, labels=[0, 0])
    with pytest.warns(RheobaseWarning, match=r"opacity, is ignored.*\[N, 4, H, W\]"):
        images, _ = everything(load(tmp_path / "d.npz"))
    assert torch.equal(images, everything(load(tmp_path / "tree"))[0])
    np.savez(tmp_path / "d.npz", images=pixels.transpose(0, 3, 1, 2), labels=[0, 0])
    assert everything(load(tmp_path / "d.npz"))[0].shape == (2, 4, 5, 5)


# A user's function


def test_a_loader_is_returned_as_it_is(module) -> None:  # type: ignore[no-untyped-def]
    spec = module("L = DataLoader(TensorDataset(torch.zeros(4, 1, 2, 2), torch.arange(4)))\ndef make(): return L")
    loader = load(spec)
    assert loader is load(spec)
    assert everything(loader)[1].tolist() == [0, 1, 2, 3]


def test_tensors_are_batched_limited_and_shuffled(module) -> None:  # type: ignore[no-untyped-def]
    spec = module("def make(): return torch.arange(9.).view(9, 1, 1, 1), torch.arange(9, dtype=torch.int32)")
    assert [len(labels) for _, labels in load(spec, batch_size=4)] == [4, 4, 1]
    images, labels = everything(load(spec, limit=5, seed=1))
    assert images.flatten().tolist() == labels.tolist() != [0, 1, 2, 3, 4]
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("how", ["yield from B", "return B"])
def test_batches_can_be_gone_through_twice(module, how: str) -> None:  # type: ignore[no-untyped-def]
    loader = load(module(f"B = [(torch.zeros(2, 1, 2, 2), torch.tensor([i, i])) for i in range(3)]\ndef make(): {how}"))
    for _ in range(2):
        assert everything(loader)[1].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import missing_thing", "cannot be imported (ModuleNotFoundError: No module named 'missing_thing')"),
        ("x = 1", "has no function 'make'"),
        ("make = 1", "not callable"),
        ("def make(): raise ValueError('no disk')", "failed (ValueError: no disk)"),
        ("def make(): return 7", "returned int"),
        ("def make(): return []", "returned no sample"),
        ("def make(): return DataLoader([])", "returned no sample"),
        ("def make(): return torch.zeros(0, 1), torch.zeros(0).long()", "images torch.float32 [0, 1]"),
        ("def make(): return [torch.zeros(1)]", "has images of shape [1]"),
        ("def make(): return TensorDataset(torch.zeros(0, 1))", "is empty"),
        ("def make(): return [(torch.zeros(2, 1), torch.zeros(3).long())]", "has 2 images but 3 labels"),
        (
            "def make(): return torch.zeros(2, 1, dtype=torch.uint8), torch.zeros(2).long()",
            "images torch.uint8",
        ),
    ],
)
def test_faulty_functions_are_refused(module, source: str, reason: str) -> None:  # type: ignore[no-untyped-def]
    spec = module(source)
    error = refusal(spec)
    assert error.where is not None
    assert error.where.startswith(spec)
    assert reason in error.reason


def test_a_missing_module_is_refused() -> None:
    error = refusal("no_such_module_here:make")
    assert error.where == "no_such_module_here:make"
    assert "No module named" in error.reason
    assert error.remedy is not None
    assert "folder that contains the module" in error.remedy


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"folder": "test"}, "folder"),
        ({"preprocessing": Preprocessing(size=4)}, "preprocessing"),
        ({"limit": 1}, "limit"),
        ({"seed": 1}, "seed"),
    ],
)
def test_options_without_effect_on_a_function_are_refused(module, options: dict, where: str) -> None:  # type: ignore[no-untyped-def]
    error = refusal(module("def make(): return [(torch.zeros(2, 1), torch.zeros(2).long())]"), **options)
    assert error.where == where
    assert "has no effect" in error.reason


def test_a_data_set_is_batched_limited_and_shuffled(module) -> None:  # type: ignore[no-untyped-def]
    spec = module("""class Nine(Dataset):
    def __len__(self): return 9
    def __getitem__(self, i): return {"image": torch.full((1, 2, 2), float(i)), "label": i}
def make(): return Nine()""")
    loader = load(spec, batch_size=4, limit=6, seed=1)
    images, labels = zip(*((batch["image"], batch["label"]) for batch in loader), strict=True)
    assert [len(part) for part in images] == [4, 2]
    assert torch.cat(images)[:, 0, 0, 0].tolist() == torch.cat(labels).tolist() == sample_order(9, 6, 1)


def test_a_function_need_not_return_labels(module) -> None:  # type: ignore[no-untyped-def]
    loader = load(module("def make(): return torch.arange(8.).view(4, 1, 2, 1)"), seed=1)
    assert torch.equal(read_all(loader)[:, 0, 0, 0] / 2, torch.tensor(sample_order(4, None, 1)))  # type: ignore[index]


# What is refused


@pytest.mark.parametrize("name", ["gone", "gone.tar", "C:\\gone"])
def test_a_missing_path(name: str) -> None:
    error = refusal(name)
    assert (error.where, error.reason) == (name, "does not exist")
    assert error.remedy == "give a path that exists, or module:function"


def test_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "d.zip").touch()
    error = refusal(tmp_path / "d.zip")
    assert error.where == str(tmp_path / "d.zip")
    assert ".npz" in str(error.remedy)


def test_a_folder_to_choose_is_proposed(source: Path) -> None:
    for options in ({}, {"folder": "tset"}):
        error = refusal(source, **options)
        assert error.where == str(source)
        assert "holds no images" in error.reason
        assert "<class>/<name>" in str(error.remedy)
        assert "choose folder (--folder) test or train" in str(error.remedy)
    assert "'tset'" in error.reason


@pytest.mark.parametrize(
    ("tree", "options", "where", "reason", "remedy"),
    [
        ({}, {}, "", "holds no images", "store images as <class>/<name> with one of the endings"),
        ({"a/0.png": BLACK}, {"folder": "b"}, "", "holds no images in the folder 'b'", ", or leave folder out"),
        ({"a/0.png": encode(np.full((2, 2), 4000, np.uint16))}, {}, "a/0.png", "has more than 8 bits", ".npz"),
        ({"a/0.png": BLACK}, {"preprocessing": Preprocessing(crop=5)}, "a/0.png", "is 4x4, smaller than", "crop"),
    ],
)
def test_images_that_are_not_there_or_do_not_fit(
    tmp_path: Path, tree: dict[str, bytes], options: dict, where: str, reason: str, remedy: str
) -> None:
    error = refusal(write_tree(tmp_path, tree), **options)
    assert error.where == str(tmp_path / where)
    assert error.reason.startswith(reason)
    assert remedy in str(error.remedy)
    assert "--folder" not in str(error.remedy)


def test_a_class_without_images_would_shift_the_others(tmp_path: Path) -> None:
    tree = {"a/0.png": BLACK, "b/0.tiff": b"", "c/0.png": BLACK}
    for source in in_both(tmp_path, tree):
        error = refusal(source)
        assert error.where == str(source)
        assert "class folder 'b' holds no image" in error.reason


@pytest.mark.parametrize("broken", [b"", b"no image", plain(1, 2, 3, width=64, height=64)[:80]])
def test_a_damaged_image_is_named(tmp_path: Path, broken: bytes) -> None:
    tree = {"t/a/0.png": plain(0, 0, 0, width=64, height=64), "t/b/bad.png": broken}
    folder, tar = write_tree(tmp_path / "tree", tree), write_tar(tmp_path / "d.tar", tree)
    assert refusal(folder, folder="t").where == str(folder / "t" / "b" / "bad.png")
    error = refusal(tar, folder="t")
    assert error.where == f"{tar}:t/b/bad.png"
    assert "damaged, truncated" in error.reason
    assert "write it again" in str(error.remedy)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.8])
def test_a_truncated_tar(tmp_path: Path, kind: str, part: float) -> None:
    tree = {f"a/{i}.png": np.random.default_rng(i).bytes(3000) for i in range(20)}
    path = write_tar(tmp_path / f"data.{kind}", tree)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DataError) as caught:
        load(path)
    assert caught.value.where == str(path)
    assert "damaged, truncated" in caught.value.reason


def test_a_tar_cut_between_members_or_overwritten_within(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "data.tar", {f"a/{i}.png": plain(i, i, i) for i in range(4)})
    content = path.read_bytes()
    for damaged in (content[:2048], content[:2048] + b"x" * 512 + content[2560:]):
        path.write_bytes(damaged)
        assert "damaged, truncated" in refusal(path).reason


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a/0.png")
        info.type, info.linkname = tarfile.SYMTYPE, "1.png"
        archive.addfile(info)
    error = refusal(path)
    assert error.where == f"{path}:a/0.png"
    assert "dereference" in str(error.remedy)


@pytest.mark.parametrize("options", [{}, {"size": 4}])
def test_images_of_different_sizes(tmp_path: Path, options: dict) -> None:
    write_tree(tmp_path, {"a/0.png": plain(0, 0, 0, width=6), "a/1.png": plain(0, 0, 0, width=8)})
    error = refusal(tmp_path, preprocessing=Preprocessing(**options))
    assert error.where == str(tmp_path / "a" / "1.png")
    assert error.reason == f"becomes 8x4 with 3 channels, but {tmp_path / 'a' / '0.png'} becomes 6x4 with 3 channels"
    assert "both size and crop" in str(error.remedy)
    assert everything(load(tmp_path, preprocessing=Preprocessing(crop=4)))[0].shape == (2, 3, 4, 4)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_normalisation_for_another_number_of_channels(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((1, 2, 2), np.uint8), labels=[0])
    error = refusal(tmp_path / "d.npz", preprocessing=Preprocessing(**{name: (1.0, 1.0, 1.0)}))  # type: ignore[arg-type]
    assert error.where == name
    assert error.reason == "has 3 values, but the images have 1 channels"


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"crop": -1},
        {"size": 4, "crop": 5},
        {"mean": [float("nan")]},
        {"std": [0.0]},
        {"scale": 0.0},
        {"scale": float("inf")},
    ],
)
def test_impossible_preprocessing(options: dict) -> None:
    with pytest.raises(DataError, match=f"preprocessing: {list(options)[-1]}.*Remedy"):
        Preprocessing(**options)


@pytest.mark.parametrize("name", ["limit", "batch_size"])
def test_impossible_counts(tmp_path: Path, name: str) -> None:
    error = refusal(tmp_path, **{name: 0})
    assert (error.where, error.remedy) == (name, "use a whole number from 1")


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (np.zeros((3, 2, 2), np.uint8), [0, 1], "has 3 images but 2 labels"),
        (np.zeros((0, 2, 2), np.uint8), np.zeros(0, int), "holds no sample"),
        (np.zeros((2, 1, 4, 4, 4), np.uint8), [0, 1], "shape [2, 1, 4, 4, 4]"),
        (np.zeros(2), [0, 1], "shape [2]"),
        (np.zeros((2, 3, 5)), [0, 1], "may be images [N, H, W] or signals [N, C, L]"),
        (np.zeros((2, 2, 2), bool), [0, 1], "type bool"),
        (np.zeros((2, 2, 2), np.uint8), ["cat", "dog"], "labels of type <U3"),
        (np.full((2, 2, 2), np.nan), [0, 1], "NaN"),
        (np.array([{}]), [0], "allow_pickle=False"),
    ],
)
def test_faulty_arrays(tmp_path: Path, images: np.ndarray, labels: list, reason: str) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, images=images, labels=labels)
    error = refusal(path)
    assert str(error.where).startswith(str(path))
    assert reason in error.reason


@pytest.mark.parametrize("labels", [[0.5, 2.0], [[0, 1], [1, 0]], [[True], [False]], np.ones((2, 3, 3), np.uint8)])
def test_arrays_may_hold_other_targets_than_classes(tmp_path: Path, labels: list) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 3, 3), np.uint8), labels=labels)
    _, found = next(iter(load(tmp_path / "d.npz")))
    assert found.tolist() == (np.squeeze(labels, 1) if np.shape(labels) == (2, 1) else np.asarray(labels)).tolist()


def test_npz_without_the_arrays(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x_test=np.zeros((1, 2, 2)), y_test=[0], other=[1])
    error = refusal(path)
    assert error.where == str(path)
    assert "has no arrays 'images' and 'labels' or 'x' and 'y', only x_test, y_test, other" in error.reason
    assert "choose folder (--folder) test" in str(error.remedy)
    assert "'x_train'" in refusal(path, folder="train").reason


def test_a_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, images=np.zeros((9, 9, 9)), labels=[0] * 9)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:2000], whole.replace(b"\0" * 900, b"\1" * 900)):
        path.write_bytes(content)
        error = refusal(path)
        assert error.where == str(path)
        assert "damaged, truncated" in error.reason
    np.save(tmp_path / "single.npy", np.zeros(2))
    (tmp_path / "single.npy").rename(path)
    assert "one array without a name" in refusal(path).reason


def test_idx_is_not_guessed(tmp_path: Path) -> None:
    write_mnist(tmp_path, "t10k")
    write_mnist(tmp_path, "train")
    for options, reason in (({}, "both train and test"), ({"folder": "val"}, "no IDX files of 'val'")):
        error = refusal(tmp_path, **options)
        assert error.where == str(tmp_path)
        assert reason in error.reason
        assert "test or train" in str(error.remedy)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "lacks the IDX file of the test labels" in refusal(tmp_path, folder="test").reason


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:9], lambda b: b"", lambda b: b"\0\0\x0d" + b[3:]],
)
def test_damaged_idx(tmp_path: Path, ending: str, damage) -> None:  # type: ignore[no-untyped-def]
    write_mnist(tmp_path, "t10k", ending=ending)
    path = tmp_path / f"t10k-images-idx3-ubyte{ending}"
    path.write_bytes(gzip.compress(damage(gzip.decompress(path.read_bytes()))) if ending else damage(path.read_bytes()))
    error = refusal(tmp_path)
    assert error.where == str(path)
    assert "damaged, truncated" in error.reason
    if ending:
        write_mnist(tmp_path, "t10k", ending=ending)
        path.write_bytes(path.read_bytes()[:-10])
        assert refusal(tmp_path).where == str(path)


def test_a_file_that_is_gone_is_not_called_damaged(tmp_path: Path) -> None:
    loader = load(write_tree(tmp_path, {"a/0.png": BLACK, "a/1.png": BLACK}))
    (tmp_path / "a" / "1.png").unlink()
    with pytest.raises(DataError) as caught:
        everything(loader)
    assert caught.value.where == str(tmp_path / "a" / "1.png")
    assert caught.value.reason == "cannot be read (No such file or directory)"


def test_unreadable_files_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path, {"a/0.png": BLACK})

    def deny(path: object, *_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:  # the superuser, whom containers run as, may read everything
        patch.setattr(Path, "read_bytes", deny)
        error = refusal(tmp_path)
        assert error.where == str(tmp_path / "a" / "0.png")
        assert (error.reason, error.remedy) == ("may not be read", "give yourself read permission")
    monkeypatch.setattr("os.scandir", deny)
    error = refusal(tmp_path)
    assert (error.where, error.reason) == (str(tmp_path), "may not be read")


# Data sets of the guide


@pytest.mark.parametrize("name", ["cifar10", "hugging_face"])
def test_data_sets_of_the_guide_by_module_and_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    stand_ins.install(monkeypatch)
    write_modules(ROOT / "docs" / "data.md")
    loader = load(f"my_data:{name}", limit=30, seed=0, batch_size=20)
    images, labels = zip(*batches(loader, where="data"), strict=True)
    order = sample_order(len(stand_ins.PIXELS), 30, 0)
    assert torch.cat(labels).tolist() == [stand_ins.LABELS[i] for i in order]
    first = (stand_ins.PIXELS[order[0]] / 255 - (0.49, 0.48, 0.45)) / (0.25, 0.24, 0.26)
    np.testing.assert_allclose(images[0][0].numpy(), first.transpose(2, 0, 1), atol=1e-5)


# --- CIFAR's binary files, and arrays that are mapped ---


def write_cifar(root: Path, fine: bool = False, count: int = 4) -> np.ndarray:
    """Records of every file, with the pixels of all files in their order."""
    root.mkdir(exist_ok=True)
    files = ["train.bin", "test.bin"] if fine else [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    rng, pixels = np.random.default_rng(0), []
    for file in files:
        pixels.append(rng.integers(0, 256, (count, 3072), dtype=np.uint8))
        labels = np.arange(count, dtype=np.uint8)[:, None]
        records = np.hstack([np.full_like(labels, 19), labels, pixels[-1]]) if fine else np.hstack([labels, pixels[-1]])
        (root / file).write_bytes(records.tobytes())
    names = "fine_label_names.txt" if fine else "batches.meta.txt"
    (root / names).write_text("\n".join(f"class_{i}" for i in range(100 if fine else 10)) + "\n\n")
    return np.stack(pixels).reshape(-1, count, 3, 32, 32)


@pytest.mark.parametrize("fine", [False, True])
def test_cifar(tmp_path: Path, fine: bool) -> None:
    """Five files of CIFAR-10 or one of CIFAR-100 are the training part; of two labels the second is the class."""
    pixels = write_cifar(tmp_path, fine)
    train, test = (load(tmp_path, folder=folder) for folder in ("train", "test"))
    expected = torch.from_numpy(pixels[:-1].reshape(-1, 3, 32, 32)) / 255
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    assert torch.equal(images, expected)
    assert labels.tolist() == [0, 1, 2, 3] * (1 if fine else 5)
    assert torch.equal(next(iter(test))[0], torch.from_numpy(pixels[-1]) / 255)
    assert train.dataset.classes[:2] == ["class_0", "class_1"]  # type: ignore[attr-defined]


def test_cifar_that_is_damaged(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    with pytest.raises(DataError, match=r"both train and test data.*train or test"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"no part 'val' of CIFAR.*train or test"):
        load(tmp_path, folder="val")
    (tmp_path / "data_batch_3.bin").write_bytes(b"1234")
    with pytest.raises(DataError, match=r"data_batch_3.bin: is damaged.*4 bytes, which are no records of 3073"):
        load(tmp_path, folder="train")
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3.bin"):
        load(tmp_path, folder="train")
    (tmp_path / "batches.meta.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"has the label 3, but batches.meta.txt has 2 names"):
        load(tmp_path, folder="test")
    pickled = tmp_path / "py"
    pickled.mkdir()
    for name in ("data_batch_1", "test_batch"):
        (pickled / name).write_bytes(b"\x80")
    with pytest.raises(DataError, match=r"Python pickles, which are not read.*binary version"):
        load(pickled, folder="train")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("form", ["npz", "compressed npz", "npy"])
def test_large_arrays_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, form: str) -> None:
    """The same images as read whole, also of an array in Fortran order."""
    monkeypatch.setattr("rheobase.data.readers.arrays.MAPPED_FROM", 0)
    values = np.random.default_rng(0).integers(0, 200, (9, 3, 5, 5)).astype(dtype)
    for array in (values, np.asfortranarray(values)):
        path = tmp_path / f"images.{form[-3:]}"
        if form == "npy":
            np.save(path, array)
        else:
            (np.savez if form == "npz" else np.savez_compressed)(path, labels=np.arange(9), images=array)
        mapped = None if form == "npy" else mapped_member(path, "images")
        assert isinstance(mapped, np.memmap) == (form == "npz")
        found = read_all(load(path))
        images = found if form == "npy" else found[0]
        assert torch.equal(images, torch.from_numpy(values.astype(np.float32)) / 255)  # type: ignore[arg-type]
    values[7, 0, 0, 0] = np.nan if dtype != np.uint8 else 0
    np.savez(tmp_path / "nan.npz", images=values, labels=np.arange(9))
    if dtype != np.uint8:
        with pytest.raises(DataError, match="image 7 holds NaN"):
            load(tmp_path / "nan.npz")
