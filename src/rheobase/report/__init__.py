"""The report of a comparison: cells on disk, tables, plots and a page."""
