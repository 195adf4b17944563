"""Progress bars with the remaining time, on standard error, so that standard output has results only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def track(
    items: Iterable[T], description: str, *, show: bool, total: int | None = None, running: object = ""
) -> Iterator[T]:
    """Iterate over ``items``, with a progress bar if ``show``; give ``total`` if the items have no length.

    ``running`` is formatted anew whenever the bar is drawn: what is being done, such as by several processes.
    """
    kinds = (BarColumn, MofNCompleteColumn, TimeElapsedColumn, TimeRemainingColumn)
    columns = [TextColumn("{task.description}"), *(kind() for kind in kinds), TextColumn("{task.fields[running]}")]
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not show) as bar:
        task = bar.add_task(description, total=total, running=running)
        yield from bar.track(items, total=total, task_id=task)
