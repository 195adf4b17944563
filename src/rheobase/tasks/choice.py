"""The task of a network: as named, or inferred from its outputs and the labels where these leave no doubt."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

from torch import Tensor

from rheobase.core.checks import check_choice
from rheobase.core.errors import DataError
from rheobase.tasks.decisions import Binary, Classification, MultiLabel, Segmentation
from rheobase.tasks.regression import Regression
from rheobase.tasks.task import IGNORED, Task, same_shapes

TaskName = Literal["classification", "binary", "multilabel", "regression", "segmentation"]
"""Names of the tasks, for ``task=``."""
TASKS: dict[str, Task] = {
    task.name: task for task in (Classification(), Binary(), MultiLabel(), Regression(), Segmentation())
}
"""The tasks by name."""


def named(task: str, outputs: Sequence[int]) -> Task:
    """The task of this name.

    Raises:
        DataError: if there is none, or the outputs of a network [B, ...] do not fit it.
    """
    check_choice(task, get_args(TaskName), "task", error=DataError)
    found = TASKS[task]
    if not found.fits(outputs):
        fitting = " or ".join(f'"{other.name}"' for other in TASKS.values() if other.fits(outputs))
        reason = f'is "{task}", but the output of the network has shape {list(outputs)} for each image'
        raise DataError(reason, where="task", remedy=f"use {fitting}")
    return found


def default(outputs: Sequence[int]) -> Task:
    """The task without labels: several numbers are logits of classes, for an image or for each place of a map.

    One number or one channel may be a logit or a quantity. It is taken for a quantity, because the error of a quantity
    also measures a logit.

    Example:
        >>> [default(outputs).name for outputs in ((10,), (1,), (21, 64, 64), (1, 64, 64))]
        ['classification', 'regression', 'segmentation', 'regression']
    """
    if prod(outputs[:1]) == 1:
        return TASKS["regression"]
    return TASKS["classification" if len(outputs) == 1 else "segmentation"]


def assumption(outputs: Sequence[int]) -> str:
    """A note on the default task, where the analog network may have another one; empty for several outputs."""
    if len(outputs) == 1 and prod(outputs) > 1:
        return ""
    others = " or ".join(f'"{task.name}"' for task in TASKS.values() if task.fits(outputs) and task != default(outputs))
    return f"Task: {default(outputs).name}, assumed without labels; for another one pass task={others}."


def inferred(outputs: Sequence[int], labels: Tensor) -> Task | None:
    """The task for which labels [N, ...] and outputs of these shapes leave no doubt; None if there is a doubt.

    Floating-point zeros and ones of the shape of the outputs may be labels or quantities, rows of numbers from 0 to 1
    whose sum is 1 are one class or several labels, and whole numbers for one channel quantities or masks of 0 and 255.

    Example:
        >>> import torch
        >>> inferred((10,), torch.arange(4)).name, inferred((1,), torch.tensor([0, 1, 1])).name
        ('classification', 'binary')
        >>> inferred((1,), torch.tensor([0.5, 2.0])).name, inferred((1,), torch.tensor([0.0, 1.0]))
        ('regression', None)
    """
    of_image = labels.shape[1:]
    single, whole = prod(outputs[:1]) == 1, not labels.is_floating_point()
    same = tuple(of_image) in same_shapes(outputs)
    places = len(outputs) > 1 and of_image in (tuple(outputs[1:]), (1, *outputs[1:]))
    flags = bool(((labels == 0) | (labels == 1) | (places & (labels == IGNORED))).all())
    if same and not flags:
        if places and whole:
            return None
        return None if len(outputs) == 1 and not single and _are_chances(labels) else TASKS["regression"]
    if not whole:
        return None
    if places and (not single or flags):
        return TASKS["segmentation"]
    if same and len(outputs) < 2:
        if single:
            return TASKS["binary"]
        return None if _are_chances(labels) else TASKS["multilabel"]
    return TASKS["classification"] if labels.dim() == 1 and len(outputs) == 1 and not single else None


def task_for(
    task: str | None, outputs: Sequence[int], labels: Tensor | None, where: str, *, known: str | None = None
) -> Task:
    """The task as given, as ``known`` from the network, or as inferred; without labels the default.

    Raises:
        DataError: if a given task does not fit the outputs, or no task is certain.
    """
    chosen = known if task is None else task
    if chosen is not None:
        return named(chosen, outputs)
    if labels is None:
        return default(outputs)
    found = inferred(outputs, labels)
    if found is None:
        raise uncertain(outputs, labels, where)
    return found


def uncertain(outputs: Sequence[int], labels: Tensor, where: str) -> DataError:
    """The error for labels that leave a doubt, or fit no task of a network with these outputs."""
    fitting = [task for task in TASKS.values() if task.fits(outputs)]
    possible = []
    for task in fitting:
        with contextlib.suppress(DataError):
            task.check(outputs, labels, where)
            possible.append(f'task="{task.name}"')
    needs = (f"{task.needs} ({task.name})" for task in fitting)
    return DataError(
        f"have shape {list(labels.shape)} and dtype {labels.dtype}, which "
        f"{'leave the task open' if possible else 'fit no task'} of a network with outputs {list(outputs)}",
        where=f"labels of the {where}",
        remedy=f"pass {' or '.join(possible)}" if possible else f"leave them out, or give {'; or '.join(needs)}",
    )


def _are_chances(labels: Tensor) -> bool:
    """True for rows of numbers from 0 to 1 whose sum is 1: one-hot, or probabilities of classes."""
    values = labels.double()
    return bool(((values >= 0) & (values <= 1)).all() and ((values.sum(1) - 1).abs() < 1e-4).all())
