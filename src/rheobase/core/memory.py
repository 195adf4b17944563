"""Runs over images in pieces that fit into memory."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rheobase.core.errors import ResourceError, RheobaseWarning

Report = Callable[[Any, Any], None]
"""(site, value): what a run tells of a site for its images."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU.

    PyTorch has a class for the former only.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error) and "memory" in str(error)
    )


def in_pieces(
    run: Callable[[Tensor, Report | None], Tensor],
    images: Tensor,
    size: int,
    report: Report | None = None,
    *,
    dim: int = 0,
) -> Tensor:
    """Results of ``run`` over pieces of ``images`` [B, ...], joined along ``dim``.

    A piece for which memory runs out is halved and tried again, with a warning; so are the pieces after it. What a
    piece had reported before is not reported again.

    Args:
        run: (images [b, ...], report) -> results of these images.
        images: [B, ...].
        size: number of images in a piece.
        report: passed on to ``run``, which calls it once for each site.
        dim: axis of the images in the results.

    Raises:
        ResourceError: if memory runs out for a single image.

    Example:
        >>> in_pieces(lambda x, report: x.sum(1), torch.ones(5, 2), 2).tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    waiting: list[tuple[Tensor, frozenset[Any]]] = [(piece, frozenset()) for piece in reversed(images.split(size))]
    found = []
    while waiting:
        piece, before = waiting.pop()
        if len(piece) > size:
            waiting += [(half, before) for half in reversed(piece.split(size))]
            continue
        reported: set[Any] = set(before)

        def once(site: Any, value: Any, reported: set[Any] = reported) -> None:
            if site not in reported:
                assert report is not None
                report(site, value)
                reported.add(site)

        try:
            found.append(run(piece, None if report is None else once))
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(piece) == 1:
                raise ResourceError(
                    "runs out of memory for a single image",
                    where=str(images.device),
                    remedy="use fewer time-steps, a smaller image or a device with more memory",
                ) from error
        # outside of the except clause, whose error keeps the tensors of the run alive
        size = -(-len(piece) // 2)
        gc.collect()
        if images.device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"{images.device}: out of memory for {len(piece)} images at once; going on with {size}"
        warnings.warn(text, RheobaseWarning, stacklevel=2)
        waiting.append((piece, frozenset(reported)))
    return found[0] if len(found) == 1 else torch.cat(found, dim)
