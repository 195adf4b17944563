"""Augmentation of a batch of images by random crop, flip, AutoAugment and Cutout."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor

from rheobase.core.errors import DataError, RheobaseError, TrainingError
from rheobase.core.values import Value
from rheobase.training.autoaugment import OPERATIONS, POLICIES, Policy

TRIES = 10
RATIOS = 3 / 4, 4 / 3
"""Tries to fit a window into the image, and the range of its width over its height, of torchvision's transform."""


class Draws(NamedTuple):
    """Random draws for B images, each [B] or [B, n], so that several processes can share a batch."""

    row: Tensor  # start of the crop in the padded image
    column: Tensor
    flip: Tensor  # True: mirrored
    hole_row: Tensor  # centre of the square of Cutout
    hole_column: Tensor
    policy: Tensor  # index of the sub-policy of AutoAugment
    chance: Tensor  # uniform in 0..1; an operation is applied if this is below its probability, [B, 2]
    negative: Tensor  # True: the operation has the negative sign, [B, 2]
    window: Tensor  # uniform in 0..1: area and ratio of the sides in ten tries, row and column, [B, 22]; else [B, 0]

    def part(self, rows: slice) -> Draws:
        """The draws for some of the images."""
        return Draws(*(values[rows] for values in self))


class Augmentation(Value):
    """Random augmentation of normalised training images [B, C, H, W], in the order of the arguments.

    Args:
        crop_padding: width of the black border in pixels, from which a random H × W window is cut; 0: no crop. The
            default is 4, and 0 with ``resized_crop``.
        resized_crop: least and largest share of the image's area in a window of random size, place and shape (ratio of
            width to height log-uniform in 3/4..4/3), which is resized to H × W, bilinear; None: no such crop. (0.08, 1)
            is usual for ImageNet, and 10 tries before a centred window those of torchvision's ``RandomResizedCrop``.
            The window is cut from the image after preprocessing, not from the file.
        flip: mirror images left to right, with probability ½.
        autoaugment: the policy of Cubuk et al. (2019) for this data set; for 1 or 3 channels.
        cutout: side in pixels of a square that is set to zero, at a random centre, partly outside near the border
            (DeVries & Taylor 2017: 16 for CIFAR-10); 0: no square.
        mean, std: mean and standard deviation per channel that the images were normalised by. They define black, and
            AutoAugment works on the pixels before normalisation. None for images in 0..1.

    Raises:
        TrainingError: naming every unknown or invalid field.

    Example:
        >>> images = torch.rand(8, 3, 32, 32)
        >>> Augmentation(cutout=16)(images, torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """

    place: ClassVar[str | None] = "augment"
    refusal: ClassVar[type[RheobaseError]] = TrainingError

    crop_padding: int = Field(default=4, ge=0)
    resized_crop: tuple[FiniteFloat, FiniteFloat] | None = None
    flip: bool = True
    autoaugment: Literal["cifar10", "imagenet"] | None = None
    cutout: int = Field(default=0, ge=0)
    mean: tuple[FiniteFloat, ...] | None = None
    std: tuple[FiniteFloat, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_crop(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("resized_crop") is not None:
            return {"crop_padding": 0, **values}
        return values

    @model_validator(mode="after")
    def _crops_are_possible(self) -> Augmentation:
        if self.resized_crop is not None:
            if self.crop_padding:
                raise ValueError("crop_padding and resized_crop are both given, one crop is possible")
            least, largest = self.resized_crop
            if not 0 < least <= largest <= 1:
                raise ValueError(
                    "resized_crop must be the least and the largest share of the area, in 0..1 and above 0"
                )
        return self

    @model_validator(mode="after")
    def _mean_and_std_belong_together(self) -> Augmentation:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together")
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError(f"{len(self.mean or ())} means but {len(self.std or ())} standard deviations")
        if self.std is not None and min(self.std, default=0) <= 0:
            raise ValueError("std must be positive, one number for each channel")
        return self

    def check(self, shape: torch.Size) -> None:
        """Refuse a shape that is not [B, C, H, W], or whose C does not fit mean and std or AutoAugment."""
        if len(shape) != 4:
            reason = f"needs images [B, C, H, W], not {list(shape)}"
            raise DataError(reason, where="augmentation", remedy="give images, or leave it out")
        if self.mean is not None and len(self.mean) != shape[1]:
            reason = f"has {len(self.mean)} values, but the images have {shape[1]} channels"
            raise DataError(reason, where="mean of the augmentation", remedy="give one value for each channel")
        if self.autoaugment and shape[1] not in (1, 3):
            reason = f"needs 1 or 3 channels, but the images have {shape[1]}"
            raise DataError(reason, where="AutoAugment", remedy="leave autoaugment out")

    def draw(self, shape: torch.Size, generator: torch.Generator) -> Draws:
        """Draw for ``shape[0]`` images; of the settings, only ``resized_crop`` changes the number of draws."""
        count, height, width = shape[0], shape[-2], shape[-1]

        def whole(below: int) -> Tensor:
            return torch.randint(below, (count,), generator=generator)

        return Draws(
            row=whole(2 * self.crop_padding + 1),
            column=whole(2 * self.crop_padding + 1),
            flip=whole(2).bool(),
            hole_row=whole(height),
            hole_column=whole(width),
            policy=whole(len(POLICIES["cifar10"])),
            chance=torch.rand(count, 2, generator=generator),
            negative=torch.randint(2, (count, 2), generator=generator).bool(),
            window=torch.rand(count, 2 * TRIES + 2 if self.resized_crop else 0, generator=generator),
        )

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """New images on the same device; AutoAugment refuses images that were not in 0..1 before normalisation."""
        if self.resized_crop:
            images = _resized(images, windows(draws.window, self.resized_crop, *images.shape[-2:]))
        if self.crop_padding or self.flip:
            images = self._crop_and_flip(images, draws)
        if self.autoaugment:
            images = self._apply_policy(POLICIES[self.autoaugment], images, draws)
        if self.cutout:
            images = self._cut_out(images, draws)
        return images

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw and apply."""
        self.check(images.shape)
        return self.apply(images, self.draw(images.shape, generator))

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        channels = images.shape[1]
        mean = images.new_tensor(self.mean or (0.0,) * channels)
        std = images.new_tensor(self.std or (1.0,) * channels)
        return mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)

    def _crop_and_flip(self, images: Tensor, draws: Draws) -> Tensor:
        count, channels, height, width = images.shape
        pad, device = self.crop_padding, images.device
        mean, std = self._statistics(images)
        padded = ((0 - mean) / std).expand(count, channels, height + 2 * pad, width + 2 * pad).contiguous()
        padded[:, :, pad : pad + height, pad : pad + width] = images
        rows = draws.row.to(device)[:, None] + torch.arange(height, device=device)
        columns = draws.column.to(device)[:, None] + torch.arange(width, device=device)
        if self.flip:
            columns = torch.where(draws.flip.to(device)[:, None], columns.flip(1), columns)
        # One gather over flat positions is six times faster than indexing by rows and columns.
        positions = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).reshape(count, 1, -1)
        return padded.flatten(2).gather(2, positions.expand(-1, channels, -1)).reshape(images.shape)

    def _cut_out(self, images: Tensor, draws: Draws) -> Tensor:
        def inside(centre: Tensor, extent: int) -> Tensor:
            begin = centre.to(images.device)[:, None] - self.cutout // 2
            position = torch.arange(extent, device=images.device)
            return (position >= begin) & (position < begin + self.cutout)

        rows, columns = inside(draws.hole_row, images.shape[2]), inside(draws.hole_column, images.shape[3])
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)

    def _apply_policy(self, policy: Policy, images: Tensor, draws: Draws) -> Tensor:
        """Apply a sub-policy to the 8-bit pixels of each image; an image without an operation keeps its bits."""
        drawn = zip(draws.policy.tolist(), draws.chance.tolist(), draws.negative.tolist(), strict=True)
        chosen = [
            [
                (OPERATIONS[name], magnitude / 9, -1 if minus else 1)
                for (name, probability, magnitude), chance, minus in zip(policy[i], chances, signs, strict=True)
                if chance < probability
            ]
            for i, chances, signs in drawn
        ]
        changed = [i for i, operations in enumerate(chosen) if operations]
        if not changed:
            return images
        mean, std = self._statistics(images)
        pixels = (images[changed] * std + mean).mul_(255)
        low, high = float(pixels.min()), float(pixels.max())
        if not (low > -1 and high < 256):
            raise DataError(
                f"needs pixels in 0..1 before normalisation, but they are {low / 255:.3g} to {high / 255:.3g}",
                where="AutoAugment",
                remedy="give Augmentation the mean and std of the normalisation",
            )
        squeeze = images.shape[1] == 1
        arrays = pixels.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()
        for array, i in zip(arrays, changed, strict=True):
            image = Image.fromarray(array[:, :, 0] if squeeze else array)
            for operation, size, sign in chosen[i]:
                image = operation(image, size, sign)
            array[:] = np.asarray(image)[:, :, None] if squeeze else np.asarray(image)
        result = images.clone()
        result[changed] = (torch.from_numpy(arrays).permute(0, 3, 1, 2).to(images) / 255 - mean) / std
        return result


def windows(draws: Tensor, areas: tuple[float, float], height: int, width: int) -> list[list[int]]:
    """Top, left, height and width of the window of each image: the first try that fits, else the largest in the centre.

    Args:
        draws: uniform in 0..1, [B, 2 TRIES + 2].
        areas: least and largest share of the image's area.
        height: of the images.
        width: of the images.
    """
    area, ratio, place = draws.cpu().double().split((TRIES, TRIES, 2), dim=1)
    area = height * width * (areas[0] + (areas[1] - areas[0]) * area)
    low, high = map(math.log, RATIOS)
    ratio = (low + (high - low) * ratio).exp()
    sides = torch.stack([(area / ratio).sqrt().round(), (area * ratio).sqrt().round()], dim=-1).long()
    limits = torch.tensor([height, width])
    fits = ((sides > 0) & (sides <= limits)).all(-1)
    size = sides.gather(1, fits.int().argmax(1)[:, None, None].expand(-1, 1, 2))[:, 0]
    start = (place * (limits - size + 1)).long()
    centred = torch.tensor([min(height, round(width / RATIOS[0])), min(width, round(height * RATIOS[1]))])
    found = fits.any(1, keepdim=True)
    size, start = torch.where(found, size, centred), torch.where(found, start, (limits - centred) // 2)
    return torch.cat([start, size], dim=1).tolist()


def _resized(images: Tensor, places: list[list[int]]) -> Tensor:
    """Resize a window of every image to the size of the image; no window is larger, so none is averaged."""
    shape = images.shape[-2:]
    parts = [
        F.interpolate(image[None, :, top : top + height, left : left + width], shape, mode="bilinear")
        for image, (top, left, height, width) in zip(images, places, strict=True)
    ]
    return torch.cat(parts)
