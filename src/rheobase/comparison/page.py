"""The report of a comparison: tables, plots and one self-contained HTML page, as files in its folder."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from rheobase.comparison.answer import answer
from rheobase.comparison.cells import Cell, Identity
from rheobase.comparison.folder import PLOT_FILES, REPORT_FILE, TABLE_FILES
from rheobase.comparison.grid import Comparison, Entry, Quantity, group, quantities
from rheobase.comparison.plots import DARK, GRID, INK, LIGHT, REST, Plot, coloured, draw
from rheobase.core.folders import user_path, write_whole
from rheobase.measure._energy import COUNTED
from rheobase.methods import METHODS, Recipe
from rheobase.training import Training

SCRIPT_ID = "results"
"""Id of the JSON block with the results."""


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write the report into an existing folder.

    Raises:
        StoreError: if a file cannot be written.
    """
    folder, plots = user_path(folder), draw(comparison)
    tables = {"markdown": comparison.to_markdown(), "csv": comparison.to_csv(), "latex": comparison.to_latex()}
    files = {TABLE_FILES[kind]: text for kind, text in tables.items()}
    files |= {PLOT_FILES[kind]: plot.file for kind, plot in plots.items()}
    for name, text in {**files, REPORT_FILE: html_page(comparison, plots)}.items():
        write_whole(folder / name, text)
    for plot in set(PLOT_FILES.values()) - set(files):  # from an earlier call
        (folder / plot).unlink(missing_ok=True)


def html_page(comparison: Comparison, plots: Mapping[str, Plot] | None = None) -> str:
    """Return the whole page, responsive, with a light and a dark theme; draws the plots unless given."""
    environment = Environment(
        loader=PackageLoader("rheobase", "comparison"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    themes = [
        {"ink": INK[i], "grid": GRID[i], "rest": REST[i], **{f"series-{n}": colour for n, colour in enumerate(series)}}
        for i, series in enumerate((LIGHT, DARK))
    ]
    return environment.get_template("template.html").render(
        comparison=comparison,
        answer=answer(comparison),
        call=comparison.about.command or _call(comparison),
        few=len(coloured(comparison)) == len(comparison.recipes),
        about=comparison.about,
        light=themes[0],
        dark=themes[1],
        plots=draw(comparison) if plots is None else plots,
        overview=next(q for q in quantities(comparison.about.task) if q.name == comparison.about.judged_by.name),
        groups={m: {e.timesteps: e for e in comparison.entries if e.method == m} for m in comparison.recipes},
        leads=partial(_leads, comparison),
        summary=_summary,
        counted=COUNTED[comparison.about.identity.graded_spikes],
        notes=_notes(comparison),
        finished=sorted(cell.finished for cell in comparison.cells),
        script_id=SCRIPT_ID,
        document=comparison.to_json(),
    )


def _leads(comparison: Comparison, entry: Entry, quantity: Quantity, *, alone: bool = True) -> bool:
    """True if an entry has the best mean of all methods at its T; ``alone``: only if another one is worse."""
    spreads = [quantity.of(other) for other in comparison.entries if other.timesteps == entry.timesteps]
    means = {spread.mean for spread in spreads if spread is not None}
    own = quantity.of(entry)
    if own is None or not quantity.best or (alone and len(means) == 1):
        return False
    return own.mean == (max(means) if quantity.best > 0 else min(means))


def _call(comparison: Comparison) -> str:
    """The call that makes the comparison, with every argument on which results depend and that is no default."""
    about, identity = comparison.about, comparison.about.identity
    options: dict[str, object] = {"timesteps": comparison.timesteps, "seeds": comparison.seeds}
    options |= {name: getattr(identity, name) for name in ("num_calibration_images", "energy_images")}
    for name in ("max_pool", "nonlinear", "sites", "graded_spikes", "task", "early_exit"):
        default = "refuse" if name == "max_pool" else Identity.model_fields[name].default
        if getattr(identity, name) != default:
            options[name] = getattr(identity, name)
    if comparison.choice is not None:
        options["budget"] = comparison.choice.budget
    lines = [f"{name}={value!r}," for name, value in options.items()]
    if "validation" in about.images:
        lines.append("validation=validation,")
    if about.training is not None:
        settings = Training(**about.training).model_dump(mode="json", exclude_defaults=True)
        changed = [f"{name}={value!r}" for name, value in settings.items()]
        lines.append(f"training=rb.Training({', '.join(changed)}),")
    recipes = {name: _written(name, recipe) for name, recipe in comparison.recipes.items()}
    entries = [f"    {name!r}: {written}," for name, written in recipes.items()]
    lines = ["network,", "{", *entries, "},", "calibration,", "test,", *lines]
    call = ["import rheobase as rb", "", "rb.compare(", *(f"    {line}" for line in lines), ")"]
    if any("document" in written for written in recipes.values()):
        search = f"""re.search(r'id="{SCRIPT_ID}">(.*?)</script>', open("{REPORT_FILE}").read(), re.DOTALL)"""
        call = ["import json, re", *call[:2], f"document = json.loads({search}[1])", *call[2:]]
    return "\n".join(call)


def _written(name: str, recipe: Recipe) -> str:
    """A recipe as an expression: a method with its defaults, or else from the JSON of the page."""
    method = METHODS.get(recipe.name)
    is_default = method is not None and method() == recipe
    return f"rb.{recipe.name}()" if is_default else f'rb.Recipe.from_dict(document["recipes"][{name!r}])'


def _summary(described: object) -> str:
    """The first paragraph of the docstring of a method or component as plain text, without a final formula."""
    if isinstance(described, Recipe):
        described = METHODS.get(described.name.split(" (")[0])
        if described is None:
            return "A custom recipe."
    text = (inspect.getdoc(described) or "").split("\n\n")[0].replace("\n", " ")
    words, formula, _ = text.partition(":math:")
    text = words.rstrip(" :") + "." if formula else text
    return re.sub(r":\w+:(?=`)", "", text).replace("`", "")


def _notes(comparison: Comparison) -> dict[str, str]:
    """Note -> the methods and cells that have it."""
    grouped: dict[str, list[Cell]] = {}
    for cell in comparison.cells:
        uncounted = cell.test.not_counted if cell.test else ()
        for note in (*cell.notes, *(f"not counted in the energy: {cost}" for cost in uncounted)):
            grouped.setdefault(note, []).append(cell)
    methods = {note: group(cells, lambda cell: cell.method) for note, cells in grouped.items()}
    return {
        note: "; ".join(f"{method}, {comparison.spans(cells)}" for method, cells in having.items())
        for note, having in methods.items()
    }
