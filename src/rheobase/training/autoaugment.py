"""AutoAugment: the policies of Cubuk et al. (2019), with Pillow, as in the authors' code.

kornia 0.9 is not used: it draws one sub-policy per batch instead of per image, its ranges of shears and shifts differ
from the paper, and it takes 7 ms for a group of five images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

Policy = list[list[tuple[str, float, int]]]
"""Sub-policies of operations (name, probability, magnitude)."""

# Tables 7 and 9 of the paper: 25 sub-policies of two operations with probability and magnitude 0..9, which is 0 for
# operations without a magnitude.
_TABLES = {
    "cifar10": """
    invert 0.1 0 + contrast 0.2 6; rotate 0.7 2 + translate_x 0.3 9; sharpness 0.8 1 + sharpness 0.9 3;
    shear_y 0.5 8 + translate_y 0.7 9; auto_contrast 0.5 0 + equalize 0.9 0; shear_y 0.2 7 + posterize 0.3 7;
    color 0.4 3 + brightness 0.6 7; sharpness 0.3 9 + brightness 0.7 9; equalize 0.6 0 + equalize 0.5 0;
    contrast 0.6 7 + sharpness 0.6 5; color 0.7 7 + translate_x 0.5 8; equalize 0.3 0 + auto_contrast 0.4 0;
    translate_y 0.4 3 + sharpness 0.2 6; brightness 0.9 6 + color 0.2 8; solarize 0.5 2 + invert 0.0 0;
    equalize 0.2 0 + auto_contrast 0.6 0; equalize 0.2 0 + equalize 0.6 0; color 0.9 9 + equalize 0.6 0;
    auto_contrast 0.8 0 + solarize 0.2 8; brightness 0.1 3 + color 0.7 0; solarize 0.4 5 + auto_contrast 0.9 0;
    translate_y 0.9 9 + translate_y 0.7 9; auto_contrast 0.9 0 + solarize 0.8 3; equalize 0.8 0 + invert 0.1 0;
    translate_y 0.7 9 + auto_contrast 0.9 0
    """,
    "imagenet": """
    posterize 0.4 8 + rotate 0.6 9; solarize 0.6 5 + auto_contrast 0.6 0; equalize 0.8 0 + equalize 0.6 0;
    posterize 0.6 7 + posterize 0.6 6; equalize 0.4 0 + solarize 0.2 4; equalize 0.4 0 + rotate 0.8 8;
    solarize 0.6 3 + equalize 0.6 0; posterize 0.8 5 + equalize 1.0 0; rotate 0.2 3 + solarize 0.6 8;
    equalize 0.6 0 + posterize 0.4 6; rotate 0.8 8 + color 0.4 0; rotate 0.4 9 + equalize 0.6 0;
    equalize 0.0 0 + equalize 0.8 0; invert 0.6 0 + equalize 1.0 0; color 0.6 4 + contrast 1.0 8;
    rotate 0.8 8 + color 1.0 2; color 0.8 8 + solarize 0.8 7; sharpness 0.4 7 + invert 0.6 0;
    shear_x 0.6 5 + equalize 1.0 0; color 0.4 0 + equalize 0.6 0; equalize 0.4 0 + solarize 0.2 4;
    solarize 0.6 5 + auto_contrast 0.6 0; invert 0.6 0 + equalize 1.0 0; color 0.6 4 + contrast 1.0 8;
    equalize 0.8 0 + equalize 0.6 0
    """,
}


POLICIES: dict[str, Policy] = {
    name: [
        [(operation, float(probability), int(magnitude)) for operation, probability, magnitude in map(str.split, pair)]
        for pair in (text.split("+") for text in table.split(";"))
    ]
    for name, table in _TABLES.items()
}


# Operations of magnitude 0..1 and sign ±1 (Table 6 of the paper). Maxima: shear 0.3, shift 150 of 331 pixels, rotation
# 30°, enhancement 0.9. The border is filled with grey, close to the mean colour that the authors' code uses.


def _grey(image: Image.Image) -> int | tuple[int, ...]:
    return 128 if image.mode == "L" else (128,) * len(image.getbands())


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, fillcolor=_grey(image))


def _pixels(size: float, extent: int) -> int:
    return round(size * 150 / 331 * extent)


def _enhance(name: str) -> Callable[[Image.Image, float, int], Image.Image]:
    return lambda image, size, sign: getattr(ImageEnhance, name)(image).enhance(1 + sign * 0.9 * size)


OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "shear_x": lambda image, size, sign: _affine(image, 1, sign * 0.3 * size, 0, 0, 1, 0),
    "shear_y": lambda image, size, sign: _affine(image, 1, 0, 0, sign * 0.3 * size, 1, 0),
    "translate_x": lambda image, size, sign: _affine(image, 1, 0, sign * _pixels(size, image.width), 0, 1, 0),
    "translate_y": lambda image, size, sign: _affine(image, 1, 0, 0, 0, 1, sign * _pixels(size, image.height)),
    "rotate": lambda image, size, sign: image.rotate(sign * 30 * size, fillcolor=_grey(image)),
    **{name: _enhance(name.title()) for name in ("color", "contrast", "brightness", "sharpness")},
    "posterize": lambda image, size, sign: ImageOps.posterize(image, 8 - round(4 * size)),
    "solarize": lambda image, size, sign: ImageOps.solarize(image, math.ceil(256 * (1 - size))),
    "auto_contrast": lambda image, size, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, size, sign: ImageOps.equalize(image),
    "invert": lambda image, size, sign: ImageOps.invert(image),
}
