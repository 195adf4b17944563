"""``rheobase demo``: a complete conversion of handwritten digits, from training to a saved network and a report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from typer import Option

from rheobase.cli import options
from rheobase.cli.behaviour import Answer, command, show_progress
from rheobase.comparison._compare import all_recipes, compare
from rheobase.comparison.folder import REPORT_FILE
from rheobase.comparison.grid import Comparison
from rheobase.core.errors import StoreError
from rheobase.core.progress import track
from rheobase.core.versions import versions
from rheobase.data.readers import Preprocessing
from rheobase.exchange import store
from rheobase.measure._evaluate import Evaluation, evaluate
from rheobase.measure.plots import accuracy_plot
from rheobase.methods import RateCoding
from rheobase.methods._convert import convert
from rheobase.network.spiking_network import SpikingNetwork
from rheobase.training import Training
from rheobase.zoo.digits import TRAIN, VALIDATION, Digits, Pair, digits, train

TIMESTEPS = (1, 2, 4, 8, 16, 32)
SAVED = 8
"""T of the network that is saved."""
COMPARED = (1, 2, 4, 8)
"""T at which all methods are compared."""
BUDGET = {"latency": 8.0}
"""Budget for which the comparison chooses a method on the validation images."""
TRAINING = Training(epochs=3, learning_rate=0.02, batch_size=64)
"""Settings for the methods that train a quantised network."""
MAKER = "rheobase demo"
COMPARISON, RESULTS = "comparison", "results.json"


@dataclass(frozen=True)
class Demo:
    """Results of the demonstration.

    Attributes:
        folder: the folder that was written.
        table: one row for each T; the thresholds are set for each T separately.
        train_accuracy: of the analog network.
        validation_accuracy: of the analog network; reported only, nothing was chosen on it.
        seconds: duration.
        comparison: of all methods, with its report in ``folder / "comparison"``; None if switched off.
    """

    folder: Path
    table: Evaluation
    train_accuracy: float
    validation_accuracy: float
    seconds: float
    comparison: Comparison | None = None


@command
def demo(
    out: Annotated[Path, Option(help="Folder for networks, tables, plots and report.")] = Path("rheobase-demo"),
    overwrite: options.Overwrite = False,
) -> Answer:
    """Train a small network on handwritten digits, convert it, compare all methods: about a minute."""
    found = run_demo(out, overwrite=overwrite, progress=show_progress())

    def show(console: Console) -> None:
        found.table.print(console)
        console.print("The saved network was loaded again: logits and results are identical.", soft_wrap=True)
        if found.comparison is not None and found.comparison.choice is not None:
            console.print(f"All methods: {found.comparison.choice.reason}", soft_wrap=True)
        report = out / COMPARISON / REPORT_FILE
        console.print(f"{found.seconds:.0f} s. Open {report} and read {out / 'summary.md'}.", soft_wrap=True)

    return Answer(json.loads((out / RESULTS).read_text()), show)


def run_demo(
    folder: str | Path,
    *,
    epochs: int = 15,
    seed: int = 0,
    comparison: bool = True,
    overwrite: bool = False,
    progress: bool = False,
) -> Demo:
    """Train, convert for T = 1 ... 32, evaluate, save the network for T = 8, load it again; then compare all methods.

    Args:
        folder: folder to create; it appears only when complete.
        epochs: training epochs.
        seed: of initial weights, batch order and calibration split.
        comparison: compare all methods too, which takes longer than the rest.
        overwrite: replace the folder of an earlier demonstration.
        progress: show progress bars.

    Raises:
        StoreError: if the folder exists or cannot be written, or if the loaded network differs from the saved one.
    """
    started, folder = time.perf_counter(), Path(folder)
    parts = digits()
    with _new_folder(folder, overwrite) as draft, _one_thread():
        model = train(parts.train, epochs, seed, progress)
        networks = {
            t: convert(
                model,
                RateCoding(timesteps=t, scale=True),
                calibration=parts.train,
                num_calibration_images=TRAIN,
                seed=seed,
            )
            for t in track(TIMESTEPS, "converting", show=progress)
        }
        found = {
            t: evaluate(network, parts.test, (t,))
            for t, network in track(networks.items(), "evaluating", show=progress)
        }
        table = replace(found[SAVED], rows=tuple(evaluation.rows[0] for evaluation in found.values()))
        _save_and_compare(networks[SAVED], draft / "network", parts.test, found[SAVED])
        scores = accuracy(model, parts.train), accuracy(model, parts.validation)
        compared = _compare(model, parts, draft / COMPARISON, seed, progress) if comparison else None
        made = Demo(folder, table, *scores, time.perf_counter() - started, compared)
        save_file(model.state_dict(), draft / "weights.safetensors")
        accuracy_plot({f"{table.method}, thresholds for each T": table}, draft / "accuracy.png")
        results = _results(made, epochs, seed)
        (draft / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
        (draft / "summary.md").write_text(_summary(made, results))
    return made


def _compare(model: nn.Module, parts: Digits, folder: Path, seed: int, progress: bool) -> Comparison:
    return compare(
        model,
        all_recipes(),
        parts.train,
        parts.test,
        COMPARED,
        seeds=(seed,),
        validation=parts.validation,
        budget=BUDGET,
        training=TRAINING,
        folder=folder,
        num_calibration_images=256,
        progress=progress,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    # Tensors this small gain nothing from more threads, and the rounding depends on the number of threads.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def accuracy(model: nn.Module, data: Pair) -> float:
    """Return the fraction of images whose largest logit is the label's."""
    images, labels = data
    return float((model(images).argmax(1) == labels).float().mean())


@contextmanager
def _new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary sibling folder; rename it to ``folder`` on success, delete it after an error."""
    _refuse_foreign(folder, overwrite)
    draft = folder.absolute().with_name(f".{folder.absolute().name}.{uuid4().hex[:8]}")
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise StoreError(
            f"cannot be created ({error.strerror})", where=str(folder), remedy="choose a folder you can write to"
        ) from None
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refuse_foreign(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise StoreError("already exists", where=str(folder), remedy="choose another folder, or pass --overwrite")
    try:
        is_demo = json.loads((folder / RESULTS).read_text())["made_by"] == MAKER
    except (OSError, ValueError, KeyError, TypeError):
        is_demo = False
    if not is_demo:
        raise StoreError(
            "was not written by `rheobase demo` and is not overwritten",
            where=str(folder),
            remedy="choose another folder",
        )


def _save_and_compare(network: SpikingNetwork, folder: Path, test: Pair, before: Evaluation) -> None:
    network.provenance.calibration["preprocessing"] = Preprocessing(scale=16.0).model_dump(mode="json")
    store.save(network, folder)
    again = store.load(folder)
    same_logits = torch.equal(again(test[0]), network(test[0]))
    if not same_logits or evaluate(again, test, (SAVED,)) != before:
        raise StoreError("has other results after saving and loading", where=str(folder), remedy="report this bug")


def _results(demo: Demo, epochs: int, seed: int) -> dict[str, Any]:
    return {
        "made_by": MAKER,
        "seed": seed,
        "epochs": epochs,
        "versions": {**versions(), "scikit-learn": version("scikit-learn")},
        "ann": {
            "train_accuracy": demo.train_accuracy,
            "validation_accuracy": demo.validation_accuracy,
            "test_accuracy": demo.table.ann_accuracy,
        },
        "table": demo.table.to_json(),
        "reloaded_identical": True,
        "choice": demo.comparison and demo.comparison.choice and demo.comparison.choice.reason,
        "seconds": round(demo.seconds, 1),
    }


def _summary(demo: Demo, results: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("rheobase", "cli"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    used = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    constants = {"TRAIN": TRAIN, "VALIDATION": VALIDATION, "SAVED": SAVED, "COMPARED": COMPARED}
    return environment.get_template("demo_summary.md").render(demo=demo, results=results, used=used, **constants)
