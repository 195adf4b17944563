"""Augmentation against plain loops, one image at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import rheobase as rb
from rheobase.training.augment import Augmentation, Draws, windows
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


def plain_window(draws: list[float], areas: tuple[float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width, by the loop of torchvision's RandomResizedCrop."""
    for i in range(10):
        area = height * width * (areas[0] + draws[i] * (areas[1] - areas[0]))
        ratio = math.exp(math.log(3 / 4) + draws[10 + i] * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draws[20] * (height - h + 1)), int(draws[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = round(w / (3 / 4))
    elif width / height > 4 / 3:
        w = round(h * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def plain_resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, with the centres of pixels at halves, by loops over pixels."""
    rows, columns = image.shape[1:]
    result = torch.zeros(image.shape[0], height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            row = max(0.0, (y + 0.5) * rows / height - 0.5)
            column = max(0.0, (x + 0.5) * columns / width - 0.5)
            for r in (int(row), int(row) + 1):
                for c in (int(column), int(column) + 1):
                    share = (1 - abs(row - r)) * (1 - abs(column - c))
                    result[:, y, x] += share * image[:, min(r, rows - 1), min(c, columns - 1)]
    return result


@given(
    areas=st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(sorted).map(tuple),
    flip=st.booleans(),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 1000),
)
@example(areas=(0.5, 1.0), flip=False, shape=(2, 1, 3, 20), seed=0)  # no try fits
@example(areas=(0.5, 1.0), flip=True, shape=(2, 1, 20, 3), seed=0)
@settings(deadline=None)
def test_resized_crops_are_those_of_the_loops(
    areas: tuple[float, float], flip: bool, shape: tuple[int, ...], seed: int
) -> None:
    augmentation = Augmentation(resized_crop=areas, flip=flip)
    images = torch.randn(shape, generator=generator(seed), dtype=torch.float64)
    before = images.clone()
    draws = augmentation.draw(images.shape, generator(seed))
    expected = []
    for image, window, mirrored in zip(images, draws.window.double().tolist(), draws.flip.tolist(), strict=True):
        top, left, height, width = plain_window(window, areas, *shape[2:])
        resized = plain_resize(image[:, top : top + height, left : left + width], *shape[2:])
        expected.append(resized.flip(2) if flip and mirrored else resized)
    torch.testing.assert_close(augmentation.apply(images, draws), torch.stack(expected), rtol=0, atol=1e-12)
    assert torch.equal(images, before)


def test_windows_have_every_area_shape_and_place() -> None:
    draws = Augmentation(resized_crop=(0.1, 0.5)).draw(torch.Size((4000, 3, 100, 100)), generator())
    top, left, height, width = torch.tensor(windows(draws.window, (0.1, 0.5), 100, 100)).double().T
    assert abs(float((height * width).mean()) - 3000) < 50
    assert float((height * width).min()) == pytest.approx(1000, rel=0.05)
    assert float((width / height).max()) == pytest.approx(4 / 3, rel=0.02)
    assert float((width / height).min()) == pytest.approx(3 / 4, rel=0.02)
    assert abs(float((width / height).log().mean())) < 0.02
    for start, extent in ((top, height), (left, width)):
        assert abs(float((start / (100 - extent)).mean()) - 0.5) < 0.02


def test_other_draws_are_those_without_a_resized_crop() -> None:
    shape = torch.Size((5, 3, 8, 8))
    with_crop = Augmentation(resized_crop=(0.08, 1)).draw(shape, generator())
    without = Augmentation(crop_padding=0).draw(shape, generator())
    assert with_crop.window.shape == (5, 22)
    assert without.window.shape == (5, 0)
    assert all(torch.equal(one, other) for one, other in zip(with_crop[:-1], without[:-1], strict=True))


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


@pytest.mark.parametrize("crop", [{}, {"resized_crop": (0.08, 1)}])
def test_a_part_of_a_batch_is_changed_as_in_the_whole(crop: dict[str, tuple[float, float]]) -> None:
    images = torch.rand(12, 3, 8, 8, generator=generator(1))
    augmentation = Augmentation(cutout=4, autoaugment="cifar10", **crop)
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
        ({"resized_crop": (0.08, 1), "crop_padding": 4}, "crop_padding and resized_crop"),
        ({"resized_crop": (0.5, 0.08)}, "resized_crop must"),
        ({"resized_crop": (0, 1)}, "resized_crop must"),
        ({"resized_crop": (0.5, 1.5)}, "resized_crop must"),
        ({"resized_crop": 0.08}, "resized_crop"),
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
