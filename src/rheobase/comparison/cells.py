"""The cells of a comparison: one conversion each, by one method, for one T, with one seed; and what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rheobase.graph.rewrites.max_pool import MaxPool

Share = Annotated[float, Field(ge=0, le=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Entry):
    """A converted network on a set of images.

    Attributes:
        images: how many.
        accuracy, agreement, logit_error, spike_rate: as in :class:`rheobase.evaluate.Row`; ``agreement`` and
            ``logit_error`` against the analog network it was converted from, which for a method with training is the
            trained, quantised one.
        ann_accuracy: of that analog network.
        energy_ratio: energy of the spiking network as a fraction of the analog network's (:func:`rheobase.energy`).
        picojoules, ann_picojoules: the two, per image.
        energy_images: on how many images the spikes were counted for it.
        not_counted: what there is but is not in the energy.
    """

    images: int
    accuracy: Share | None
    agreement: Share
    logit_error: float
    spike_rate: float
    ann_accuracy: Share | None
    energy_ratio: float
    picojoules: float
    ann_picojoules: float
    energy_images: int
    not_counted: tuple[str, ...]

    @model_validator(mode="after")
    def _both_accuracies_or_none(self) -> Measured:
        if (self.accuracy is None) != (self.ann_accuracy is None):
            raise ValueError("one network has an accuracy, the other has none")
        return self


class Delay(_Entry):
    """Time-steps until the answer (:func:`rheobase.latency`).

    Attributes:
        first: until the readout can answer for the first time.
        final: until the answer over all T steps is there; where layers wait for their whole input, a sum over these
            barriers.
        streaming: what it would be if no layer waited.
    """

    first: int
    final: int
    streaming: int


class Identity(_Entry):
    """What all cells of one comparison share; a file of other ones is refused.

    Attributes:
        versions: of what the numbers depend on.
        model_sha256: of the traced analog network.
        calibration_sha256, test_sha256, validation_sha256: of images and labels.
        max_pool: what max-pooling became.
        num_calibration_images: of each conversion, at most.
        energy_images: images to count spikes on for the energy, at most.
    """

    versions: dict[str, str]
    model_sha256: str
    calibration_sha256: str
    test_sha256: str
    validation_sha256: str | None
    max_pool: MaxPool
    num_calibration_images: int
    energy_images: int


class Cell(_Entry):
    """One conversion and what came of it.

    Attributes:
        method: its name in tables.
        timesteps: T.
        seed: of the choice of calibration images and of all that the method draws.
        recipe: as it was run, with this T.
        training: settings of the training, for a method that needs one.
        status: ``"done"``; ``"refused"``: the method cannot run on this network or at this T, and never will;
            ``"failed"``: an error that a further try may not meet.
        reason: why it was not done.
        test: on the test images.
        validation: on the validation images, where there are any.
        latency: time-steps until the answer.
        calibration_seconds: of the conversion.
        training_seconds: of all epochs.
        execution: ``"steps"`` for the simulation, ``"counts"`` for the closed form.
        notes: what the conversion said.
        finished: when, UTC.
        identity: what the cell is a result of.
    """

    format: Literal["rheobase-comparison"] = "rheobase-comparison"
    version: Literal[1] = 1
    method: str
    timesteps: int
    seed: int
    recipe: dict[str, Any]
    training: dict[str, Any] | None
    status: Literal["done", "refused", "failed"]
    reason: str | None = None
    test: Measured | None = None
    validation: Measured | None = None
    latency: Delay | None = None
    calibration_seconds: float | None = None
    training_seconds: float | None = None
    execution: Literal["steps", "counts"] | None = None
    notes: list[str] = []
    finished: str
    identity: Identity

    @model_validator(mode="after")
    def _has_what_its_status_says(self) -> Cell:
        if self.status != "done" and self.reason is None:
            raise ValueError(f"is {self.status} for no reason")
        if self.status == "done" and (self.test is None or self.latency is None):
            raise ValueError("is done and has no numbers")
        return self

    @property
    def key(self) -> str:
        """What was asked for; cells with the same key and identity have the same numbers."""
        return key(self.recipe, self.training, self.timesteps, self.seed)

    def named(self, method: str) -> Cell:
        """The same under another name of its method."""
        return Cell(**{**dict(self), "method": method})


def number(
    part: Literal["test", "validation", "latency"], name: str, scale: float = 1
) -> Callable[[Cell], float | None]:
    """A function of cells: ``scale`` times a number of a part, or None where it is not there."""

    def value(cell: Cell) -> float | None:
        found = getattr(getattr(cell, part), name, None)
        return None if found is None else scale * found

    return value


def key(recipe: dict[str, Any], training: dict[str, Any] | None, timesteps: int, seed: int) -> str:
    """A cell's question as text."""
    return json.dumps([recipe, training, timesteps, seed], sort_keys=True)
