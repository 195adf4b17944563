"""The report of a comparison: one self-contained HTML page, responsive, with a light and a dark theme."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rheobase.comparison.cells import Cell
from rheobase.comparison.grid import Comparison, Entry
from rheobase.comparison.plots import DARK, GRID, INK, LIGHT, Plot, draw
from rheobase.comparison.quantities import QUANTITIES, Quantity
from rheobase.core.values import Value
from rheobase.methods import METHODS, Recipe

TEMPLATE = "template.html"
SCRIPT_ID = "results"
"""Id of the JSON block with the results."""


def html_page(comparison: Comparison, plots: Mapping[str, Plot] | None = None) -> str:
    """Return the whole page; draws the plots unless given."""
    plots = draw(comparison) if plots is None else plots
    environment = Environment(
        loader=PackageLoader("rheobase", "comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    labelled = comparison.about.ann_accuracy["test"] is not None
    return environment.get_template(TEMPLATE).render(
        comparison=comparison,
        about=comparison.about,
        light={"ink": INK[0], "grid": GRID[0], **_series(LIGHT)},
        dark={"ink": INK[1], "grid": GRID[1], **_series(DARK)},
        plots={name: (plot, Markup(plot.inline)) for name, plot in plots.items()},
        overview=next(q for q in QUANTITIES if q.name == ("accuracy" if labelled else "agreement")),
        groups={m: {e.timesteps: e for e in comparison.entries if e.method == m} for m in comparison.recipes},
        leads=partial(_leads, comparison),
        methods=[_described(name, recipe, comparison) for name, recipe in comparison.recipes.items()],
        missing=[
            (method, comparison.spans(cells), reason, cells[0].status)
            for (method, reason), cells in comparison.missing.items()
        ],
        notes=_notes(comparison),
        provenance=_provenance(comparison),
        cells_done=sum(cell.status == "done" for cell in comparison.cells),
        script_id=SCRIPT_ID,
        document=comparison.to_json(),
    )


def _series(colours: tuple[str, ...]) -> dict[str, str]:
    return {f"series-{i}": colour for i, colour in enumerate(colours)}


def _leads(comparison: Comparison, entry: Entry, quantity: Quantity, *, alone: bool = True) -> bool:
    """True if an entry has the best mean of all methods at its T; ``alone``: only if another one is worse."""
    spreads = [e.over_seeds(quantity.value) for e in comparison.entries if e.timesteps == entry.timesteps]
    means = {spread.mean for spread in spreads if spread is not None}
    own = entry.over_seeds(quantity.value)
    if own is None or not quantity.best or (alone and len(means) == 1):
        return False
    return own.mean == (max(means) if quantity.best > 0 else min(means))


# -- words -----------------------------------------------------------------------------------------------------


def _described(name: str, recipe: Recipe, comparison: Comparison) -> dict[str, Any]:
    """Summaries of a method and its components, from their docstrings."""
    method = METHODS.get(recipe.name.split(" (")[0])
    trained = [cell.execution for cell in comparison.cells if cell.method == name and cell.execution]
    ways = {
        "counts": "evaluated in closed form, which gives the result of the simulation",
        "steps": "evaluated by simulating every step",
    }
    activation = recipe.activation
    return {
        "name": name,
        "summary": _first_sentence(method) if method is not None else "A custom recipe.",
        "parts": [
            *([("activation", activation.kind, _first_sentence(type(activation)))] if activation else []),
            ("neuron", recipe.neuron.kind, _first_sentence(type(recipe.neuron))),
            *(("pass", part.kind, _first_sentence(type(part))) for part in recipe.calibration),
        ],
        "execution": ways[trained[0]] if trained else "",
        "trained": activation is not None,
        "yaml": recipe.to_yaml(),
    }


def _first_sentence(thing: type[Value] | Any) -> str:
    """The first paragraph of a docstring as plain text, without a final formula."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    words, formula, _ = text.partition(":math:")
    text = words.rstrip(" :") + "." if formula else text
    return re.sub(r":\w+:(?=`)", "", text).replace("`", "")


def _notes(comparison: Comparison) -> list[tuple[str, str]]:
    """(note, methods and cells that have it), each note once."""
    grouped: dict[str, dict[str, list[Cell]]] = {}
    for cell in comparison.cells:
        uncounted = (
            [] if cell.test is None else [f"not counted in the energy: {what}" for what in cell.test.not_counted]
        )
        for note in (*cell.notes, *uncounted):
            grouped.setdefault(note, {}).setdefault(cell.method, []).append(cell)
    return [
        (
            note,
            "; ".join(f"{method}, {comparison.spans(cells)}" for method, cells in methods.items()),
        )
        for note, methods in grouped.items()
    ]


def _provenance(comparison: Comparison) -> list[tuple[str, str]]:
    about, identity = comparison.about, comparison.about.identity
    images = about.images
    validation = (
        f"{images['validation']} images, SHA-256 {identity.validation_sha256}"
        if "validation" in images
        else "none, so that no method was chosen"
    )
    finished = sorted(cell.finished for cell in comparison.cells)
    return [
        ("network", f"{about.network}: {about.sites} activation sites, {about.neurons} neurons"),
        ("network, SHA-256", identity.model_sha256),
        (
            "calibration images",
            f"{images['calibration']} images, of which each seed draws "
            f"{min(identity.num_calibration_images, images['calibration'])} "
            f"for a conversion; SHA-256 {identity.calibration_sha256}",
        ),
        ("test images", f"{images['test']} images, SHA-256 {identity.test_sha256}"),
        ("validation images", validation),
        ("energy", f"spikes counted on {min(identity.energy_images, images['test'])} of the test images"),
        ("seeds", ", ".join(map(str, comparison.seeds))),
        ("max-pooling", identity.max_pool),
        ("training", "none" if about.training is None else json.dumps(about.training, ensure_ascii=False)),
        ("versions", ", ".join(f"{name} {number}" for name, number in identity.versions.items())),
        (
            "machine of this report",
            f"{about.machine['processor']}, {about.machine['cpus']} processors, PyTorch on {about.machine['threads']}",
        ),
        ("measured", finished[0] if finished[0] == finished[-1] else f"{finished[0]} to {finished[-1]}"),
    ]
