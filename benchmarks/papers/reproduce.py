"""Tables and figures of five papers: what was published, what was measured here, and the runs that reproduce them.

    python benchmarks/papers/reproduce.py --list              # papers, tables, figures, and what each needs
    python benchmarks/papers/reproduce.py qvm table-5         # published numbers, next to those of this repository
    python benchmarks/papers/reproduce.py qvm table-5 --data cifar100=cifar-100-binary
    python benchmarks/papers/reproduce.py da_parallel table-2 --data imagenet=imagenet \
        --weights resnet18-relu=resnet18.pth --weights resnet34-relu=resnet34.pth ...
    python benchmarks/papers/reproduce.py qvm table-5 --smoke # seconds: one epoch of a small network on 60 digits

Each paper is a YAML file next to this script: networks with their training and quantisation, and entries whose rows
name a network and the recipe of its conversion. A network is trained once, in its own folder of ``--out``, from which
an interrupted run continues; its weights may be given instead. Every number is added to ``results.jsonl`` there, and
is not computed again. Test images are only measured on: no epoch, option or threshold is chosen by them.

In a YAML file:

- network: ``model``, ``data``, ``training`` (:class:`rheobase.Training`; without it ``weights`` says whose are to be
  given), ``recipe`` (quantised activations; without it a ReLU network), ``levels`` (L of every site in order),
  ``adapt`` (PASCAL's adaptive levels), ``frozen`` (end of the names of parameters that are not trained), ``max_pool``.
- entry: ``title``, ``columns`` (T, or multiples of the trained steps: ``1x``, ``2x``), ``rows``, ``measure``,
  ``values`` (names of its results, if T is no column), ``num_calibration_images``; or ``nothing_to_run`` with the
  reason.
- row: ``name``, ``network``, ``recipe``, ``published``, and ``here``: file and key of the nearest measurement in
  benchmarks/, which is that of another network or data set (docs/papers.md).
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor, nn

import rheobase as rb
from rheobase.core import user_code
from rheobase.core.errors import DataError, ModelError, RecipeError
from rheobase.core.lines import append_line, read_lines
from rheobase.core.seeds import random_state
from rheobase.data import readers
from rheobase.data.batches import batches
from rheobase.exchange import checkpoints
from rheobase.graph.trainable import TrainableGraph
from rheobase.measure import plots
from rheobase.methods.adaptive_levels import adapt_levels, level_metric
from rheobase.zoo.digits import digits

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent
sys.path.append(str(BENCHMARKS.parent / "examples"))
import pascal_cost  # noqa: E402

PAPERS = ("ftbc", "qac", "pascal", "qvm", "da_parallel")


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Checked):
    model: str
    data: str
    training: dict[str, Any] | None = None
    weights: str | None = None
    recipe: dict[str, Any] | None = None
    levels: list[int] | None = None
    adapt: list[int] | None = None
    frozen: str | None = None
    max_pool: str = "refuse"


class Row(_Checked):
    name: str
    network: str
    recipe: dict[str, Any] | None = None
    published: list[float | None] = []
    here: str | None = None


class Entry(_Checked):
    title: str
    columns: list[int | str] = []
    measure: str = "accuracy"
    values: list[str] = []
    num_calibration_images: int = 1024
    rows: list[Row] = []
    nothing_to_run: str | None = None

    @property
    def heads(self) -> list[str]:
        """Names of the published numbers."""
        return self.values or [
            "ANN",
            *(f"{x[:-1]} T".lstrip("1 ") if isinstance(x, str) else f"T = {x}" for x in self.columns),
        ]


class Paper(_Checked):
    title: str
    networks: dict[str, Network]
    entries: dict[str, Entry]
    settings: dict[str, Any] = Field(default={}, repr=False)


@functools.cache
def paper(name: str) -> Paper:
    """A paper's file."""
    return Paper.model_validate(yaml.safe_load((HERE / f"{name}.yaml").read_text()))


class DataSet(NamedTuple):
    """Where a data set's parts are, and how its images are normalised."""

    form: str
    test: str
    images: int  # to train on
    preprocessing: readers.Preprocessing


CIFAR = "its binary version: a folder with {} and the names of the classes"
DATA = {
    "cifar10": DataSet(
        CIFAR.format("data_batch_1.bin ... test_batch.bin"),
        "test",
        50_000,
        readers.Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": DataSet(
        CIFAR.format("train.bin, test.bin"),
        "test",
        50_000,
        readers.Preprocessing(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
    ),
    "imagenet": DataSet(
        "a folder, tar or shards with train/<class>/<image> and val/<class>/<image>",
        "val",
        1_281_167,
        readers.Preprocessing(size=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ),
}


class Images(NamedTuple):
    """Training and test images with their labels: tensors, or data sets on disk."""

    train: Any
    test: Any


# What is measured: (spiking network, images, T, path of a picture) -> numbers by name


def _accuracy(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    found = rb.evaluate(snn, images.test, timesteps=[steps])
    row = found.rows[-1]
    return {"accuracy": _percent(row.accuracy), "ANN": _percent(found.ann_accuracy), "mean T": row.mean_timesteps}


def _energy(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    found = {costs: rb.energy(snn, images.test, costs=costs) for costs in ("fp32-45nm", "int8-45nm")}
    row = rb.evaluate(snn, images.test, timesteps=[steps]).rows[-1]
    ratios = {name: 1 / found[costs].ratio for name, costs in (("FP32", "fp32-45nm"), ("INT8", "int8-45nm"))}
    return {"spikes a neuron": row.spike_rate * row.mean_timesteps, **ratios}


def _timesteps(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    accuracy = _accuracy(snn, images, steps, picture)["accuracy"]
    effective = pascal_cost.effective_timesteps(pascal_cost.layers(snn))
    return {"T_norm": effective, "T_eff": effective, "accuracy": accuracy}


def _unevenness(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    found = rb.measure.unevenness(snn, images.test)
    plots.unevenness_plot({picture.stem: found}, picture)
    return {"mean error": found.error}


def _distribution(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    found = rb.measure.distribution(snn, images.test)
    names = [site.name for site in snn.sites]
    drawn = [names[i] for i in (1, 7, len(names) - 1) if i < len(names)]  # the 2nd, the 8th and the last, as the paper
    plots.distribution_plot({picture.stem: found}, picture, sites=drawn)
    return {f"divergence at {row.site}": row.divergence for row in found.rows if row.site in drawn}


def _steps(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    plots.steps_plot({picture.stem: snn}, picture)
    return {site.name: snn.steps_of(site.name) for site in snn.sites}


def _rates(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    found = rb.evaluate(snn, images.test, timesteps=[steps]).site_rates
    return {name: rate * snn.steps_of(name) for name, rate in found.items()}


def _potentials(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    site = snn.sites[min(6, len(snn.sites) - 1)].name  # the 7th
    few = next(iter(batches(images.test, where="test images")))[0][:100]
    plots.potential_plot(rb.measure.potentials(snn, few, site, steps), picture)
    return {}


def _iterations(snn: rb.SpikingNetwork, images: Images, steps: int, picture: Path) -> dict[str, float]:
    history = next(record["history"] for record in snn.provenance.passes if record["history"])
    return {f"iteration {point['iteration']}": _percent(point["accuracy"]) for point in history}


def _metric(network: nn.Module, images: Images, picture: Path) -> dict[str, float]:
    """PASCAL's metric of a quantised network, with α of Fig. 1 (k = 0.5) and of Fig. 3."""
    found = level_metric(network, images.train).sweep()
    plots.level_metric_plot(found, picture)
    return {f"{k}, {site}": value for k, metric in found.items() for site, value in metric.values.items()}


MEASURES: dict[str, Callable[[rb.SpikingNetwork, Images, int, Path], dict[str, float]]] = {
    "accuracy": _accuracy,
    "energy": _energy,
    "timesteps": _timesteps,
    "unevenness": _unevenness,
    "distribution": _distribution,
    "steps": _steps,
    "rates": _rates,
    "potentials": _potentials,
    "iterations": _iterations,
}


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


class Study:
    """The networks and numbers of one paper, in a folder.

    Args:
        name: of the paper.
        out: folder of trained networks, results and pictures.
        data: path of every data set.
        weights: checkpoint files by network.
        smoke: small networks on few digits, one epoch, the first column.
    """

    def __init__(
        self, name: str, out: Path, data: Mapping[str, str], weights: Mapping[str, Path], smoke: bool, device: str
    ) -> None:
        self.name, self.paper, self.out, self.smoke, self.device = name, paper(name), out, smoke, device
        self.data, self.weights = data, weights
        self.networks: dict[str, nn.Module] = {}
        self.loaded: dict[str, Images] = {}
        self.file = out / name / "results.jsonl"

    def run(self, label: str) -> None:
        """Compute what is missing of a table or figure."""
        entry = self.paper.entries[label]
        for row in entry.rows:
            for column in entry.columns[: 1 if self.smoke else None] or [""]:
                if self.found(entry, row, column) is None:
                    numbers = self.measure(label, entry, row, column)
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    line = {"key": self.key(entry, row, column), "numbers": numbers}
                    append_line(self.file, json.dumps(line).encode())
                print(f"{label}, {row.name}, {column}: {self.found(entry, row, column)}", flush=True)

    def key(self, entry: Entry, row: Row, column: int | str) -> str:
        """Everything that determines a number; tables with the same row share it."""
        network = self.definition(row.network)
        return json.dumps([network, row.recipe, column, entry.measure, entry.num_calibration_images], sort_keys=True)

    def definition(self, name: str) -> str:
        """Everything that determines a network. In a smoke test, all are of the same size and see the same images."""
        asked = self.paper.networks[name].model_dump(exclude={"weights", *(("model", "data") if self.smoke else ())})
        return json.dumps([asked, str(self.weights.get(name))], sort_keys=True)

    def found(self, entry: Entry, row: Row, column: int | str) -> dict[str, float] | None:
        """The numbers of an earlier run."""
        key = self.key(entry, row, column)
        lines = map(json.loads, read_lines(self.file))
        return next((line["numbers"] for line in lines if line["key"] == key), None)

    def measure(self, label: str, entry: Entry, row: Row, column: int | str) -> dict[str, float]:
        """Convert and measure."""
        network, images = self.network(row.network), self.images(self.paper.networks[row.network].data)
        picture = self.out / self.name / f"{label} {row.name.replace('/', ' of ')}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        if row.recipe is None:
            return _metric(network, images, picture)
        values = dict(row.recipe or {})
        if isinstance(column, int):
            values["timesteps"] = column
        recipe = rb.Recipe.from_dict(_small(values) if self.smoke else values)
        max_pool: Any = self.paper.networks[row.network].max_pool
        how: dict[str, Any] = {} if isinstance(network, TrainableGraph) else {"max_pool": max_pool}
        number = 60 if self.smoke else entry.num_calibration_images
        snn = rb.convert(
            network, recipe, calibration=images.train, num_calibration_images=number, device=self.device, **how
        )
        steps = int(column[:-1]) * snn.timesteps if isinstance(column, str) else column
        return MEASURES[entry.measure](snn, images, steps, picture)

    def network(self, name: str) -> nn.Module:
        """The trained network: from its folder, from given weights, or by training."""
        key = self.definition(name)
        if key not in self.networks:
            self.networks[key] = self.train(name)
        return self.networks[key]

    def train(self, name: str) -> nn.Module:
        """Build a network, quantise it if its recipe says so, and train it or load its weights."""
        asked, images, file = (
            self.paper.networks[name],
            self.images(self.paper.networks[name].data),
            self.weights.get(name),
        )
        if self.smoke:
            network = _small_network()
        else:
            plain_file = file if asked.recipe is None else None
            with random_state(0, None):
                network = checkpoints.load(asked.model, plain_file)
        if asked.recipe is not None:
            network = self.quantised(network, asked, images)
            if file is not None:
                network.load_state_dict(load_file(file))
        if file is not None:
            return network.eval()
        if asked.training is None and not self.smoke:
            remedy = f"give a checkpoint: --weights {name}=FILE ({asked.weights})"
            raise ModelError("has no published training", where=name, remedy=remedy)
        training = self.training(asked)
        how: dict[str, Any] = {"folder": self.out / self.name / name, "validation": None, "accelerator": "auto"}
        if self.smoke:
            how |= {"folder": None, "accelerator": "cpu"}
        if asked.adapt is not None:
            assert isinstance(network, TrainableGraph)
            return adapt_levels(network, images.train, training, levels=asked.adapt, **how).model
        ending = asked.frozen
        chosen = None if ending is None else lambda parameter: not parameter.endswith(ending)
        return rb.train(network, images.train, training, parameters=chosen, progress=True, **how).model

    def quantised(self, network: nn.Module, asked: Network, images: Images) -> TrainableGraph:
        """The network with quantised activations."""
        recipe, how = dict(asked.recipe or {}), {"max_pool": asked.max_pool}
        if asked.levels is not None:
            start = rb.quantise(
                network, rb.Recipe.from_dict(recipe), calibration=images.train, **how
            )  # names its sites
            names = list(start.activations)
            if not self.smoke and len(names) != len(asked.levels):
                reason = f"are {len(asked.levels)}, and the network has {len(names)} sites"
                raise RecipeError(reason, where="levels", remedy="give one number for each site")
            recipe["levels"] = dict(zip(names, asked.levels, strict=False))
        return rb.quantise(network, rb.Recipe.from_dict(recipe), calibration=images.train, **how)

    def training(self, asked: Network) -> rb.Training:
        """The settings, with the normalisation of the data set in the augmentation."""
        values = dict(asked.training or {"learning_rate": 0.1})
        if self.smoke:
            return rb.Training.model_validate(
                {**values, "epochs": 2 if asked.adapt else 1, "batch_size": 20, "augment": None}
            )
        if values.get("augment"):
            pixels = DATA[asked.data].preprocessing
            values["augment"] = rb.training.Augmentation(**values["augment"], mean=pixels.mean, std=pixels.std)
        return rb.Training.model_validate(values)

    def images(self, name: str) -> Images:
        """The images of a data set."""
        if name not in self.loaded:
            self.loaded[name] = _few_digits() if self.smoke else self.read(name)
        return self.loaded[name]

    def read(self, name: str) -> Images:
        """Read a data set: small ones into memory."""
        if name not in self.data:
            raise DataError("is needed", where=name, remedy=f"give --data {name}=PATH ({DATA[name].form})")
        asked = DATA[name]
        parts = (
            readers.load(
                self.data[name], folder=folder, preprocessing=asked.preprocessing, readers=4 * (name == "imagenet")
            )
            for folder in ("train", asked.test)
        )
        train, test = map(readers.read_all, parts)
        return Images(
            getattr(train, "dataset", train), test
        )  # of a large one the data set, which is read epoch by epoch


SMALL = {"batch_size": 8, "batches": 1, "iterations": 1, "epochs": 1, "temporal_epochs": 1, "weight_iterations": 1}
"""Options that decide on the time of a calibration, and their values in a smoke test."""


def _small(recipe: Any) -> Any:
    """The recipe with the least work."""
    if isinstance(recipe, Mapping):
        return {name: min(SMALL[name], value) if name in SMALL else _small(value) for name, value in recipe.items()}
    return list(map(_small, recipe)) if isinstance(recipe, list) else recipe


@functools.cache
def _small_network() -> nn.Module:
    """Four sites and batch normalisation, for 8×8 images of one channel."""
    with random_state(0, None):
        layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
        layers += [nn.Conv2d(4, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)]
        return nn.Sequential(*layers)


def _few_digits() -> Images:
    parts = digits()
    return Images(_first(parts.train, 60), _first(parts.test, 20))


def _first(part: tuple[Tensor, Tensor], number: int) -> tuple[Tensor, Tensor]:
    return part[0][:number], part[1][:number]


# What is printed

NEAREST = "here: of a ResNet-20 of 16 channels on CIFAR-10 re-encoded as JPEG, trained for few epochs (docs/results.md)"


def table(study: Study, label: str) -> str:
    """Published numbers, those of this repository, and those of the runs in the folder."""
    entry = study.paper.entries[label]
    lines = [f"{label}: {entry.title}"]
    if entry.nothing_to_run is not None:
        return "\n".join([*lines, entry.nothing_to_run])
    rows: list[list[Any]] = []
    for row in entry.rows:
        if row.published:
            rows.append([row.name, "published", *row.published])
        if row.here is not None:
            rows.append([row.name, f"here: {row.here}", *_here(row.here, entry)])
        rows += _found(study, entry, row)
    heads = entry.heads if entry.values or entry.measure == "accuracy" else []
    lines += ["", tabulate(rows, ["", "", *heads], tablefmt="github", missingval="-", floatfmt=".2f")]
    return "\n".join(lines if all(row.here is None for row in entry.rows) else [*lines, "", NEAREST])


def _found(study: Study, entry: Entry, row: Row) -> Iterator[list[Any]]:
    """The numbers of the folder as lines of the table."""
    found = [study.found(entry, row, column) for column in entry.columns or [""]]
    title = "yours, digits" if study.smoke else "yours"
    if not any(part is not None for part in found):
        return
    if entry.measure == "accuracy":
        of_ann = next(part["ANN"] for part in found if part is not None)
        yield [row.name, title, of_ann, *(None if part is None else part["accuracy"] for part in found)]
    elif entry.values:
        numbers = next(part for part in found if part is not None)
        yield [row.name, title, *(numbers[name] for name in entry.values)]
    else:
        for column, part in zip(entry.columns or [""], found, strict=True):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in (part or {}).items())
            yield [row.name, title, f"{column}: {shown}" if column else shown]


def _here(text: str, entry: Entry) -> list[float | None]:
    """The accuracies of a file in benchmarks/: of the analog network, and for each column."""
    file, _, key = text.partition(": ")
    if file.endswith(".jsonl"):
        cells = [json.loads(line) for line in read_lines(BENCHMARKS / file)]
        mine = [cell["test"] for cell in cells if cell["method"] == key and cell["status"] == "done"]
        steps = [cell["timesteps"] for cell in cells if cell["method"] == key and cell["status"] == "done"]
        accuracy = {t: [test["accuracy"] for test, at in zip(mine, steps, strict=True) if at == t] for t in set(steps)}
        of_ann = [100 * mine[0]["ann_accuracy"]] if mine else [None]
        means = {t: sum(values) / len(values) for t, values in accuracy.items()}
        return [*of_ann, *(100 * means[t] if t in means else None for t in entry.columns)]
    results = json.loads((BENCHMARKS / file).read_text())["result"]
    numbers: list[float | None] = []
    of_ann = None
    for column in entry.columns:
        cell = results.get(key.format(T=column), {})
        found = cell.get("accuracy")
        of_ann = cell.get("ann", of_ann)
        if isinstance(found, Mapping):
            first = min(map(int, found))
            found = found.get(str(int(column[:-1]) * first if isinstance(column, str) else column))
        numbers.append(None if found is None else 100 * found)
    return [None if of_ann is None else 100 * of_ann, *numbers]


def overview() -> str:
    """All tables and figures, and what each needs."""
    lines = []
    for name in PAPERS:
        lines += ["", f"{name}: {paper(name).title}"]
        rows = [[label, entry.title, *_needs(name, entry)] for label, entry in paper(name).entries.items()]
        lines.append(
            tabulate(rows, ["", "", "data", "networks", "training, CPU-hours", "conversions"], tablefmt="github")
        )
    lines += [
        "",
        "CPU-hours: an estimate for one thread, by multiplications, from the training of a ResNet-20 in",
        f"benchmarks/comparison_resnet20.jsonl, {1e9 * _seconds_of_a_product():.2f} ns each. +: weights must be given.",
    ]
    lines += [f"{name}: {data.form}" for name, data in DATA.items()]
    return "\n".join(lines)


def _needs(name: str, entry: Entry) -> list[Any]:
    """Data sets, number of networks, hours to train them, and number of conversions."""
    if entry.nothing_to_run is not None:
        return ["", "", "", "nothing to run"]
    networks = {row.network: paper(name).networks[row.network] for row in entry.rows}
    trained = [network for network in networks.values() if network.training is not None]
    hours = sum(
        _hours(network.model, network.data, network.training["epochs"]) for network in trained if network.training
    )
    given = "" if len(trained) == len(networks) else "+"
    data = ", ".join(dict.fromkeys(network.data for network in networks.values()))
    return [data, len(networks), f"{hours:,.0f}{given}", len(entry.rows) * max(1, len(entry.columns))]


@functools.cache
def _hours(model: str, data: str, epochs: int) -> float:
    side = 224 if data == "imagenet" else 32
    return epochs * DATA[data].images * products(model, side) * _seconds_of_a_product() / 3600


@functools.cache
def _seconds_of_a_product() -> float:
    """Seconds of a training step of one image, divided by the multiplications of its forward pass."""
    cells = map(json.loads, read_lines(BENCHMARKS / "comparison_resnet20.jsonl"))
    found = [cell for cell in cells if cell["method"] == "QVM" and cell["training_seconds"]]
    epochs = found[0]["training"]["epochs"]
    seconds = sorted(cell["training_seconds"] for cell in found)[len(found) // 2]
    return seconds / (
        epochs * 10_000 * products("rheobase.zoo:resnet20", 32)
    )  # 10,000 images: benchmarks/comparison.py


@functools.cache
def products(model: str, side: int) -> int:
    """Multiplications of convolutions and linear layers for one image; the network has no values."""
    total = 0

    def add(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output[0].numel()

    with torch.device("meta"), torch.no_grad():
        network = user_code.call(model, ModelError).eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(add)
        network(torch.empty(1, 3, side, side))
    return total


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", nargs="?", choices=PAPERS)
    parser.add_argument("entry", nargs="?", help="such as table-2 or figure-3; all: every one")
    parser.add_argument("--list", action="store_true", help="papers, tables, figures and what each needs")
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="cifar10, cifar100 or imagenet"
    )
    parser.add_argument("--weights", action="append", default=[], metavar="NETWORK=FILE", help="in place of training")
    parser.add_argument("--out", type=Path, default=Path("runs/papers"), help="networks, results and pictures")
    parser.add_argument("--device", default="auto", help="of the conversion: cpu, cuda, mps, auto")
    parser.add_argument(
        "--smoke", action="store_true", help="a small network on 60 digits: does the command run through?"
    )
    arguments = parser.parse_args(words)
    if arguments.list:
        print(overview())
        return
    if arguments.paper is None or arguments.entry is None:
        parser.error("name a paper and a table, such as qvm table-5, or give --list")
    known = paper(arguments.paper).entries
    if arguments.entry != "all" and arguments.entry not in known:
        parser.error(f"{arguments.paper} has no {arguments.entry}; it has {', '.join(known)}")
    data, weights = (
        _pairs(parser, arguments.data, DATA),
        _pairs(parser, arguments.weights, paper(arguments.paper).networks),
    )
    out = arguments.out / "smoke" if arguments.smoke else arguments.out
    files = {name: Path(file) for name, file in weights.items()}
    study = Study(arguments.paper, out, data, files, arguments.smoke, "cpu" if arguments.smoke else arguments.device)
    for label in known if arguments.entry == "all" else [arguments.entry]:
        if data or arguments.smoke:
            study.run(label)
        print(f"\n{table(study, label)}")


def _pairs(parser: argparse.ArgumentParser, texts: Sequence[str], known: Mapping[str, Any]) -> dict[str, str]:
    """NAME=PATH arguments by name."""
    pairs = dict(text.partition("=")[::2] for text in texts)
    for name, path in pairs.items():
        if name not in known or not path:
            parser.error(f"{name}={path}: write NAME=PATH, with one of {', '.join(known)}")
    return pairs


if __name__ == "__main__":
    main()
