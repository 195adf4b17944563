"""Cells of a comparison: one conversion (method, T, seed) and its results."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rheobase.core.errors import RecipeError
from rheobase.graph.rewrites.linear_sites import Sites
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.measure._early_exit import Exit
from rheobase.measure._energy import GradedSpikes
from rheobase.methods import Recipe
from rheobase.neurons.response import Alphabet
from rheobase.tasks import TaskName

Share = Annotated[float, Field(ge=0, le=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measured(_Entry):
    """Results of a converted network on a set of images.

    Attributes:
        accuracy, agreement, logit_error, spike_rate, scores: as in the rows of :func:`rheobase.evaluate`; ``agreement``
            and ``logit_error`` compare with the analog network that was converted (for a method with training, the
            trained, quantised network), whose measures are ``ann_accuracy`` and ``ann_scores``.
        energy_ratio: energy of the spiking network as a fraction of the analog network's (:func:`rheobase.energy`).
        picojoules, ann_picojoules: energy of the two networks per image, by spikes on ``energy_images`` of them.
        not_counted: costs that the energy does not include.
    """

    images: int
    accuracy: Share | None
    agreement: Share | None
    logit_error: float
    spike_rate: float
    ann_accuracy: Share | None
    energy_ratio: float
    picojoules: float
    ann_picojoules: float
    energy_images: int
    not_counted: tuple[str, ...]
    scores: dict[str, float] = {}
    ann_scores: dict[str, float] = {}

    def value(self, measure: str) -> float | None:
        """The value of a field, or else of a measure of the task; None if it was not measured."""
        return getattr(self, measure) if measure in Measured.model_fields else self.scores.get(measure)

    @model_validator(mode="after")
    def _both_accuracies_or_none(self) -> Measured:
        if (self.accuracy is None) != (self.ann_accuracy is None):
            raise ValueError("one network has an accuracy, the other has none")
        return self


class EarlyExits(_Entry):
    """Early exit (:func:`rheobase.measure.early_exit`) at all confidences, and at the one that was chosen."""

    chosen: Exit
    all: tuple[Exit, ...]

    @property
    def mean_timesteps(self) -> float:
        """Mean number of steps at the chosen confidence."""
        return self.chosen.mean_timesteps

    @property
    def score(self) -> float:
        """Accuracy at the chosen confidence, or without labels agreement."""
        return self.chosen.score


class Delay(_Entry):
    """Time-steps until the logits (:func:`rheobase.latency`).

    ``first``: until the first logits; ``final``: until those over all T steps, a sum over barriers if layers wait for
    their whole input; ``streaming``: ``final`` if no layer waited.
    """

    first: int
    final: int
    streaming: int


class LayerLoss(_Entry):
    """The error of one site (:func:`rheobase.diagnose`), as a fraction of its mean activation.

    ``error``: of its output; ``own``: what it adds to that of the sites before; ``cause``: the largest term of that.
    """

    site: str
    error: float
    own: float
    cause: str


class Identity(_Entry):
    """Inputs that all cells of one comparison share; cells with other inputs are refused.

    The hashes are those of the traced analog network, and of images and labels. The numbers are upper limits.
    """

    versions: dict[str, str]
    model_sha256: str = Field(title="the network")
    calibration_sha256: str = Field(title="the calibration images")
    test_sha256: str = Field(title="the test images")
    validation_sha256: str | None = Field(None, title="the validation images")
    max_pool: MaxPool = Field(title="max_pool")
    nonlinear: str | tuple[str, ...] = Field("refuse", title="nonlinear")
    sites: Sites = Field("activations", title="sites")
    num_calibration_images: int = Field(title="the number of calibration images")
    energy_images: int = Field(title="energy_images")
    graded_spikes: GradedSpikes = Field("additions", title="graded_spikes")
    task: TaskName = Field("classification", title="the task")
    early_exit: bool = Field(False, title="early_exit")

    def described(self) -> dict[str, str]:
        """Return the inputs by their names in messages."""
        fields = {field.title: str(getattr(self, name))[:12] for name, field in Identity.model_fields.items()}
        return {**self.versions, **{title: text for title, text in fields.items() if title}}


class Cell(_Entry):
    """One conversion and its results.

    Attributes:
        seed: of the calibration images and of everything that the method draws.
        recipe: the recipe with this T.
        training: settings of the training; None for a method without training.
        status: ``"done"``; ``"refused"``: the method cannot convert this network for this T; ``"failed"``: any other
            error, which may be transient, so that the cell is tried again.
        reason: why the conversion was refused or failed.
        calibration_seconds, training_seconds: duration of the conversion, and of all epochs before it.
        execution: ``"steps"``: simulation; ``"counts"``: closed form.
        alphabet: the numbers of spikes that a neuron may emit in one step; None in files of earlier versions.
        early_exit: None if it was not asked for, or for a method that waits.
        layers: the loss of every site; empty in files of earlier versions.
        finished: time of completion, UTC.
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
    early_exit: EarlyExits | None = None
    calibration_seconds: float | None = None
    training_seconds: float | None = None
    execution: Literal["steps", "counts"] | None = None
    alphabet: Alphabet | None = None
    layers: tuple[LayerLoss, ...] = ()
    notes: list[str] = []
    finished: str
    identity: Identity

    @model_validator(mode="after")
    def _has_what_its_status_says(self) -> Cell:
        if self.status != "done" and self.reason is None:
            raise ValueError(f"is {self.status} without a reason")
        if self.status == "done" and (self.test is None or self.latency is None):
            raise ValueError("is done without results")
        return self

    @property
    def bits(self) -> float | None:
        """Bits a spike: log2 of the size of the alphabet."""
        return None if self.alphabet is None else self.alphabet.bits

    @property
    def key(self) -> str:
        """Identifies the conversion; cells with the same key and identity have the same results."""
        return key(self._normalised, self.training, self.timesteps, self.seed)

    @cached_property
    def _normalised(self) -> dict[str, Any]:
        """The recipe as this version writes it: an earlier one may not have had all fields."""
        try:
            return Recipe.from_dict(self.recipe).to_dict()
        except RecipeError:  # of an extension that is not registered now
            return self.recipe


def key(recipe: dict[str, Any], training: dict[str, Any] | None, timesteps: int, seed: int) -> str:
    """Return the key of a cell."""
    return digest([recipe, training, timesteps, seed])


def digest(values: Any) -> str:
    """Return a short hash of plain values, as the name of a file or folder."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
