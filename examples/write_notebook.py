"""Write tour.ipynb from tour.py, whose cells start with ``# %%``; needs nbformat (extra ``dev``).

    python examples/write_notebook.py

The notebook has no outputs, so that it changes only with the script.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def cells(script: str) -> list[tuple[str, str]]:
    """The cells of a script as (``"markdown"`` or ``"code"``, source)."""
    found = []
    for kind, source in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", script, re.MULTILINE | re.DOTALL):
        if kind:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        found.append(("markdown" if kind else "code", source.strip()))
    return found


def main() -> None:
    """Write the notebook next to the script."""
    import nbformat
    from nbformat import v4

    kinds = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    made = [
        kinds[kind](source, id=f"cell-{i}") for i, (kind, source) in enumerate(cells((HERE / "tour.py").read_text()))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=made, metadata=kernel), HERE / "tour.ipynb")


if __name__ == "__main__":
    main()
