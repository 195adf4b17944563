"""Runs the cells of a comparison: quantise, train, convert and measure."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from torch import nn

from rheobase.comparison.cells import Cell, Delay, Identity, Measured, key
from rheobase.comparison.folder import TRAINING_FOLDER
from rheobase.comparison.images import Images
from rheobase.core.errors import CalibrationError, DataError, ModelError, RecipeError, RheobaseError, TraceError
from rheobase.measure._energy import energy
from rheobase.measure._evaluate import evaluate
from rheobase.measure._latency import latency
from rheobase.methods import Recipe
from rheobase.methods._convert import convert
from rheobase.methods._quantise import quantise
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.training import Training, train

_REFUSALS = (RecipeError, CalibrationError, TraceError, ModelError, DataError)
"""What a method says to a network; any other error may be the machine's and is worth another try."""


def at(recipe: Recipe, timesteps: int, quantised: bool = False) -> Recipe:
    """The recipe for another T; for a network that is quantised already, as it is: its levels decide."""
    return recipe if recipe.activation is not None and quantised else recipe.with_timesteps(timesteps)


class Runner:
    """Runs one cell after the other; nothing that one does can harm the next."""

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, Images | None],
        training: Training | None,
        quantised: bool,
        home: Path | None,
        identity: Identity,
    ) -> None:
        self.model, self.parts, self.training, self.quantised = model, parts, training, quantised
        self.home, self.identity = home, identity
        self.trained: dict[str, tuple[nn.Module, float]] = {}

    def trains(self, recipe: Recipe) -> bool:
        """Whether the recipe's network is trained here."""
        return recipe.activation is not None and not self.quantised

    def training_of(self, recipe: Recipe) -> dict[str, Any] | None:
        """The settings that decide about this recipe's cells."""
        return self.training.model_dump(mode="json") if self.training and self.trains(recipe) else None

    def claim(self, recipe: Recipe, timesteps: int, seed: int) -> str:
        """The lock for what only one process should be at: a training with all cells that need it, or a cell."""
        if self.training is not None and self.trains(recipe):
            return f"training-{self.training_name(recipe, seed)}"
        asked = key(recipe.to_dict(), self.training_of(recipe), timesteps, seed)
        return f"cell-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"

    def training_name(self, recipe: Recipe, seed: int) -> str:
        """A hash of all that decides what the training gives."""
        assert self.training is not None
        assert recipe.activation is not None
        made_of = {
            "activation": recipe.activation.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": seed,
            "from": self.identity.model_dump(
                include={"model_sha256", "calibration_sha256", "num_calibration_images", "max_pool"}
            ),
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]

    def run(self, method: str, recipe: Recipe, timesteps: int, seed: int) -> Cell:
        """The cell, done or with the reason why not."""
        found: dict[str, Any]
        try:
            found = {"status": "done", **self._measure(recipe, timesteps, seed)}
        except _REFUSALS as error:
            found = {"status": "refused", "reason": str(error)}
        except Exception as error:  # one failed cell must not lose the others
            said = error if isinstance(error, RheobaseError) else f"{type(error).__name__}: {error}"
            found = {"status": "failed", "reason": " ".join(str(said).split())}  # a line in tables
        return Cell(
            method=method,
            timesteps=timesteps,
            seed=seed,
            recipe=recipe.to_dict(),
            training=self.training_of(recipe),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            identity=self.identity,
            **found,
        )

    def _measure(self, recipe: Recipe, timesteps: int, seed: int) -> dict[str, Any]:
        recipe = at(recipe, timesteps, self.quantised)
        model, training_seconds, max_pool = self.model, None, self.identity.max_pool
        if self.trains(recipe):  # which has seen to max-pooling
            model, training_seconds = self._trained(recipe, seed)
            max_pool = "refuse"
        began = time.perf_counter()
        network = convert(model, recipe, max_pool=max_pool, **self._calibration(seed))
        seconds = time.perf_counter() - began
        steps = _steps(recipe, network, timesteps)
        until = latency(network, steps)
        notes = [f"{p['pass'].get('kind', 'pass')}: {note}" for p in network.provenance.passes for note in p["notes"]]
        if steps != timesteps:
            notes.append(f"T = {timesteps} is the mean over all sites; those that take longest run for {steps} steps")
        if until.internal:
            notes.append(f"not in the latency: {until.internal} steps in which neurons work without input")
        return {
            "test": self._on("test", network, steps),
            "validation": self._on("validation", network, steps),
            "latency": Delay(first=until.first, final=until.final, streaming=until.streaming),
            "calibration_seconds": seconds,
            "training_seconds": training_seconds,
            "execution": network.execution_mode,
            "notes": notes,
        }

    def _on(self, part: str, network: SpikingNetwork, timesteps: int) -> Measured | None:
        data = self.parts[part]
        if data is None:
            return None
        result = evaluate(network, data.batches, (timesteps,))
        spent = energy(network, data.some(self.identity.energy_images, 0), timesteps=timesteps)
        (row,) = result.rows
        if not spent.ann_picojoules > 0:
            raise CalibrationError(
                "does no operation that costs energy, so that there is no ratio to it",
                where="the analog network",
                remedy="compare on a network with weights",
            )
        numbers = {"logits": row.logit_error, "spike rate": row.spike_rate, "energy": spent.ratio}
        broken = [name for name, value in numbers.items() if not math.isfinite(value)]
        if broken:
            raise CalibrationError(
                f"has {' and '.join(broken)} that are NaN or infinite on the {part} images",
                where="the converted network",
                remedy="calibrate on more images, or with a smaller learning rate",
            )
        return Measured(
            images=result.images,
            accuracy=row.accuracy,
            agreement=row.agreement,
            logit_error=row.logit_error,
            spike_rate=row.spike_rate,
            ann_accuracy=result.ann_accuracy,
            energy_ratio=spent.ratio,
            picojoules=spent.picojoules,
            ann_picojoules=spent.ann_picojoules,
            energy_images=spent.images,
            not_counted=spent.not_counted,
        )

    def _calibration(self, seed: int) -> dict[str, Any]:
        """The images that conversion and quantisation draw their sample from."""
        data = cast(Images, self.parts["calibration"]).batches
        return {"calibration": data, "num_calibration_images": self.identity.num_calibration_images, "seed": seed}

    def _trained(self, recipe: Recipe, seed: int) -> tuple[nn.Module, float]:
        """The network with the recipe's activation, trained, and how many seconds that took in all."""
        if self.training is None:
            raise RecipeError(
                "needs a quantised network: its neurons take levels and thresholds from activations that the weights "
                "were trained with",
                remedy="give training=rb.Training(...) (--training FILE), or a network that is quantised and trained",
            )
        name = self.training_name(recipe, seed)
        if name not in self.trained:
            network = quantise(self.model, recipe, max_pool=self.identity.max_pool, **self._calibration(seed))
            trained = train(
                network,
                cast(Images, self.parts["calibration"]).batches,
                self.training,
                folder=None if self.home is None else self.home / TRAINING_FOLDER / name,
                seed=seed,
            )
            self.trained[name] = trained.model, sum(record.seconds for record in trained.history)
        return self.trained[name]


def _steps(recipe: Recipe, network: SpikingNetwork, timesteps: int) -> int:
    """For how many steps to run; of a network that was trained for a mean T, the longest site's."""
    mean = getattr(recipe.activation, "mean_timesteps", None)
    if mean is None:
        return timesteps
    if mean != timesteps:
        raise RecipeError(
            f"is {mean} by the recipe, and this cell is for {timesteps}",
            where="mean_timesteps",
            remedy="leave it out of the recipe to have each T trained",
        )
    return network.timesteps
