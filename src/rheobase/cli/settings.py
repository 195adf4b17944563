"""Settings of a training: a YAML file of :class:`rheobase.Training`, and options for single fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rheobase.core.errors import TrainingError
from rheobase.core.yaml_text import read_yaml
from rheobase.data.readers import Preprocessing
from rheobase.training import Augmentation, Training

DEFAULTS = {"epochs": 4, "learning_rate": 0.02}
"""For quantised networks that start from trained weights (chosen for ResNet-20 on CIFAR-10)."""

AUGMENTATIONS: dict[str, tuple[str, Any]] = {
    "crop": ("crop_padding", 4),
    "resized_crop": ("resized_crop", (0.08, 1.0)),
    "flip": ("flip", True),
    "autoaugment": ("autoaugment", "cifar10"),
    "cutout": ("cutout", 16),
}
"""Name of an augmentation -> field of :class:`rheobase.training.Augmentation`, and its default value."""


def read_training(
    file: Path | None, preprocessing: Preprocessing | None, *, augment: str | None = None, **given: Any
) -> Training:
    """Combine the settings of the file, the given options (None: not given) and the defaults.

    An augmentation has the mean and deviation of the preprocessing, unless the file sets them.
    """
    values = {} if file is None else read_yaml(file, TrainingError)
    if not isinstance(values, dict):
        return Training.model_validate(values)  # raises
    options = {name: value for name, value in given.items() if value is not None}
    if augment is not None:
        options["augment"] = _augmentation(augment)
    for name in options:
        if name in values:
            option = f"--{name.replace('_', '-')}"
            raise TrainingError(f"is also set in {file}", where=option, remedy="set it in one place")
    values = {**DEFAULTS, **values, **options}
    augmented = values.get("augment")
    if isinstance(augmented, dict):
        if preprocessing and not {"mean", "std"} & augmented.keys() and (preprocessing.mean or preprocessing.std):
            channels = len(preprocessing.mean or preprocessing.std or ())
            mean, std = preprocessing.mean or (0.0,) * channels, preprocessing.std or (1.0,) * channels
            augmented = {**augmented, "mean": mean, "std": std}
        values["augment"] = Augmentation.model_validate(augmented)
    return Training.model_validate(values)


def _augmentation(text: str) -> dict[str, Any]:
    """Parse ``crop=2,flip`` into fields; augmentations that are not named are off."""
    fields: dict[str, Any] = {"crop_padding": 0, "flip": False}  # the others are off by default
    named = [part.strip().partition("=") for part in text.split(",")]
    names = [name for name, _, _ in named]
    for name, equals, value in named:
        if name not in AUGMENTATIONS or names.count(name) > 1 or (name == "flip" and equals):
            raise TrainingError(
                f"is {text!r}",
                where="--augment",
                remedy="give crop or resized_crop, flip, autoaugment, cutout, each once, separated by commas, with a "
                "value such as crop=4, resized_crop=0.25, autoaugment=imagenet or cutout=16 if needed",
            )
        field, default = AUGMENTATIONS[name]
        if equals and name == "resized_crop":
            fields[field] = value, 1.0  # the least share of the area
        else:
            fields[field] = value if equals else default
    return fields
