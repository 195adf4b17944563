"""The report of a comparison: one page that needs nothing else, on a telephone or a wide screen, by day or by night."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rheobase.comparison.cells import Cell
from rheobase.comparison.comparison import Comparison, Entry, spans
from rheobase.comparison.plots import DARK, GRID, INK, LIGHT
from rheobase.comparison.tables import COLUMNS, Column, caption, cells_of, columns
from rheobase.core.values import Value
from rheobase.methods import METHODS, Recipe

TEMPLATE = "template.html"
SCRIPT_ID = "results"
"""Of the block of JSON with the numbers."""


def page(comparison: Comparison) -> str:
    """The whole page as text."""
    environment = Environment(
        loader=PackageLoader("rheobase", "comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    shown = columns(comparison)
    best = _best(comparison, shown)
    return environment.get_template(TEMPLATE).render(
        comparison=comparison,
        about=comparison.about,
        caption=caption(comparison),
        light={"ink": INK[0], "grid": GRID[0], **_series(LIGHT)},
        dark={"ink": INK[1], "grid": GRID[1], **_series(DARK)},
        plots={name: (plot, Markup(plot.inline)) for name, plot in comparison.plots.items()},
        overview=_overview(comparison),
        headings=[column.heading for column in shown],
        groups=[
            (method, [_row(comparison, entry, shown, best) for entry in comparison.entries if entry.method == method])
            for method in comparison.recipes
        ],
        methods=[_described(name, recipe, comparison) for name, recipe in comparison.recipes.items()],
        missing=[
            (method, spans(cells, comparison.timesteps, comparison.seeds), reason, cells[0].status)
            for (method, reason), cells in comparison.missing.items()
        ],
        notes=_notes(comparison),
        provenance=_provenance(comparison),
        cells_done=sum(cell.status == "done" for cell in comparison.cells),
        script_id=SCRIPT_ID,
        document=Markup(_json(comparison.to_json())),
    )


def _json(document: dict[str, Any]) -> str:
    """JSON that can stand in a script element whatever names it holds."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _series(colours: tuple[str, ...]) -> dict[str, str]:
    return {f"series-{i}": colour for i, colour in enumerate(colours)}


# -- tables ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Overview:
    """Accuracy (without labels: agreement) of every method at every T."""

    heading: str
    timesteps: tuple[int, ...]
    rows: list[tuple[str, list[tuple[str, bool]]]]
    """(method, (text, whether it is the best of its T))"""


def _overview(comparison: Comparison) -> _Overview:
    labelled = comparison.about.ann_accuracy["test"] is not None
    column = next(c for c in COLUMNS if c.name == ("accuracy" if labelled else "agreement"))
    found = {(entry.method, entry.timesteps): entry.over_seeds(column.value) for entry in comparison.entries}
    highest = {
        t: max((s.mean for (_, at), s in found.items() if at == t and s is not None), default=None)
        for t in comparison.timesteps
    }
    rows = []
    for method in comparison.recipes:
        texts = []
        for t in comparison.timesteps:
            spread = found.get((method, t))
            texts.append((column.text(spread), spread is not None and spread.mean == highest[t]))
        rows.append((method, texts))
    return _Overview(column.heading, comparison.timesteps, rows)


def _best(comparison: Comparison, shown: tuple[Column, ...]) -> dict[tuple[int, str], float]:
    """(T, column) -> the best mean of all methods, where one is better than another."""
    best: dict[tuple[int, str], float] = {}
    for column in shown:
        if column.best == 0:
            continue
        for t in comparison.timesteps:
            spreads = [entry.over_seeds(column.value) for entry in comparison.entries if entry.timesteps == t]
            means = [spread.mean for spread in spreads if spread is not None]
            if len(set(means)) > 1:
                best[t, column.name] = max(means) if column.best > 0 else min(means)
    return best


def _row(
    comparison: Comparison, entry: Entry, shown: tuple[Column, ...], best: dict[tuple[int, str], float]
) -> dict[str, Any]:
    method, timesteps, *texts = cells_of(comparison, entry)
    means = [spread and spread.mean for spread in (entry.over_seeds(column.value) for column in shown)]
    marked = [
        mean is not None and mean == best.get((entry.timesteps, c.name)) for c, mean in zip(shown, means, strict=True)
    ]
    chosen = comparison.choice is not None and (entry.method, entry.timesteps) == (
        comparison.choice.method,
        comparison.choice.timesteps,
    )
    return {
        "method": method,
        "timesteps": timesteps,
        "numbers": list(zip(texts, marked, strict=True)),
        "done": bool(entry.done),
        "chosen": chosen,
    }


# -- words -----------------------------------------------------------------------------------------------------


def _described(name: str, recipe: Recipe, comparison: Comparison) -> dict[str, Any]:
    """What a method is: its own words, and those of its parts."""
    method = METHODS.get(recipe.name.split(" (")[0])
    trained = [cell.execution for cell in comparison.cells if cell.method == name and cell.execution]
    ways = {
        "counts": "evaluated in closed form, on spike counts, which gives the answer of the simulation",
        "steps": "evaluated by simulating every step",
    }
    activation = recipe.activation
    return {
        "name": name,
        "summary": _first_sentence(method) if method is not None else "A recipe of its own.",
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
    """The first paragraph of a docstring, as plain text; without a formula at its end."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    words, formula, _ = text.partition(":math:")
    text = words.rstrip(" :") + "." if formula else text
    return re.sub(r":\w+:(?=`)", "", text).replace("`", "")


def _notes(comparison: Comparison) -> list[tuple[str, str]]:
    """(what was said, of which methods and cells), each saying once."""
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
            "; ".join(
                f"{method}, {spans(cells, comparison.timesteps, comparison.seeds)}" for method, cells in methods.items()
            ),
        )
        for note, methods in grouped.items()
    ]


def _provenance(comparison: Comparison) -> list[tuple[str, str]]:
    about, identity = comparison.about, comparison.about.identity
    images = about.images
    validation = (
        f"{images['validation']} images, SHA-256 {identity.validation_sha256}"
        if "validation" in images
        else "none: no method was chosen"
    )
    finished = sorted(cell.finished for cell in comparison.cells)
    return [
        ("network", f"{about.network}: {about.sites} activation sites, {about.neurons} neurons"),
        ("network, SHA-256", identity.model_sha256),
        (
            "calibration images",
            f"{images['calibration']} images, of which each seed takes "
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
