"""Methods side by side on one network: every method × time-steps × seed, measured, kept and reported."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rheobase.comparison.cells import Cell, Delay, Identity, Measured, Results, key
from rheobase.comparison.comparison import About, Comparison
from rheobase.comparison.folder import TRAINING_FOLDER, OnExisting, open_folder
from rheobase.core.checks import check_positive, check_whole, is_whole
from rheobase.core.errors import CalibrationError, DataError, ModelError, RecipeError, RheobaseError, TraceError
from rheobase.core.paths import as_path
from rheobase.core.progress import track
from rheobase.core.seeds import MOST_SEED, generator
from rheobase.core.versions import versions
from rheobase.data.batches import Batches, Digest, check_answers
from rheobase.data.sampling import NUM_CALIBRATION_IMAGES
from rheobase.data.sources import OnDisk, read
from rheobase.graph import Graph, capture, replace_max_pool
from rheobase.graph.rewrites.max_pool import MaxPool
from rheobase.graph.trace.capture import device_of
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure._energy import energy
from rheobase.measure._evaluate import evaluate
from rheobase.measure._latency import latency
from rheobase.methods import METHODS, Recipe, SNNCalibration
from rheobase.methods._convert import convert
from rheobase.methods._quantise import quantise
from rheobase.network.checks import check_input
from rheobase.network.spiking_network import MOST_TIMESTEPS, SpikingNetwork
from rheobase.training import Training, train

_REFUSALS = (RecipeError, CalibrationError, TraceError, ModelError, DataError)
"""What a method says to a network; any other error may be the machine's and is worth another try."""

MOST_REPEATED = 0.01
"""Share of a part's images that may occur in another part: published data sets hold some images twice."""


def compare(
    model: nn.Module,
    recipes: Sequence[Recipe] | Mapping[str, Recipe],
    calibration: Batches | Dataset[Any],
    test: Batches | Dataset[Any],
    timesteps: Sequence[int],
    *,
    seeds: Sequence[int] = (0,),
    validation: Batches | Dataset[Any] | None = None,
    budget: Mapping[str, float] | None = None,
    training: Training | None = None,
    folder: str | Path | None = None,
    on_existing: OnExisting = "keep",
    max_pool: MaxPool = "refuse",
    num_calibration_images: int = NUM_CALIBRATION_IMAGES,
    energy_images: int = 256,
    name: str | None = None,
    progress: bool = False,
) -> Comparison:
    """Convert a network by every recipe, for every T, with every seed, and measure each.

    A recipe is converted anew for each T. One that needs a quantised network is quantised with L = T levels (where they
    are learned, with a mean of T; or with the levels it names), trained and converted, once for each seed; recipes with
    the same activation share the training. What cannot run says why in its cell, and the rest goes on.

    With a folder, every cell is kept in ``results.jsonl`` as soon as it is there, and the same call goes on where it
    was stopped. Several processes may share a folder: each leaves to the others what they are at, and takes what they
    have found. In the end the folder holds the report (``report.html``), tables and plots, of what was asked last.

    Args:
        model: as for :func:`rheobase.convert`.
        recipes: the methods; a mapping gives them names of your own.
        calibration: training images (never test images), with labels where something is trained. Read once and held in
            memory, like the others.
        test: images to report on.
        timesteps: the numbers of time-steps.
        seeds: of the choice of calibration images and of all that is drawn.
        validation: images of their own to choose a method by; nothing is chosen by test images.
        budget: ``{"latency": 8}`` (time-steps to the final answer) or ``{"energy": 0.5}`` (fraction of the analog
            network's), or both: the report names the method that is most accurate on the validation images within it.
        training: settings for the recipes that need a quantised network.
        folder: to keep everything in.
        on_existing: what to do with a folder that holds a comparison: ``"keep"`` and go on with it, ``"overwrite"`` it,
            or ``"number"``: take the next free name (``out-2``). Nothing is overwritten that another process has open.
        max_pool: as for :func:`rheobase.convert`.
        num_calibration_images: how many calibration images each conversion uses: a random sample drawn by its seed, or
            all if there are no more.
        energy_images: images to count spikes on for the energy.
        name: of the network in the report; default its class.
        progress: show a progress bar with the time left.

    Raises:
        TraceError, ModelError: if the network cannot be traced at all.
        DataError: if data do not fit, more than a hundredth of the test or validation images occur in another part
            (fewer are a note in the report), or a budget is given without validation images.
        RecipeError: if there is no recipe, T or seed, two recipes have one name, or an option has no effect.
        StoreError: if the folder cannot be used or holds something else.

    Example:
        >>> import rheobase as rb
        >>> from rheobase.zoo.digits import DigitsResNet, digits
        >>> parts = digits()
        >>> found = rb.compare(DigitsResNet(), [rb.OPI(), rb.RateCoding()], parts.train, parts.test, (1, 2))
        >>> [(entry.method, entry.timesteps) for entry in found.entries]
        [('OPI', 1), ('OPI', 2), ('RateCoding', 1), ('RateCoding', 2)]
    """
    named = _named(recipes)
    timesteps, seeds = _numbers(timesteps, 1, "timesteps", MOST_TIMESTEPS), _numbers(seeds, 0, "seeds", MOST_SEED)
    if name is not None:
        _check_name(name, "name")
    grid = [(method, t, seed) for method in named for t in timesteps for seed in seeds]
    number = check_whole(num_calibration_images, "num_calibration_images")
    energy_images = check_whole(energy_images, "energy_images")
    _check_budget(budget, validation)
    parts = {
        "calibration": _Images.read(calibration, "calibration data"),
        "test": _Images.read(test, "test data"),
        "validation": None if validation is None else _Images.read(validation, "validation data"),
    }
    if budget is not None and parts["validation"] is not None and parts["validation"].labels is None:
        raise DataError(
            "have no labels, so no accuracy to choose by",
            where="validation images",
            remedy="give labels, or leave the budget out",
        )
    repeated = _check_apart(parts)
    fitted, tested = cast(_Images, parts["calibration"]), cast(_Images, parts["test"])
    network, analog, rewrites = _traced(model, fitted.images[:4], max_pool)
    for part, data in parts.items():
        if data is not None:
            _check_fits(analog, part, data)
    quantised = all(site.levels is not None for site in analog.sites)
    _check_training(training, named, quantised)
    identity = Identity(
        versions=versions(),
        model_sha256=_graph_digest(analog.ann),
        calibration_sha256=fitted.digest,
        test_sha256=tested.digest,
        validation_sha256=None if parts["validation"] is None else parts["validation"].digest,
        max_pool=max_pool,
        num_calibration_images=number,
        energy_images=energy_images,
    )
    with open_folder(None if folder is None else as_path(folder, "folder"), on_existing) as home:
        results = Results(home, identity)
        runner = _Runner(network, parts, training, quantised, home.path, max_pool, energy_images, identity)
        found = dict(track(_cells(grid, named, runner, results), "comparing", show=progress, total=len(grid)))
        about = About(
            network=name or type(model).__name__,
            sites=len(analog.sites),
            neurons=sum(site.neurons for site in analog.sites),
            notes=(*repeated, *rewrites, *analog.provenance.notes),
            images={part: len(data.images) for part, data in parts.items() if data is not None},
            ann_accuracy={part: _accuracy(analog.ann, data) for part, data in parts.items() if data is not None},
            identity=identity,
            training=None if training is None else training.model_dump(mode="json"),
            machine={"processor": platform.machine(), "cpus": os.cpu_count() or 1, "threads": torch.get_num_threads()},
        )
        comparison = Comparison(about, named, tuple(found[question] for question in grid), home.path)
        if budget is not None:
            comparison = dataclasses.replace(comparison, choice=comparison.choose(**budget))
        if home.path is not None:
            with home.writing():
                comparison.write(home.path)
    return comparison


Question = tuple[str, int, int]
"""Method, T, seed."""


def _cells(
    grid: list[Question], recipes: Mapping[str, Recipe], runner: _Runner, results: Results
) -> Iterator[tuple[Question, Cell]]:
    """Every cell, run here or by another process; what others are at comes last, and is run here should they fail."""
    for wait in (False, True):
        put_off = []
        for method, t, seed in grid:
            recipe = at(recipes[method], t, runner.quantised)
            asked = key(recipe.to_dict(), runner.training_of(recipe), t, seed)
            cell = results.find(asked)
            if cell is None:
                with results.shared.hold(runner.claim(recipe, t, seed), wait=wait) as claimed:
                    cell = results.find(asked)
                    if cell is None and claimed:
                        cell = runner.run(method, recipe, t, seed)
                        results.add(cell)
            if cell is None:
                put_off.append((method, t, seed))
            else:  # the same question may have had another name
                yield (method, t, seed), cell.model_copy(update={"method": method})
        grid = put_off


def all_recipes() -> dict[str, Recipe]:
    """Every published method with its default options, by name.

    Example:
        >>> "FTBC" in all_recipes()
        True
    """
    recipes = [*(method() for method in METHODS.values()), SNNCalibration(pipeline="advanced")]
    return {recipe.name: recipe for recipe in sorted(recipes, key=lambda recipe: recipe.name)}


def at(recipe: Recipe, timesteps: int, quantised: bool = False) -> Recipe:
    """The recipe for another T; where levels decide, for L = T (or a mean of T), unless they are given."""
    fields = recipe.to_dict()
    if recipe.activation is None:
        fields["timesteps"] = timesteps
        for part in (fields["neuron"], *fields["calibration"]):
            if part.get("timesteps") is not None:
                part["timesteps"] = timesteps
    elif not quantised:
        for name in ("levels", "mean_timesteps"):
            if name in fields["activation"] and fields["activation"][name] is None:
                fields["activation"][name] = timesteps
    return Recipe(**fields)


@dataclass(frozen=True)
class _Images:
    """Images [N, ...] and labels [N] or None, held in memory, with their hash."""

    images: Tensor
    labels: Tensor | None
    digest: str

    @classmethod
    def read(cls, data: Batches | Dataset[Any], where: str) -> _Images:
        source = read(data, where=where, workers=0)
        if isinstance(source, OnDisk):
            held = source.in_memory()
            source = read(held.images if held.labels is None else (held.images, held.labels), where=where, workers=0)
        assert not isinstance(source, OnDisk)
        return cls(source.images, source.labels, source.digest())

    def some(self, number: int, seed: int) -> Batches:
        """So many, chosen by the seed."""
        order = torch.randperm(len(self.images), generator=generator(seed))[:number]
        return self.images[order] if self.labels is None else (self.images[order], self.labels[order])

    @cached_property
    def hashes(self) -> list[bytes]:
        """Of every image by itself."""
        pixels = self.images.detach().cpu().contiguous().flatten(1).view(torch.uint8)  # NumPy knows no bfloat16
        return [hashlib.sha256(image.numpy()).digest() for image in pixels]

    @cached_property
    def each(self) -> frozenset[bytes]:
        """The hashes, to look one up."""
        return frozenset(self.hashes)

    @property
    def batches(self) -> Batches:
        return self.images if self.labels is None else (self.images, self.labels)


class _Runner:
    """Runs one cell after the other; nothing that one does can harm the next."""

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, _Images | None],
        training: Training | None,
        quantised: bool,
        home: Path | None,
        max_pool: MaxPool,
        energy_images: int,
        identity: Identity,
    ) -> None:
        self.model, self.parts, self.training, self.quantised, self.home = model, parts, training, quantised, home
        self.max_pool, self.energy_images, self.identity = max_pool, energy_images, identity
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
        model, training_seconds, max_pool = self.model, None, self.max_pool
        if self.trains(recipe):
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
            "execution": network.runs_as(),
            "notes": notes,
        }

    def _on(self, part: str, network: SpikingNetwork, timesteps: int) -> Measured | None:
        data = self.parts[part]
        if data is None:
            return None
        result = evaluate(network, data.batches, (timesteps,))
        spent = energy(network, data.some(self.energy_images, 0), timesteps=timesteps)
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
        data = cast(_Images, self.parts["calibration"]).batches
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
            network = quantise(self.model, recipe, max_pool=self.max_pool, **self._calibration(seed))
            trained = train(
                network,
                cast(_Images, self.parts["calibration"]).batches,
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


# -- checks ----------------------------------------------------------------------------------------------------


def _named(recipes: Sequence[Recipe] | Mapping[str, Recipe]) -> dict[str, Recipe]:
    if isinstance(recipes, Recipe) or not isinstance(recipes, Mapping | Iterable):
        raise RecipeError(
            f"is a {type(recipes).__name__}, not several", where="recipes", remedy="give a list, such as [rb.FTBC()]"
        )
    pairs = list(recipes.items()) if isinstance(recipes, Mapping) else [(getattr(r, "name", ""), r) for r in recipes]
    if not pairs:
        raise RecipeError("is empty", where="recipes", remedy="give at least one, such as rb.FTBC()")
    for _, recipe in pairs:
        if not isinstance(recipe, Recipe):
            raise RecipeError(
                f"hold a {type(recipe).__name__}", where="recipes", remedy="pass recipes such as rb.FTBC()"
            )
    names = [name for name, _ in pairs]
    for method in names:
        _check_name(method, "recipes")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(
            f"hold {twice!r} twice", where="recipes", remedy="give them names of your own: {'my name': recipe, ...}"
        )
    return dict(pairs)


def _check_name(name: object, where: str) -> None:
    """Refuse what would break the lines of a table or the text of a file.

    Raises:
        RecipeError: if it is no text, empty, or holds line breaks, control characters or lone surrogates.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise RecipeError(f"has the name {name!r}", where=where, remedy="use names of printable characters in one line")


def _numbers(values: Sequence[int], least: int, where: str, most: int) -> tuple[int, ...]:
    if not isinstance(values, Iterable):
        raise RecipeError(
            f"is {values!r}, not several", where=where, remedy=f"give whole numbers from {least} in a list"
        )
    values = tuple(values)
    good = [int(v) for v in values if is_whole(v, least, most)]
    if not values or len(good) < len(values) or len(set(values)) < len(values):
        raise RecipeError(
            f"is {', '.join(map(repr, values)) or 'empty'}",
            where=where,
            remedy=f"give whole numbers from {least} to {most}, each once",
        )
    return tuple(good)


def _check_budget(budget: Mapping[str, float] | None, validation: object) -> None:
    if budget is None:
        return
    if not isinstance(budget, Mapping):
        raise RecipeError(f"is {budget!r}", where="budget", remedy='give a mapping, such as {"latency": 8}')
    unknown = [name for name in budget if name not in ("latency", "energy")]
    if unknown or not budget:
        raise RecipeError(
            f"has the unknown part {unknown[0]!r}" if unknown else "is empty",
            where="budget",
            remedy="give latency (time-steps), energy (a fraction of the analog network's), or both",
        )
    for name, value in budget.items():
        check_positive(value, f"budget {name}")
    if validation is None:
        raise DataError(
            "are needed for a budget: the method is chosen by them, never by test images",
            where="validation images",
            remedy="give validation=... (--validation), images that are neither calibration nor test images",
        )


def _check_apart(parts: Mapping[str, _Images | None]) -> list[str]:
    """Notes on the few images that occur in two parts; refused are parts that have more in common."""
    notes = []
    for name, other in (("test", "calibration"), ("test", "validation"), ("validation", "calibration")):
        part, known = parts[name], parts[other]
        if part is None or known is None:
            continue
        found = sum(image in known.each for image in part.hashes)
        said = f"{found} of {len(part.hashes)} occur among the {other} images"
        if found > MOST_REPEATED * len(part.hashes):
            raise DataError(
                f"{said}, and on images that were used before results look better than they are",
                where=f"{name} images",
                remedy="split the data such that no image is in two parts",
            )
        if found:
            notes.append(f"{name} images: {said}")
    return notes


def _check_fits(network: SpikingNetwork, part: str, data: _Images) -> None:
    """See that images and labels are such as the network has answers for, before anything is trained or measured."""
    try:
        check_input(network.graph, data.images[:1])
    except DataError as error:
        raise DataError(error.reason, where=f"{part} {error.where}", remedy=error.remedy) from None
    if data.labels is None:
        return
    with torch.inference_mode():
        answer = network.ann(data.images[:1].to(network.graph.device))
    check_answers(answer, data.labels, f"{part} data")


def _check_training(training: Training | None, recipes: Mapping[str, Recipe], quantised: bool) -> None:
    if training is None:
        return
    if not isinstance(training, Training):
        raise RecipeError(
            f"is a {type(training).__name__}",
            where="training",
            remedy="give rb.Training(epochs=..., learning_rate=...)",
        )
    if quantised:
        reason = "has no effect on a network that is quantised already"
    elif all(recipe.activation is None for recipe in recipes.values()):
        reason = "has no effect: no recipe has an activation to train"
    else:
        return
    raise RecipeError(reason, where="training", remedy="leave it out")


def _traced(model: nn.Module, images: Tensor, max_pool: MaxPool) -> tuple[nn.Module, SpikingNetwork, list[str]]:
    """The network as every conversion takes it, its analog side, and what tracing rewrote; refused at once if need be.

    One trace serves all conversions: it takes longer than some of them.
    """
    plain = Recipe(name="analog", timesteps=1)
    if isinstance(model, SpikingNetwork | TrainableGraph):
        return model, convert(model, plain, max_pool=max_pool), []
    found = capture(model, images.to(device_of(model)))
    replace_max_pool(found, max_pool).raise_if_refused()
    return found.graph, convert(found.graph, plain, example=images, max_pool=max_pool), [*map(str, found.rewrites)]


def _graph_digest(graph: Graph) -> str:
    nodes = [{**dataclasses.asdict(node), "origin": ""} for node in graph.nodes]  # not the place in the source
    digest = hashlib.sha256(json.dumps([nodes, graph.output], sort_keys=True).encode())
    for name in sorted(graph.tensors):
        tensor = Digest()
        tensor.update(**{"value": graph.tensors[name]})
        digest.update(f"{name} {list(graph.tensors[name].shape)} {tensor.hexdigest()}".encode())
    return digest.hexdigest()


@torch.inference_mode()
def _accuracy(ann: Callable[[Tensor], Tensor], data: _Images) -> float | None:
    if data.labels is None:
        return None
    device = cast(Graph, ann).device
    right = 0
    for images, labels in zip(data.images.split(100), data.labels.split(100), strict=True):
        right += int((ann(images.to(device)).argmax(1).cpu() == labels).sum())
    return right / len(data.images)
