"""Augmentation against plain loops, one image at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import rheobase as rb
from rheobase.training.augment import Augmentation, Draws
from rheobase.training.autoaugment import OPERATIONS, POLICIES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(augmentation: Augmentation, images: Tensor, draws: Draws) -> Tensor:
    """Crop, flip and Cutout by loops over images and pixels."""
    result = torch.empty_like(images)
    count, channels, height, width = images.shape
    for b in range(count):
        for c in range(channels):
            black = 0.0 if augmentation.mean is None else -augmentation.mean[c] / augmentation.std[c]
            for y in range(height):
                for x in range(width):
                    column = width - 1 - x if augmentation.flip and draws.flip[b] else x
                    row = int(draws.row[b]) + y - augmentation.crop_padding
                    column = int(draws.column[b]) + column - augmentation.crop_padding
                    inside = 0 <= row < height and 0 <= column < width
                    value = float(images[b, c, row, column]) if inside else black
                    half = augmentation.cutout // 2
                    top, left = int(draws.hole_row[b]) - half, int(draws.hole_column[b]) - half
                    if top <= y < top + augmentation.cutout and left <= x < left + augmentation.cutout:
                        value = 0.0
                    result[b, c, y, x] = value
    return result


@given(
    padding=st.integers(0, 3),
    flip=st.booleans(),
    cutout=st.integers(0, 5),
    normalised=st.booleans(),
    shape=st.tuples(st.integers(1, 4), st.just(3), st.integers(2, 6), st.integers(2, 6)),
    seed=st.integers(0, 1000),
)
def test_crop_flip_and_cutout_are_those_of_the_loops(
    padding: int, flip: bool, cutout: int, normalised: bool, shape: tuple[int, ...], seed: int
) -> None:
    statistics = {"mean": MEAN, "std": STD} if normalised else {}
    augmentation = Augmentation(crop_padding=padding, flip=flip, cutout=cutout, **statistics)
    images = torch.randn(shape, generator=generator(seed))
    before = images.clone()
    draws = augmentation.draw(images.shape, generator(seed))
    torch.testing.assert_close(augmentation.apply(images, draws), plain(augmentation, images, draws), rtol=0, atol=1e-6)
    assert torch.equal(images, before)


def test_every_place_and_both_directions_are_drawn() -> None:
    draws = Augmentation().draw(torch.Size((4000, 3, 32, 32)), generator())
    for values, count in ((draws.row, 9), (draws.column, 9), (draws.hole_row, 32), (draws.policy, 25)):
        share = torch.bincount(values, minlength=count) / 4000
        assert len(share) == count
        assert bool(((share - 1 / count).abs() < 5 * math.sqrt(1 / count / 4000)).all())
    assert abs(float(draws.flip.float().mean()) - 0.5) < 0.04
    assert abs(float(draws.negative.float().mean()) - 0.5) < 0.04


@pytest.mark.parametrize("autoaugment", [None, "cifar10", "imagenet"])
def test_the_generator_alone_decides(autoaugment: str | None) -> None:
    images = torch.rand(16, 3, 8, 8, generator=generator(1))
    augmentation = Augmentation(cutout=4, autoaugment=autoaugment)
    torch.manual_seed(1)
    once = augmentation(images, generator(5))
    torch.manual_seed(2)
    assert torch.equal(augmentation(images, generator(5)), once)
    assert not torch.equal(augmentation(images, generator(6)), once)


def test_a_part_of_a_batch_is_changed_as_in_the_whole() -> None:
    images = torch.rand(12, 3, 8, 8, generator=generator(1))
    augmentation = Augmentation(cutout=4, autoaugment="cifar10")
    draws = augmentation.draw(images.shape, generator(3))
    whole = augmentation.apply(images, draws)
    assert torch.equal(augmentation.apply(images[4:9], draws.part(slice(4, 9))), whole[4:9])


# -- AutoAugment ---------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def run(operation: str, magnitude: int, sign: int = 1, pixels: np.ndarray = PIXELS) -> np.ndarray:
    return np.asarray(OPERATIONS[operation](Image.fromarray(pixels), magnitude / 9, sign))


def test_pointwise_operations() -> None:
    assert np.array_equal(run("invert", 0), 255 - PIXELS)
    for magnitude in range(10):
        bits = 8 - round(magnitude * 4 / 9)
        assert np.array_equal(run("posterize", magnitude), PIXELS >> (8 - bits) << (8 - bits))
        threshold = 256 - 256 * magnitude / 9
        assert np.array_equal(run("solarize", magnitude), np.where(threshold > PIXELS, PIXELS, 255 - PIXELS))
        for sign in (-1, 1):
            brighter = np.clip(PIXELS * (1 + sign * 0.1 * magnitude), 0, 255)
            assert np.abs(run("brightness", magnitude, sign) - brighter).max() <= 1


@pytest.mark.parametrize("sign", [-1, 1])
def test_translation_moves_by_whole_pixels_and_fills_with_grey(sign: int) -> None:
    pixels = round(7 / 9 * 150 / 331 * 10)
    expected = np.full_like(PIXELS, 128)
    for x in range(10):
        if 0 <= x + sign * pixels < 10:
            expected[:, x] = PIXELS[:, x + sign * pixels]
    assert np.array_equal(run("translate_x", 7, sign), expected)
    across = run("translate_y", 7, sign, PIXELS.transpose(1, 0, 2).copy()).transpose(1, 0, 2)
    assert np.array_equal(across, expected)


def test_shear_moves_each_row_by_its_own_amount() -> None:
    sheared = run("shear_x", 9)
    for y in range(12):
        for x in range(10):
            source = math.floor(x + 0.5 + 0.3 * (y + 0.5))
            assert np.array_equal(sheared[y, x], PIXELS[y, source] if source < 10 else [128, 128, 128])
    assert np.array_equal(run("shear_y", 9, 1, PIXELS.transpose(1, 0, 2).copy()).transpose(1, 0, 2), sheared)


def test_magnitude_zero_changes_nothing() -> None:
    for operation in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        assert np.array_equal(run(operation, 0), PIXELS)
    for operation in ("color", "contrast", "brightness", "sharpness", "posterize"):
        assert np.array_equal(run(operation, 0), PIXELS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_each_image_gets_its_own_sub_policy(name: str, channels: int) -> None:
    mean, std = MEAN[:channels], STD[:channels]
    shape = torch.Size((100, channels, 8, 8))
    bytes_ = torch.randint(256, shape, generator=generator(2))
    scale = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    images = (bytes_ / 255 - scale[0]) / scale[1]
    augmentation = Augmentation(crop_padding=0, flip=False, autoaugment=name, mean=mean, std=std)
    draws = augmentation.draw(shape, generator(4))
    result = augmentation.apply(images, draws)
    happened = []
    for b in range(100):
        array = bytes_[b].permute(1, 2, 0).numpy().astype(np.uint8)
        image = Image.fromarray(array[:, :, 0] if channels == 1 else array)
        count = 0
        for i, (operation, probability, magnitude) in enumerate(POLICIES[name][int(draws.policy[b])]):
            if float(draws.chance[b, i]) < probability:
                image = OPERATIONS[operation](image, magnitude / 9, -1 if draws.negative[b, i] else 1)
                count += 1
        expected = torch.from_numpy(np.asarray(image).copy()).reshape(8, 8, channels).permute(2, 0, 1)
        found = result[b] * scale[1] + scale[0]
        torch.testing.assert_close(found, expected / 255, rtol=0, atol=1e-5)
        happened.append(count)
        if count == 0:
            assert torch.equal(result[b], images[b])
    assert {0, 1, 2} == set(happened)


def test_policies_are_whole() -> None:
    for policy in POLICIES.values():
        assert len(policy) == 25
        for pair in policy:
            for operation, probability, magnitude in pair:
                assert operation in OPERATIONS
                assert 0 <= probability <= 1
                assert 0 <= magnitude <= 9


# -- bad input -----------------------------------------------------------------------------------------------


def test_autoaugment_sees_when_normalisation_was_not_undone() -> None:
    with pytest.raises(rb.RheobaseError, match=r"0\.\.1.*mean and std"):
        Augmentation(autoaugment="cifar10")(torch.randn(64, 3, 8, 8), generator())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cropping": 4}, "unknown field 'cropping'.*known fields: crop_padding"),
        ({"mean": (0.5,)}, "mean and std must"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "1 means but 2"),
        ({"mean": (0.5,), "std": (0.0,)}, "std must be positive"),
        ({"cutout": -1}, "cutout"),
        ({"autoaugment": "mnist"}, "autoaugment.*cifar10"),
    ],
)
def test_bad_settings(fields: dict[str, object], message: str) -> None:
    with pytest.raises(rb.core.errors.TrainingError, match=message):
        Augmentation(**fields)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(rb.RheobaseError, match="1 values, but the images have 3 channels"):
        Augmentation(mean=(0.5,), std=(0.5,))(torch.rand(2, 3, 8, 8), generator())
    with pytest.raises(rb.RheobaseError, match="give images"):
        Augmentation()(torch.rand(2, 8), generator())
    with pytest.raises(rb.RheobaseError, match="1 or 3 channels"):
        Augmentation(autoaugment="cifar10")(torch.rand(2, 4, 8, 8), generator())
