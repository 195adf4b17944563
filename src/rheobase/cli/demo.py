"""``rheobase demo``: a complete conversion of handwritten digits, from training to a saved network and a report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import torch
from jinja2 import StrictUndefined, Template
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
from rheobase.core.folders import check_writable
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
from rheobase.zoo.digits import TRAIN, VALIDATION, Pair, digits, train

TIMESTEPS = (1, 2, 4, 8, 16, 32)
SAVED, COMPARED = 8, (1, 2, 4, 8)
"""T of the network that is saved, and of the comparison of all methods."""
BUDGET = {"latency": 8.0}
TRAINING = Training(epochs=3, learning_rate=0.02, batch_size=64)
"""Settings for the methods that train a quantised network."""
MAKER = "rheobase demo"
COMPARISON, RESULTS = "comparison", "results.json"


class Demo(NamedTuple):
    """Results of the demonstration: one row for each T, the comparison (None if switched off), and results.json."""

    table: Evaluation
    comparison: Comparison | None
    results: dict[str, Any]


@command
def demo(
    out: Annotated[Path, Option(help="Folder for networks, tables, plots and report.")] = Path("rheobase-demo"),
    overwrite: options.Overwrite = False,
) -> Answer:
    """Train a small network on handwritten digits, convert it, compare all methods: a minute or two."""
    found = run_demo(out, overwrite=overwrite, progress=show_progress())

    def show(console: Console) -> None:
        found.table.print(console)
        console.print("The saved network was loaded again: logits and results are identical.", soft_wrap=True)
        console.print(f"All methods: {found.results['choice']}", soft_wrap=True)
        report, summary = out / COMPARISON / REPORT_FILE, out / "summary.md"
        console.print(f"{found.results['seconds']:.0f} s. Open {report} and read {summary}.", soft_wrap=True)

    return Answer(found.results, show)


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

    The folder appears only when it is complete. The seed determines initial weights, batch order and calibration split.

    Raises:
        StoreError: if the folder exists or cannot be written, or if the loaded network differs from the saved one.
    """
    started, folder, parts = time.perf_counter(), Path(folder), digits()
    found: dict[int, Evaluation] = {}
    with _new_folder(folder, overwrite) as draft, _one_thread():
        model = train(parts.train, epochs, seed, progress)
        for t in track(TIMESTEPS, "converting", show=progress):
            recipe = RateCoding(timesteps=t, scale=True)
            network = convert(model, recipe, calibration=parts.train, num_calibration_images=TRAIN, seed=seed)
            found[t] = evaluate(network, parts.test, (t,))
            if t == SAVED:
                _save_and_compare(network, draft / "network", parts.test, found[t])
        table = replace(found[SAVED], rows=tuple(evaluation.rows[0] for evaluation in found.values()))
        compared = None
        if comparison:
            compared = compare(
                model,
                all_recipes(),
                parts.train,
                parts.test,
                COMPARED,
                seeds=(seed,),
                validation=parts.validation,
                budget=BUDGET,
                training=TRAINING,
                folder=draft / COMPARISON,
                command=MAKER,
                num_calibration_images=256,
                progress=progress,
            )
        save_file(model.state_dict(), draft / "weights.safetensors")
        accuracy_plot({f"{table.method}, thresholds for each T": table}, draft / "accuracy.png")
        results = {
            "made_by": MAKER,
            "seed": seed,
            "epochs": epochs,
            "versions": {**versions(), "scikit-learn": version("scikit-learn")},
            "ann": {
                "train_accuracy": _accuracy(model, parts.train),
                "validation_accuracy": _accuracy(model, parts.validation),
                "test_accuracy": table.ann_accuracy,
            },
            "table": table.to_json(),
            "reloaded_identical": True,
            "choice": compared and compared.choice and compared.choice.reason,
            "seconds": round(time.perf_counter() - started, 1),
        }
        made = Demo(table, compared, results)
        (draft / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
        text = Path(__file__).with_name("demo_summary.md").read_text()
        summary = Template(text, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
        constants = {"TRAIN": TRAIN, "VALIDATION": VALIDATION, "SAVED": SAVED, "COMPARED": COMPARED}
        (draft / "summary.md").write_text(summary.render(made._asdict(), folder=folder, **constants))
    return made


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
def _accuracy(model: nn.Module, data: Pair) -> float:
    images, labels = data
    return float((model(images).argmax(1) == labels).float().mean())


def _save_and_compare(network: SpikingNetwork, folder: Path, test: Pair, before: Evaluation) -> None:
    network.provenance.calibration["preprocessing"] = Preprocessing(scale=16.0).model_dump(mode="json")
    store.save(network, folder)
    again = store.load(folder)
    same_logits = torch.equal(again(test[0]), network(test[0]))
    if not same_logits or evaluate(again, test, (SAVED,)) != before:
        raise StoreError("has other results after saving and loading", where=str(folder), remedy="report this bug")


@contextmanager
def _new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder next to ``folder``; rename it on success, delete it after an error."""
    folder = folder.absolute()
    if folder.exists():
        if not overwrite:
            raise StoreError("already exists", where=str(folder), remedy="choose another folder, or pass --overwrite")
        results = folder / RESULTS
        if not (results.is_file() and f'"made_by": "{MAKER}"' in results.read_text(errors="replace")):
            raise StoreError(
                "was not written by `rheobase demo` and is not overwritten",
                where=str(folder),
                remedy="choose another folder",
            )
    check_writable(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".rheobase-", dir=folder.parent) as temporary:
        draft = Path(temporary, folder.name)
        draft.mkdir()
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
