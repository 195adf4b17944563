"""Settings of ``rheobase train``: a YAML file of :class:`rheobase.Training`, and options for single fields."""

from __future__ import annotations

from collections.abc import Mapping
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
    "flip": ("flip", True),
    "autoaugment": ("autoaugment", "cifar10"),
    "cutout": ("cutout", 16),
}
"""Name of an augmentation -> field of :class:`rheobase.training.Augmentation`, and its default value."""


def read_training(
    file: Path | None, given: Mapping[str, Any], augment: str | None, preprocessing: Preprocessing | None
) -> Training:
    """Combine the settings of the file, the ``given`` options (None: not given) and the defaults.

    Raises:
        TrainingError: for unknown or invalid fields, or a field that both the file and an option set.
    """
    values = {} if file is None else _mapping(file)
    options = {name: value for name, value in given.items() if value is not None}
    if augment is not None:
        options["augment"] = _augmentation(augment)
    twice = [name for name in options if name in values]
    if twice:
        raise TrainingError(
            f"is also set in {file}", where=f"--{twice[0].replace('_', '-')}", remedy="set it in one place"
        )
    values = {**DEFAULTS, **values, **options}
    if isinstance(values.get("augment"), dict):
        values["augment"] = Augmentation(**_normalised(values["augment"], preprocessing))
    return Training(**values)


def _mapping(file: Path) -> dict[str, Any]:
    values = read_yaml(file, TrainingError)
    augment = values.get("augment") if isinstance(values, dict) else None
    names = [*values, *(augment if isinstance(augment, dict) else [])] if isinstance(values, dict) else [None]
    if not all(isinstance(name, str) for name in names):
        raise TrainingError(
            "is not a mapping of fields",
            where=str(file),
            remedy=f"write one line such as `epochs: 4` per field; known: {', '.join(Training.model_fields)}",
        )
    return values


def _augmentation(text: str) -> dict[str, Any]:
    """Parse ``crop=2,flip`` into fields; augmentations that are not named are off."""
    fields: dict[str, Any] = {"crop_padding": 0, "flip": False}
    named = set()
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name not in AUGMENTATIONS or name in named or (name == "flip" and equals):
            problem = f"names {name!r} twice" if name in named else f"names the unknown augmentation {part.strip()!r}"
            raise TrainingError(
                problem,
                where="--augment",
                remedy="give crop, flip, autoaugment or cutout, separated by commas, with a value "
                "such as crop=4, autoaugment=imagenet or cutout=16 if needed",
            )
        named.add(name)
        field, default = AUGMENTATIONS[name]
        fields[field] = value if equals else default
    return fields


def _normalised(augment: dict[str, Any], preprocessing: Preprocessing | None) -> dict[str, Any]:
    """Add the mean and deviation of the preprocessing to the augmentation, unless the file sets them."""
    mean, std = (None, None) if preprocessing is None else (preprocessing.mean, preprocessing.std)
    if "mean" in augment or "std" in augment or (mean is None and std is None):
        return augment
    channels = len(mean or std or ())
    return {**augment, "mean": mean or (0.0,) * channels, "std": std or (1.0,) * channels}
