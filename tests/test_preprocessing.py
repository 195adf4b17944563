"""Stored preprocessing × readers: the same pixels give the same images, whichever reader they come from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rheobase.cli.options import Source
from rheobase.core.errors import DataError
from rheobase.data.batches import batches
from rheobase.data.readers import Preprocessing, load
from test_data import encode, write_idx, write_tar, write_tree

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (4, 9, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (4, 9, 9, 3), dtype=np.uint8)


def files(pixels: np.ndarray, folder: str = "a/") -> dict[str, bytes]:
    return {f"{folder}{i}.png": encode(image) for i, image in enumerate(pixels)}


def npz(pixels: np.ndarray) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        np.savez(root / "d.npz", images=pixels, labels=np.zeros(len(pixels), int))
        return root / "d.npz"

    return write


def npy(root: Path) -> Path:
    np.save(root / "d.npy", RGB)
    return root / "d.npy"


def idx(root: Path) -> Path:
    write_idx(root / "train-images-idx3-ubyte", GRAY)
    write_idx(root / "train-labels-idx1-ubyte", np.zeros(len(GRAY), np.uint8))
    return root


OF_GRAY: dict[str, Callable[[Path], Path]] = {
    "gray files": lambda root: write_tree(root, files(GRAY)),
    "gray files as RGB": lambda root: write_tree(root, files(np.stack([GRAY] * 3, 3))),
    "gray tar": lambda root: write_tar(root / "d.tar", files(GRAY)),
    "gray array": npz(GRAY),
    "gray array with channels": npz(GRAY[:, None]),
    "gray array with channels last": npz(GRAY[..., None]),
    "gray floats": npz(GRAY.astype(np.float64)),
    "idx": idx,
}
OF_RGB: dict[str, Callable[[Path], Path]] = {
    "files": lambda root: write_tree(root, files(RGB)),
    "flat files": lambda root: write_tree(root, files(RGB, "")),
    "tar": lambda root: write_tar(root / "d.tar", files(RGB)),
    "flat tar": lambda root: write_tar(root / "d.tar", files(RGB, "")),
    "array": npz(RGB),
    "array with channels first": npz(RGB.transpose(0, 3, 1, 2)),
    "RGBA": npz(np.concatenate([RGB, np.full_like(RGB[..., :1], 255)], 3)),
    "floats": npz(RGB.astype(np.float32)),
    "npy": npy,
}


def everything(source: Source) -> torch.Tensor:
    return torch.cat([images for images, _ in batches(source.read(), where="data")])


def of_all(channels: int) -> list[dict[str, Any]]:
    """Fields with another value than their default: none, one, every two, and all."""
    fields = {
        "size": [None, 7],
        "crop": [None, 5],
        "mean": [None, (0.5,) * channels],
        "std": [None, (0.25,) * channels],
        "scale": [None, 128.0],
    }
    combinations = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
    return [one for one in combinations if sum(value is not None for value in one.values()) in (0, 1, 2, len(fields))]


def stored(source: Source, channels: int) -> Any:
    """What is asked of a network that was converted on these images."""
    provenance = SimpleNamespace(calibration={"preprocessing": source.described()})
    return SimpleNamespace(provenance=provenance, graph=SimpleNamespace(input_shape=(channels, 9, 9)))


CASES = {"gray": (OF_GRAY, 1), "RGB": (OF_RGB, 3), "RGB as gray": (OF_RGB, 1)}
NEED_NO_OPTION = ("gray array", "gray array with channels", "gray array with channels last", "gray floats", "idx")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "reader"), [(kind, reader) for kind in CASES for reader in CASES[kind][0]])
def test_a_network_converted_on_one_reader_is_evaluated_on_every_other(
    kind: str, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    writers, channels = CASES[kind]
    grayscale = [channels == 1, *([False] if reader in NEED_NO_OPTION else [])]
    paths = {name: str(write(tmp_path_factory.mktemp("data"))) for name, write in writers.items()}
    for fields, gray in itertools.product(of_all(channels), grayscale):
        calibration = Source(paths[reader], None, Preprocessing(**fields, grayscale=gray))
        expected = everything(calibration)
        assert expected.shape[1] == channels
        network = stored(calibration, channels)
        for name, path in paths.items():
            found = everything(Source(path, None, None).seen_by(network))
            if "floats" in (name + reader):  # bytes are rounded once more
                torch.testing.assert_close(found, expected, atol=2 / 128 / 0.25, rtol=0)
            else:
                assert torch.equal(found, expected), (name, fields)


def test_an_option_replaces_one_field_of_what_is_stored(tmp_path: Path) -> None:
    path = str(npz(RGB)(tmp_path))
    network = stored(Source(path, None, Preprocessing(crop=5, mean=(0.1, 0.2, 0.3), scale=1)), 3)
    seen = Source(path, None, Preprocessing(scale=255)).seen_by(network)
    assert seen.preprocessing == Preprocessing(crop=5, mean=(0.1, 0.2, 0.3), scale=255)


@pytest.mark.parametrize(
    ("pixels", "fields", "said"),
    [
        (np.zeros((2, 2, 9, 9), np.uint8), {"grayscale": True}, "give images of 1 or 3 channels"),
        (GRAY, {"mean": (0.1, 0.2, 0.3)}, "give images of 3 channels, or one value for each of the 1"),
        (RGB, {"std": (0.1,)}, "give images of 1 channels, or one value for each of the 3"),
        (GRAY, {"crop": 10}, "smaller crop"),
        (np.zeros((2, 9), np.uint8), {"size": 4}, "leave it out, or give images"),
        (np.zeros((2, 9), np.uint8), {"crop": 4}, "leave it out, or give images"),
        (np.zeros((2, 9), np.uint8), {"grayscale": True}, "leave it out, or give images"),
    ],
)
def test_what_does_not_fit_has_a_remedy(tmp_path: Path, pixels: np.ndarray, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        load(npz(pixels)(tmp_path), preprocessing=Preprocessing(**fields))
    assert said in str(caught.value.remedy)
