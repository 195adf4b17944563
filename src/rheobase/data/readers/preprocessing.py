"""Resize, crop and normalisation of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from rheobase.core.checks import check_positive, check_whole
from rheobase.core.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing of an image: resize, centre crop, then (pixel / scale − mean) / std.

    Args:
        size: length of the short side in pixels after a bilinear resize that keeps the aspect ratio.
        crop: side of the centre crop in pixels, after the resize.
        mean: one value for each channel, in units of pixel / scale.
        std: one value for each channel, in units of pixel / scale.
        scale: the pixel value that becomes 1.
        grayscale: decode image files to one channel; else to RGB.

    Raises:
        DataError: if a value is invalid.

    Example:
        >>> Preprocessing(size=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).crop
        224
    """

    size: int | None = None
    crop: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scale: float = 255.0
    grayscale: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "crop"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_whole(value, name, error=DataError))
        if self.size and self.crop and self.crop > self.size:
            raise DataError(
                f"is {self.crop}, larger than size, {self.size}",
                where="crop",
                remedy="choose crop no larger than size",
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, tuple(float(value) for value in values))
        if not all(math.isfinite(value) for value in self.mean or ()):
            raise DataError(f"is {self.mean}, not finite", where="mean", remedy="give finite numbers")
        for value in self.std or ():
            check_positive(value, "std", error=DataError)
        check_positive(self.scale, "scale", error=DataError)

    def fit(self, image: Image.Image, name: str) -> Image.Image:
        """Resize the short side and crop the centre, with the rounding of torchvision.

        Raises:
            DataError: naming the image, if it is smaller than the crop.
        """
        if self.size is not None and min(image.size) != self.size:
            short = min(image.size)
            width, height = (int(self.size * side / short) if side != short else self.size for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if self.crop is None:
            return image
        if self.crop > min(image.size):
            raise DataError(
                f"is {image.width}x{image.height}, smaller than the crop of {self.crop}",
                where=name,
                remedy="give a smaller crop, or a size to resize to",
            )
        left, top = round((image.width - self.crop) / 2), round((image.height - self.crop) / 2)
        return image.crop((left, top, left + self.crop, top + self.crop))
