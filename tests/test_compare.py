"""Methods side by side: cells, files, statistics, choice."""

from __future__ import annotations

import html
import importlib
import inspect
import json
import re
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.comparison import runner
from rheobase.comparison._compare import at
from rheobase.comparison.cells import Cell
from rheobase.comparison.images import Images
from rheobase.comparison.page import html_page
from rheobase.comparison.results_file import read
from rheobase.comparison.runner import Job, Runner
from rheobase.core.errors import DataError, RecipeError, StoreError, TraceError
from rheobase.graph import Graph, capture
from rheobase.methods import METHODS
from rheobase.zoo.digits import digits

Pair = tuple[Tensor, Tensor]
MODULE = importlib.import_module("rheobase.comparison._compare")
TIMED = {"calibration_seconds", "training_seconds", "finished"}
TRAINING = rb.Training(epochs=1, learning_rate=0.05, batch_size=20)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 10))


@cache
def traced() -> Graph:
    """Traced once for all tests here, which takes longer than what most of them are about."""
    return capture(net(), part("train")[0][:4]).graph


@cache
def part(name: str, n: int = 60) -> Pair:
    images, labels = getattr(digits(), name)
    return images[:n], labels[:n]


class Linear(nn.Sequential):
    """A linear output that the last layer reads."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.Linear(8, 10))


def compared(folder: Path | None = None, **changes: Any) -> rb.comparison.Comparison:
    arguments: dict[str, Any] = {
        "model": traced(),
        "recipes": [rb.OPI(), rb.RateCoding()],
        "calibration": part("train"),
        "test": part("test"),
        "timesteps": (1, 4),
        "num_calibration_images": 40,
        **changes,
    }
    return rb.compare(folder=folder, **arguments)


def numbers(cells: Any) -> list[dict[str, Any]]:
    return [cell.model_dump(exclude=TIMED) for cell in cells]


# What a cell says


@pytest.mark.slow
def test_a_cell_is_what_conversion_and_evaluation_give() -> None:
    recipe = rb.FTBC(timesteps=2, batch_size=32, batches=1)
    (cell,) = rb.compare(
        net(),
        [recipe],
        part("train"),
        part("test"),
        (2,),
        seeds=(3,),
        validation=part("validation"),
        num_calibration_images=40,
    ).cells
    chosen = Images.read(part("train"), "training data").some(40, 3)
    network = rb.convert(net(), recipe, calibration=chosen, num_calibration_images=40, seed=3)
    for measured, data in ((cell.test, part("test")), (cell.validation, part("validation"))):
        assert measured is not None
        evaluation = rb.evaluate(network, data, (2,))
        (row,) = evaluation.rows
        for name in ("accuracy", "agreement", "logit_error", "spike_rate"):
            assert getattr(measured, name) == pytest.approx(getattr(row, name), rel=1e-12)
        assert measured.ann_accuracy == evaluation.ann_accuracy
        assert measured.energy_ratio == pytest.approx(rb.energy(network, data[0], timesteps=2).ratio)
    assert cell.latency is not None
    assert (cell.latency.final, cell.latency.streaming) == (2, 2)
    assert cell.identity.test_sha256 == rb.evaluate(network, part("test"), (2,)).data_sha256
    assert cell.calibration_seconds is not None


def test_the_grid_and_its_order() -> None:
    found = compared(seeds=(1, 0))
    asked = [(m, t, s) for m in ("OPI", "RateCoding") for t in (1, 4) for s in (1, 0)]
    assert [(cell.method, cell.timesteps, cell.seed) for cell in found.cells] == asked
    assert all(cell.recipe["timesteps"] == cell.timesteps for cell in found.cells)
    assert found.about.ann_accuracy["test"] == pytest.approx(
        float((net()(part("test")[0]).argmax(1) == part("test")[1]).float().mean())
    )
    assert found.about.images == {"calibration": 60, "test": 60}


def test_mean_and_deviation_over_seeds() -> None:
    found = compared(recipes=[rb.RateCoding()], timesteps=(4,), seeds=(0, 1, 2))
    (entry,) = found.entries
    errors = [cell.test.logit_error for cell in found.cells if cell.test is not None]
    assert len(set(errors)) == 3  # each seed has calibration images of its own
    spread = entry.over_seeds("test.logit_error")
    assert spread is not None
    assert spread.mean == pytest.approx(sum(errors) / 3)
    assert spread.deviation == pytest.approx(statistics.stdev(errors))
    (row,) = found.to_json()["entries"]
    assert row["logit_error"] == {"mean": spread.mean, "deviation": spread.deviation}


def test_data_may_be_loaders_and_data_sets() -> None:
    images, labels = part("train")
    loader = list(zip(images.split(7), labels.split(7), strict=True))
    dataset = torch.utils.data.TensorDataset(*part("test"))
    as_tensors = compared(recipes=[rb.OPI()], timesteps=(2,))
    once = (batch for batch in loader)  # read once: a generator is enough
    assert numbers(compared(recipes=[rb.OPI()], timesteps=(2,), calibration=once, test=dataset).cells) == numbers(
        as_tensors.cells
    )


def test_without_labels_there_is_agreement() -> None:
    found = compared(recipes=[rb.OPI()], calibration=part("train")[0], test=part("test")[0])
    assert "accuracy" not in found.to_markdown()
    assert "agreement" in html_page(found)
    assert found.about.ann_accuracy == {"calibration": None, "test": None}


@pytest.mark.slow
def test_a_network_trained_for_slip_relu_is_converted_as_it_is() -> None:
    quantised = rb.quantise(net(), rb.SlipReLU(levels=4), calibration=part("train"))
    found = compared(model=quantised, recipes=[rb.SlipReLU(levels=None), rb.OPI(threshold="saturation")])
    assert [cell.status for cell in found.cells] == ["done"] * 4
    assert all(cell.training is None for cell in found.cells)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_for_another_t_is_that_method(name: str) -> None:
    """Whatever depends on T follows it, also within the passes."""
    made = METHODS[name]
    known = inspect.signature(made).parameters
    option = next(option for option in ("levels", "mean_timesteps", "timesteps") if _sets_t(made, option, known))
    for t in (1, 2, 3, 8):
        assert made().with_timesteps(t) == made(**{option: t})


def _sets_t(made: Any, option: str, known: Any) -> bool:
    return option in known and (option == "timesteps" or made().timesteps is None)


def test_recipe_for_another_t() -> None:
    assert at(rb.FTBC(timesteps=8), 2) == rb.FTBC(timesteps=2)
    assert at(rb.DAParallel(timesteps=8), 2) == rb.DAParallel(timesteps=2)
    assert at(rb.QAC(), 2) == rb.QAC(mean_timesteps=2)
    assert at(rb.Pascal(), 2) == rb.Pascal(levels=2)
    assert at(rb.Pascal(), 2, quantised=True) == rb.Pascal()
    assert at(rb.QVM(levels=4), 2) == rb.QVM(levels=4, timesteps=2)
    assert at(rb.QVM(levels=4, timesteps=8), 2) == rb.QVM(levels=4, timesteps=2)


def test_a_t_that_sites_were_given_is_not_replaced_without_a_word(tmp_path: Path) -> None:
    sites = [node.name for node in traced().sites]
    own = rb.methods.IntegrateFireNeuron(timesteps={name: 2 + i for i, name in enumerate(sites)})
    recipe = rb.RateCoding(timesteps=3).replace(name="own", timesteps=1 + len(sites), neuron=own)
    with pytest.raises(RecipeError, match="one T for all sites"):
        recipe.with_timesteps(4)
    found = compared(
        tmp_path, recipes={"own": recipe, "Pascal": rb.Pascal(levels=2)}, timesteps=(4,), training=TRAINING
    )
    reasons = {cell.method: cell.reason for cell in found.cells}
    assert "one T for all sites" in str(reasons["own"])
    assert "as many steps as the network has levels" in str(reasons["Pascal"])
    assert {cell.status for cell in found.cells} == {"refused"}


def test_every_published_method_is_there() -> None:
    assert {recipe.name.split(" (")[0] for recipe in rb.comparison.all_recipes().values()} == set(METHODS)


# Methods that need training, and cells that do not run


@pytest.mark.slow
def test_a_method_that_needs_training_is_trained_once_for_levels_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    trained: list[int] = []
    monkeypatch.setattr(runner, "train", lambda *a, **k: trained.append(k["seed"]) or rb.train(*a, **k))
    recipes = {"Pascal": rb.Pascal(), "QVM": rb.QVM(), "coarse": rb.QVM(levels=2)}
    found = compared(tmp_path / "out", recipes=recipes, timesteps=(2, 4), seeds=(0, 1), training=TRAINING)
    assert {cell.status for cell in found.cells} == {"done"}
    assert sorted(trained) == [0, 0, 1, 1]  # L = 2 and 4 for each seed, shared by all three
    for cell in found.cells:
        assert cell.test is not None
        assert cell.training_seconds is not None
        if cell.method != "coarse" or cell.timesteps == 2:  # exact at T = L
            assert cell.test.agreement == 1.0
    again = compared(tmp_path / "out", recipes=[rb.Pascal()], timesteps=(2,), training=TRAINING)
    assert numbers(again.cells) == numbers(
        c for c in found.cells if (c.method, c.timesteps, c.seed) == ("Pascal", 2, 0)
    )
    assert len(trained) == 4


def test_a_quantised_network_is_converted_as_it_is() -> None:
    network = rb.quantise(traced(), rb.Pascal(levels=4), calibration=part("train"))
    arguments = (part("train"), part("test"), (2, 4))
    found = rb.compare(network, [rb.Pascal(), rb.QVM(), rb.OPI()], *arguments)
    status = {(cell.method, cell.timesteps): cell.status for cell in found.cells}
    assert status.pop(("Pascal", 2)) == "refused"  # it runs for its levels and no other T
    assert set(status.values()) == {"done"}
    with pytest.raises(RecipeError, match="training: has no effect"):
        rb.compare(network, [rb.Pascal()], *arguments, training=TRAINING)


@pytest.mark.slow
def test_what_cannot_run_says_why_and_the_rest_goes_on(tmp_path: Path) -> None:
    twenty = rb.FTBC(batch_size=1, batches=1, threshold="saturation")  # needs activations that saturate
    found = compared(tmp_path / "out", recipes={"Pascal": rb.Pascal(), "saturated": twenty, "OPI": rb.OPI()})
    reasons = {cell.method: cell.reason or "" for cell in found.cells}
    assert reasons["Pascal"].startswith("needs a quantised network")
    assert "rb.Training" in reasons["Pascal"]
    assert "saturat" in reasons["saturated"]
    assert [cell.status for cell in found.cells] == ["refused"] * 4 + ["done"] * 2
    text = found.to_markdown()
    assert "Did not run:\n\n- Pascal (every T): needs a quantised network" in text
    assert "needs a quantised network" in html_page(found)
    # With training, only what was missing runs.
    both = compared(tmp_path / "out", recipes=[rb.Pascal(), rb.OPI()], training=TRAINING)
    assert {cell.status for cell in both.cells} == {"done"}
    assert numbers(both.cells[2:]) == numbers(found.cells[4:])


@pytest.mark.slow
def test_an_unexpected_error_fails_one_cell_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Runner._measure

    def broken(self: Runner, recipe: rb.Recipe, timesteps: int, seed: int) -> dict[str, Any]:
        if (recipe.name, timesteps) == ("OPI", 4):
            raise MemoryError("no more")
        return measure(self, recipe, timesteps, seed)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "_measure", broken)
        found = compared(tmp_path / "out")
    assert [cell.status for cell in found.cells] == ["done", "failed", "done", "done"]
    assert found.cells[1].reason == "MemoryError: no more"
    assert "Failed; repeat the call" in html_page(found)
    again = compared(tmp_path / "out")
    assert [cell.status for cell in again.cells] == ["done"] * 4
    assert again.cells[0] == found.cells[0]  # seconds and all: not run again


@pytest.mark.slow
@pytest.mark.parametrize("folder", [None, "out"])
def test_a_network_that_answers_nan_is_one_refused_cell(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(model: nn.Module, recipe: rb.Recipe, **options: Any) -> rb.SpikingNetwork:
        snn = rb.convert(model, recipe, **options)
        if (recipe.name, recipe.timesteps) == ("OPI", 4):
            bias = snn.graph.nodes[-1].parameters["bias"]
            snn.graph = snn.graph.replace(tensors={bias: torch.full((10,), torch.nan)})
        return snn

    monkeypatch.setattr(runner, "convert", spoiled)
    home = None if folder is None else tmp_path / folder
    for _ in range(2):
        found = compared(home)
        assert [cell.status for cell in found.cells] == ["done", "refused", "done", "done"]
        assert "NaN or infinite logits" in str(found.cells[1].reason)
        document = html_page(found).split('<script type="application/json"')[1].split(">", 1)[1].split("</script>")[0]
        json.loads(document, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_an_existing_folder_needs_a_folder() -> None:
    with pytest.raises(RecipeError, match="on_existing: has no effect without a folder"):
        compared(on_existing="overwrite")


def test_a_network_that_cannot_be_traced_is_an_error_at_once(tmp_path: Path) -> None:
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.SiLU(), nn.Linear(4, 10))
    with pytest.raises(TraceError, match=r"SiLU|silu"):
        rb.compare(smooth, [rb.OPI()], part("train"), part("test"), (1,), folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Kill and resume; files of something else


@pytest.mark.slow
def test_a_killed_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compared(tmp_path / "whole")
    run, ran = Runner.run, []

    def counted(self: Runner, job: Job) -> Cell:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append((job.method, job.timesteps))
        return run(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", counted)
        with pytest.raises(KeyboardInterrupt):
            compared(tmp_path / "killed")
        file = tmp_path / "killed" / "results.jsonl"
        assert len(file.read_text().splitlines()) == 2
        with file.open("a") as stream:  # a kill in the middle of a line
            stream.write((tmp_path / "whole" / "results.jsonl").read_text().splitlines()[2][:200])
        assert len(read(file)) == 2
        ran.clear()
        found = compared(tmp_path / "killed")
    assert ran == [("RateCoding", 1), ("RateCoding", 4)]
    assert numbers(found.cells) == numbers(whole.cells)
    assert [Cell.model_validate_json(line) for line in file.read_text().splitlines()] == list(found.cells)
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {
        *("results.jsonl", "report.html", "table.md", "table.csv", "table.tex"),
        *("accuracy.svg", "latency.svg", "energy.svg", "layers.svg", ".lock"),
    }


@pytest.mark.slow
def test_a_comparison_may_grow(tmp_path: Path) -> None:
    first = compared(tmp_path / "out", recipes=[rb.OPI()], timesteps=(4,))
    more = compared(tmp_path / "out", recipes={"mine": rb.OPI(), "other": rb.RateCoding()}, seeds=(0, 1))
    old = next(cell for cell in more.cells if (cell.method, cell.timesteps, cell.seed) == ("mine", 4, 0))
    assert old == first.cells[0].model_copy(update={"method": "mine"})
    assert len(read(tmp_path / "out" / "results.jsonl")) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test": ("test", 50)}, "the test images"),
        ({"calibration": ("train", 50)}, "the calibration images"),
        ({"validation": ("validation", 50)}, "the validation images: None then"),
        ({"num_calibration_images": 30}, "the number of calibration images: 40 then, 30 now"),
    ],
)
def test_other_data_are_not_mixed(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    compared(tmp_path / "out", recipes=[rb.OPI()], timesteps=(1,))
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    given = {name: part(*value) if isinstance(value, tuple) else value for name, value in changes.items()}
    with pytest.raises(StoreError, match=f"another comparison: .*{said}"):
        compared(tmp_path / "out", **given)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_another_network_or_version_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    compared(tmp_path / "out", recipes=[rb.OPI()], timesteps=(1,))
    name = traced().tensor_names[0]
    other = traced().replace(tensors={name: traced().tensor(name) + 0.25})
    with pytest.raises(StoreError, match="the network"):
        rb.compare(
            other, [rb.OPI()], part("train"), part("test"), (1,), num_calibration_images=40, folder=tmp_path / "out"
        )
    monkeypatch.setattr(MODULE, "versions", lambda: {"rheobase": "9.9", "torch": "1"})
    with pytest.raises(StoreError, match=r"rheobase: 0\.1\.0 then, 9\.9 now"):
        compared(tmp_path / "out", recipes=[rb.OPI()])


@pytest.mark.slow
def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    compared(tmp_path / "out", recipes=[rb.OPI()])
    file = tmp_path / "out" / "results.jsonl"
    lines = file.read_text().splitlines()
    file.write_text(lines[0][:-10] + "\n" + lines[1] + "\n")
    with pytest.raises(StoreError, match="line 1"):
        compared(tmp_path / "out")
    cell = json.loads(lines[0])
    for changes, said in (
        ({"version": 2}, "version"),
        ({"test": None}, "is done without results"),
        ({"latency": None}, "is done without results"),
        ({"test": {**cell["test"], "accuracy": None}}, "one network has an accuracy, the other has none"),
        ({"test": {**cell["test"], "accuracy": 5.0}}, "test.accuracy"),
        ({"status": "refused"}, "is refused without a reason"),
    ):
        file.write_text(json.dumps({**cell, **changes}, separators=(",", ":")) + "\n")
        with pytest.raises(StoreError, match=f"line 1: .*{said}"):
            compared(tmp_path / "out")
    file.write_text(lines[1] + "\n")  # what the remedy says
    assert len(compared(tmp_path / "out", recipes=[rb.OPI()]).cells) == 2
    assert lines[1] in file.read_text().splitlines()


def test_what_is_not_ours_is_neither_deleted_nor_written_over(tmp_path: Path) -> None:
    for name in ("training", "report.html", "table.csv", "results.jsonl"):
        folder = tmp_path / f"with-{name}"
        mine = folder / name if name != "training" else folder / name / "weights.pt"
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        for choice in ("keep", "overwrite"):
            with pytest.raises(StoreError, match=rf"contains .{name}"):
                compared(folder, on_existing=choice)
        assert mine.read_text() == "mine"
    out = tmp_path / "out"
    compared(out, recipes=[rb.OPI()], timesteps=(1,))
    with (out / "results.jsonl").open("a") as file:
        file.write("my notes")
    with pytest.raises(StoreError, match="not a result"):
        compared(out, recipes=[rb.OPI()], timesteps=(4,))
    assert (out / "results.jsonl").read_text().endswith("my notes")
    (out / "training" / "0123456789ab").mkdir(parents=True)
    (out / "training" / "mine").mkdir()
    compared(out, recipes=[rb.OPI()], timesteps=(1,), on_existing="overwrite")
    assert [path.name for path in (out / "training").iterdir()] == ["mine"]


@pytest.mark.slow
def test_results_alone_make_a_folder_ours(tmp_path: Path) -> None:
    first = compared(tmp_path / "out", recipes=[rb.OPI()])
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "results.jsonl").write_bytes((tmp_path / "out" / "results.jsonl").read_bytes())
    assert compared(tmp_path / "copy", recipes=[rb.OPI()]).cells == first.cells


def test_the_folder_shows_what_was_asked_last(tmp_path: Path) -> None:
    compared(tmp_path, recipes=[rb.OPI()])
    assert (tmp_path / "accuracy.svg").exists()
    compared(tmp_path, recipes=[rb.Pascal(levels=2)])  # nothing runs, so there is nothing to draw
    assert not list(tmp_path.glob("*.svg"))
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StoreError, match=r"report.html: cannot be written"):
        compared(tmp_path, recipes=[rb.OPI()])
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.slow
def test_a_folder_that_exists(tmp_path: Path) -> None:
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    compared(out, recipes=[rb.OPI()], timesteps=(1,))
    numbered = compared(out, recipes=[rb.OPI()], timesteps=(1,), test=part("test", 50), on_existing="number")
    assert numbered.folder == tmp_path / "out-2"
    over = compared(out, recipes=[rb.OPI()], timesteps=(1,), test=part("test", 40), on_existing="overwrite")
    assert read(out / "results.jsonl") == list(over.cells)
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    for choice in ("keep", "overwrite"):
        with pytest.raises(StoreError, match=r"thesis\.tex"):
            compared(foreign, on_existing=choice)
    assert (foreign / "thesis.tex").exists()
    with pytest.raises(StoreError, match="is a file"):
        compared(foreign / "thesis.tex")


@pytest.mark.slow
def test_the_call_on_the_page_repeats_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipes = {"plain": rb.OPI(), "low": rb.OPI(percentile=90), "trained": rb.Pascal()}
    options = {"recipes": recipes, "training": TRAINING, "graded_spikes": "products", "seeds": (1,)}
    found = compared(tmp_path, validation=part("validation"), budget={"latency": 4}, **options)
    (call,) = re.findall(r"<pre>(import json, re.*?)</pre>", Path("report.html").read_text(), re.DOTALL)
    call = html.unescape(call).replace("rb.compare(", "again = rb.compare(")
    names: dict[str, Any] = {
        "network": traced(),
        **{name: part(name) for name in ("validation", "test")},
        "calibration": part("train"),
    }
    exec(call, names)
    assert numbers(names["again"].cells) == numbers(found.cells)
    assert names["again"].choice == found.choice


# The choice within a budget


def made_up(**accuracies: tuple[float, float]) -> rb.comparison.Comparison:
    """A comparison whose methods have the given accuracy on (test, validation) images, and latencies 4, 8, ..."""
    real = compared(recipes={name: rb.OPI() for name in accuracies}, timesteps=(1,), validation=part("validation"))
    cells = []
    for i, (cell, (test, validation)) in enumerate(zip(real.cells, accuracies.values(), strict=True)):
        assert cell.test is not None
        assert cell.validation is not None
        assert cell.latency is not None
        change = {
            "test": cell.test.model_copy(update={"accuracy": test, "energy_ratio": 9.0}),
            "validation": cell.validation.model_copy(update={"accuracy": validation, "energy_ratio": 0.1 * (i + 1)}),
            "latency": cell.latency.model_copy(update={"final": 4 * (i + 1)}),
        }
        cells.append(cell.model_copy(update=change))
    return rb.comparison.Comparison(real.about, real.recipes, tuple(cells))


def test_the_choice_is_made_on_validation_images_alone() -> None:
    found = made_up(a=(0.99, 0.5), b=(0.1, 0.9), c=(0.2, 0.95))
    assert found.choose(latency=8).method == "b"
    assert found.choose(latency=100).method == "c"
    assert found.choose(energy=0.25).method == "b"
    assert found.choose(latency=100, energy=0.15).method == "a"
    # The same validation numbers with any other test numbers: the same choice.
    assert made_up(a=(0.1, 0.5), b=(0.9, 0.9), c=(0.99, 0.95)).choose(latency=8).method == "b"
    nothing = found.choose(latency=3, energy=0.05)
    assert (nothing.method, nothing.timesteps) == (None, None)
    assert "No method fits within a latency of 3 steps and 0.05" in nothing.reason
    assert "the nearest is a at T = 1 (50.00 % accuracy, latency 4 steps, energy 0.1" in nothing.reason
    assert found.choose(latency=8) == found.choose(latency=8.0)
    with pytest.raises(RecipeError, match="budget: is empty"):
        found.choose()


def test_of_equally_accurate_methods_the_cheaper_is_chosen() -> None:
    assert made_up(a=(0.5, 0.7), b=(0.9, 0.7)).choose(latency=100).method == "a"


def test_a_budget_without_validation_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation images: are missing"):
        compared(tmp_path / "out", budget={"latency": 8})
    with pytest.raises(DataError, match="validation images: have no labels"):
        compared(tmp_path / "out", budget={"latency": 8}, validation=part("validation")[0])
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="validation images: are missing"):
        compared(recipes=[rb.OPI()], timesteps=(1,)).choose(latency=8)


def test_the_budget_is_in_the_report() -> None:
    found = compared(validation=part("validation"), budget={"latency": 1})
    assert found.choice is not None
    assert found.choice.timesteps == 1
    page = html_page(found)
    assert f"{found.choice.method} at T = 1" in page
    assert "made on validation images only" in page
    assert "Choice: " in found.to_markdown()


def test_steps_that_the_latency_leaves_out_are_noted() -> None:
    network = rb.quantise(traced(), rb.Pascal(levels=4), calibration=part("train"))
    (cell,) = rb.compare(network, [rb.Pascal()], part("train"), part("test"), (4,)).cells
    internal = rb.latency(rb.convert(network, rb.Pascal()), 4).internal
    assert internal > 0
    assert f"not in the latency: {internal} steps of neurons without input" in cell.notes


# Bad input


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"recipes": []}, RecipeError, "recipes: is empty"),
        ({"recipes": ["FTBC"]}, RecipeError, "recipes: contains a str"),
        ({"recipes": [rb.OPI(), rb.OPI(percentile=99)]}, RecipeError, "'OPI' twice"),
        ({"recipes": None}, RecipeError, "recipes: is a NoneType"),
        ({"recipes": rb.OPI()}, RecipeError, "recipes: is a Recipe"),
        ({"recipes": {1: rb.OPI()}}, RecipeError, "recipes: has the name 1"),
        ({"recipes": {"a\nb": rb.OPI()}}, RecipeError, r"recipes: has the name 'a\\nb'"),
        ({"recipes": {"\ud800": rb.OPI()}}, RecipeError, "recipes: has the name"),
        ({"name": "a\tb"}, RecipeError, "name: has the name"),
        ({"timesteps": (10**12,)}, RecipeError, "timesteps: is 1000000000000.*1 to 65536"),
        ({"seeds": (2**64,)}, RecipeError, "seeds: is 18446744073709551616"),
        ({"budget": 8}, RecipeError, "budget: is 8"),
        ({"budget": {1: 2, "a": 3}}, RecipeError, "budget: has the unknown field 1"),
        ({"on_existing": "bogus"}, RecipeError, "on_existing: is 'bogus'"),
        ({"timesteps": 4}, RecipeError, "timesteps: is 4"),
        ({"seeds": 4}, RecipeError, "seeds: is 4"),
        ({"timesteps": ()}, RecipeError, "timesteps: is empty"),
        ({"timesteps": (0,)}, RecipeError, "timesteps: is 0"),
        ({"timesteps": (2, 2)}, RecipeError, "timesteps: is 2, 2"),
        ({"seeds": ()}, RecipeError, "seeds: is empty"),
        ({"seeds": (-1,)}, RecipeError, "seeds: is -1"),
        ({"num_calibration_images": 0}, RecipeError, "num_calibration_images: is 0"),
        ({"training": TRAINING}, RecipeError, "training: has no effect"),
        ({"budget": {"speed": 1}}, RecipeError, "unknown field 'speed'"),
        ({"budget": {"energy": -1}}, RecipeError, "budget energy: is -1"),
        ({"test": ("train", 60)}, DataError, "test images: 60 of 60 occur among the calibration images"),
        ({"validation": ("test", 60)}, DataError, "test images: 60 of 60 occur among the validation images"),
        ({"validation": ("train", 50)}, DataError, "validation images: 50 of 50 occur among the calibration images"),
        ({"test": (torch.rand(4, 1, 9, 9), torch.zeros(4, dtype=torch.int64))}, DataError, "shape"),
    ],
)
def test_impossible_questions(tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str) -> None:
    for name in ("test", "validation"):
        if isinstance(changes.get(name, [None])[0], str):
            changes = {**changes, name: part(*changes[name])}
    with pytest.raises(error, match=said):
        compared(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_images_in_two_parts() -> None:
    """Two of 200 are a note, three are too many; order, place and labels do not matter."""
    images, labels = part("test", 200)
    seen = part("train", 60)[0]
    with pytest.raises(DataError, match="test images: 3 of 200"):
        compared(recipes=[rb.OPI()], timesteps=(1,), test=(torch.cat([images[:197], seen[[7, 3, 7]]]), labels))
    mixed = torch.cat([images[:120], seen[[7, 3]], images[122:]])
    found = compared(recipes=[rb.OPI()], timesteps=(1,), test=(mixed, labels))
    assert found.about.notes[0] == "test images: 2 of 200 occur among the calibration images"
    assert found.about.notes[0] in html_page(found)
    clean = compared(recipes=[rb.OPI()], timesteps=(1,), validation=part("validation"))
    assert not any("occur among" in note for note in clean.about.notes)


def test_labels_that_have_no_place_in_the_answers_are_refused_before_the_work(tmp_path: Path) -> None:
    images = torch.rand(40, 1, 6, 6)
    maps = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    first, second = (images[:20], torch.zeros(20).long()), (images[20:], torch.zeros(20).long())
    with pytest.raises(DataError, match=r"labels of the test data: .*\[2, 4, 4\]"):
        rb.compare(maps, [rb.OPI()], first, second, (1,), folder=tmp_path / "out")
    assert rb.compare(maps, [rb.OPI()], images[:20], images[20:], (1,)).cells[0].status == "done"
    labels = part("test")[1].clone()
    labels[7] = 10
    with pytest.raises(DataError, match="label of image 7 of the test data: is 10, but the network has 10 classes"):
        compared(tmp_path / "out", test=(part("test")[0], labels))
    assert not (tmp_path / "out").exists()


def test_a_network_without_weights_has_no_ratio() -> None:
    (cell,) = rb.compare(nn.ReLU(), [rb.OPI()], torch.rand(20, 3), torch.rand(9, 3), (1,)).cells
    assert cell.status == "refused"
    assert "no operation that costs energy" in (cell.reason or "")


@pytest.mark.slow
def test_images_of_any_real_type() -> None:
    images = torch.rand(30, 8, dtype=torch.bfloat16)
    small = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)).bfloat16()
    assert len(rb.compare(small, [rb.OPI()], images[:20], images[20:], (1,)).cells) == 1


def test_the_number_of_images_for_the_energy_is_said() -> None:
    found = compared(recipes=[rb.OPI()], timesteps=(1,), energy_images=20)
    assert "60 test images (analog network" in found.to_markdown()
    assert "spikes counted for the energy on 20 of them" in found.to_markdown()
    assert "the energy on 20 of them" in html_page(found)
    assert "energy on" not in compared(recipes=[rb.OPI()], timesteps=(1,)).to_markdown()


@pytest.mark.parametrize("folder", [5, "a\0b", "a" * 300])
def test_folders_that_cannot_be(folder: Any) -> None:
    with pytest.raises(StoreError, match=r"pass a path|not a valid path"):
        compared(folder, recipes=[rb.OPI()], timesteps=(1,))


@pytest.mark.slow
def test_linear_outputs_fire_in_every_cell(tmp_path: Path) -> None:
    recipes = [rb.RateCoding(), rb.Graded(iterations=0)]
    found = compared(tmp_path / "all", model=Linear(), recipes=recipes, timesteps=(2,), sites="all")
    refused, done = found.cells
    assert (found.about.sites, found.about.neurons) == (2, 20)
    assert any("is linear and read by a weighted layer" in note for note in found.about.notes)
    assert refused.status == "refused"
    assert "has negative values" in str(refused.reason)
    assert done.status == "done"
    assert done.identity.sites == "all"
    with pytest.raises(StoreError, match="sites"):
        compared(tmp_path / "all", model=Linear(), recipes=recipes, timesteps=(2,))
    with pytest.raises(RecipeError, match="changes nothing"):
        compared(sites="all")


# Images that are too many for memory


class Stored(torch.utils.data.Dataset[Pair]):
    """Images by index, and the indices that were read."""

    def __init__(self, name: str, n: int = 60) -> None:
        self.images, self.labels = part(name, n)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        self.read.append(i)
        return self.images[i], self.labels[i]


class Streamed(torch.utils.data.IterableDataset[Pair]):
    """Images in order, without a length."""

    def __init__(self, name: str) -> None:
        self.whole = Stored(name)

    def __iter__(self) -> Iterator[Any]:
        return (self.whole[i] for i in range(len(self.whole)))


def loader(name: str) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(Streamed(name), batch_size=7)


SOURCES: dict[str, Callable[[str], Any]] = {
    "data set": Stored,
    "shuffled loader": lambda name: torch.utils.data.DataLoader(Stored(name), batch_size=100, shuffle=True),
    "stream": loader,
    "generator": lambda name: iter(loader(name)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_data_in_memory_and_read_again_give_the_same_cells(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheobase.comparison.images.IN_MEMORY", 0)
    expected = compared(timesteps=(2,), validation=part("validation"), seeds=(0, 1))
    parts = {"calibration": "train", "test": "test", "validation": "validation"}
    given = {name: SOURCES[source](held) for name, held in parts.items()}
    found = compared(timesteps=(2,), seeds=(0, 1), **given)
    same = {"identity", "notes"} if source in ("stream", "generator") else {"identity"}
    for one, other in zip(found.cells, expected.cells, strict=True):
        if source in ("stream", "generator"):  # drawn by another rule
            assert one.status == "done"
        else:
            assert one.model_dump(exclude=TIMED | same) == other.model_dump(exclude=TIMED | same)
        for name in ("test_sha256", "validation_sha256"):
            assert getattr(one.identity, name) == getattr(other.identity, name)
    assert found.about.images == expected.about.images
    for name in ("test", "validation"):
        assert found.about.ann_scores[name] == expected.about.ann_scores[name]


def test_of_calibration_images_only_those_that_are_drawn_are_read() -> None:
    data = Stored("train", 500)
    found = compared(calibration=data, timesteps=(2,), seeds=(3,), num_calibration_images=20)
    assert found.about.images["calibration"] == 500
    first = set(range(100))  # on which the traced graph is checked
    assert len({*data.read} - first) <= 20
    again = compared(calibration=Stored("train", 500), timesteps=(2,), seeds=(3, 4), num_calibration_images=20)
    assert again.cells[0].identity == found.cells[0].identity


class Unreadable:
    """Images of which one cannot be read."""

    def __len__(self) -> int:
        return len(part("test")[0])

    def __getitem__(self, i: int) -> Tensor:
        if i == 41:
            raise FileNotFoundError(2, "No such file or directory", "/data/41.png")
        return part("test")[0][i]


@pytest.mark.parametrize("source", ["data set", "stream"])
def test_faults_of_images_that_are_read_again(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheobase.comparison.images.IN_MEMORY", 0)
    with pytest.raises(DataError, match="test images: 60 of 60 occur among the calibration images"):
        compared(test=SOURCES[source]("train"), num_calibration_images=60)
    broken = SOURCES[source]("test")
    whole = broken if source == "data set" else broken.dataset.whole
    whole.images = whole.images.clone()
    whole.images[41, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match=r"test data: image 41 holds NaN"):
        compared(test=broken)
    whole.images = Unreadable()
    with pytest.raises(DataError, match=r"test data: cannot be read \(.*41.png.*Remedy: repair or remove the file"):
        compared(test=broken)
    whole.images = part("test")[0]
    whole.labels = torch.where(torch.arange(60) == 50, 17, whole.labels)
    with pytest.raises(DataError, match=r"test data.*17"):
        compared(test=broken)
