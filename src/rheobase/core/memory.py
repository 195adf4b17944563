"""Runs over images in pieces that fit into memory, on one device or several."""

from __future__ import annotations

import copy
import dataclasses
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.core.devices import spread
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
    run: Callable[[Any, Tensor, Report | None], Tensor],
    owner: nn.Module,
    images: Tensor,
    size: int,
    report: Report | None = None,
    *,
    dim: int = 0,
) -> Tensor:
    """Results of ``run`` over pieces of ``images`` [B, ...], joined along ``dim``.

    A piece for which memory runs out is halved and tried again, with a warning; so are the pieces after it. What a
    piece had reported before is not reported again. Within :func:`rheobase.core.devices.spread_over`, several devices
    run pieces at the same time, each with a copy of ``owner``; reports and results come in the order of the images.

    Args:
        run: (owner, images [b, ...], report) -> results of these images.
        owner: the module that runs.
        images: [B, ...], on the owner's device.
        size: number of images in a piece.
        report: passed on to ``run``, which calls it once for each site.
        dim: axis of the images in the results.

    Raises:
        ResourceError: if memory runs out for a single image.

    Example:
        >>> in_pieces(lambda net, x, report: net(x).sum(1), nn.Identity(), torch.ones(5, 2), 2).tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    devices = spread()
    if len(devices) > 1 and len(images) > 1:
        size = min(size, -(-len(images) // len(devices)))
        parts = _on_devices(run, owner, images.split(size), devices, report, dim)
    else:
        parts = _halving(run, owner, images.split(size), report)
    found = list(parts)
    return found[0] if len(found) == 1 else torch.cat(found, dim)


def _halving(
    run: Callable[[Any, Tensor, Report | None], Tensor],
    owner: nn.Module,
    pieces: Sequence[Tensor],
    report: Report | None,
) -> Iterator[Tensor]:
    """Results of pieces in order; of their halves, once memory has run out."""
    waiting: list[tuple[Tensor, frozenset[Any]]] = [(piece, frozenset()) for piece in reversed(pieces)]
    size = max(len(piece) for piece in pieces)
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
            yield run(owner, piece, None if report is None else once)
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(piece) == 1:
                raise ResourceError(
                    "runs out of memory for a single image",
                    where=str(piece.device),
                    remedy="use fewer time-steps, a smaller image or a device with more memory",
                ) from error
        # outside of the except clause, whose error keeps the tensors of the run alive
        size = -(-len(piece) // 2)
        gc.collect()
        if piece.device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"{piece.device}: out of memory for {len(piece)} images at once; going on with {size}"
        warnings.warn(text, RheobaseWarning, stacklevel=3)
        waiting.append((piece, frozenset(reported)))


def _on_devices(
    run: Callable[[Any, Tensor, Report | None], Tensor],
    owner: nn.Module,
    pieces: Sequence[Tensor],
    devices: Sequence[torch.device],
    report: Report | None,
    dim: int,
) -> Iterator[Tensor]:
    """Results of pieces in order, one thread for each device; what a piece reports is kept until it is done."""
    home = pieces[0].device
    copies = [copy.deepcopy(owner).to(device) for device in devices]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work(place: int, piece: Tensor) -> tuple[Tensor, list[tuple[Any, Any]]]:
        told: list[tuple[Any, Any]] = []
        tell = None if report is None else lambda site, value: told.append((site, _moved(value, home)))
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):  # both are of a thread
            parts = list(_halving(run, copies[place], [piece.to(devices[place])], tell))
            return torch.cat(parts, dim).to(home), told

    with ThreadPoolExecutor(len(devices)) as pool:
        for start in range(0, len(pieces), len(devices)):
            some = pieces[start : start + len(devices)]
            for done in [pool.submit(work, place, piece) for place, piece in enumerate(some)]:
                result, told = done.result()
                for site, value in told:
                    assert report is not None
                    report(site, value)
                yield result


def _moved(value: Any, device: torch.device) -> Any:
    """A copy of a tensor, or of a value with tensors, on a device: a run may write over what it has reported."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    moved = {name: _moved(one, device) for name, one in fields.items() if isinstance(one, Tensor)}
    return dataclasses.replace(value, **moved)
