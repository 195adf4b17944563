"""The report of a comparison: tables, plots and a page, as files in its folder."""

from __future__ import annotations

from pathlib import Path

from rheobase.comparison.folder import PLOT_FILES, REPORT_FILE, TABLE_FILES
from rheobase.comparison.grid import Comparison
from rheobase.comparison.page import html_page
from rheobase.comparison.plots import draw
from rheobase.core.folders import write_whole


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write the report into an existing folder.

    Raises:
        StoreError: if a file cannot be written.
    """
    plots = draw(comparison)
    tables = {"markdown": comparison.to_markdown(), "csv": comparison.to_csv(), "latex": comparison.to_latex()}
    files = {TABLE_FILES[kind]: text for kind, text in tables.items()}
    files |= {PLOT_FILES[kind]: plot.file for kind, plot in plots.items()}
    for name, text in {**files, REPORT_FILE: html_page(comparison, plots)}.items():
        write_whole(folder / name, text)
    for plot in set(PLOT_FILES.values()) - set(files):  # from an earlier call
        (folder / plot).unlink(missing_ok=True)
