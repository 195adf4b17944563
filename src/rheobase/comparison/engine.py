"""Runs independent jobs on joblib: in this process, in several, or on the machines of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pickle import PicklingError
from typing import Any, Generic, TypeVar

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config

from rheobase.core.errors import RecipeError, first_line

CONNECTING = 20
"""Seconds to wait for a scheduler, and for its first worker."""
Shared = TypeVar("Shared")
Job = TypeVar("Job")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Lost:
    """The reason why a job has no result: its worker ended twice, or could not load it."""

    reason: str


class Running(dict[int, Any]):
    """The jobs that were started and have no result, by number; formatted as their texts in a row."""

    def __format__(self, spec: str) -> str:
        return ", ".join(map(str, self.values()))


def in_this_process(workers: int | None) -> bool:
    """True if that many workers are this process, and joblib has no other backend."""
    return bool(Parallel(n_jobs=workers).n_jobs == 1)


@dataclass(frozen=True)
class Engine(Generic[Shared, Job, Value]):
    """Calls ``function(shared, job)`` for every job.

    With one worker and no other backend of joblib, in this process and in order. Otherwise by
    :class:`joblib.Parallel`: in processes of this machine, which share its processors, or on the backend of the
    surrounding ``joblib.parallel_config``, such as Dask or Ray.

    A worker may end at any moment, for lack of memory for example. What was running is then run again, one job at a
    time; a job whose worker ends again is :class:`Lost`, and costs no other job.

    Args:
        function: picklable; it raises no error, but returns it.
        shared: an argument of all jobs.
        workers: number of processes; None: that of ``joblib.parallel_config``, by default 1.
        running: what the workers are at, for a progress bar.
    """

    function: Callable[[Shared, Job], Value]
    shared: Shared
    workers: int | None
    running: Running = field(default_factory=Running)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Value | Lost]]:
        """Yield every job with its result, in the order of completion.

        Raises:
            RecipeError: if the jobs cannot be sent to other processes.
        """
        waiting = dict(enumerate(jobs))
        if in_this_process(self.workers):
            for number, job in waiting.items():
                self.running[number] = job
                value = self.function(self.shared, job)
                self.running.clear()
                yield job, value
            return
        while waiting:
            self.running.clear()
            try:
                for number, found in self._parallel(waiting):
                    yield waiting.pop(number), found
            except (PicklingError, AttributeError) as cause:
                raise RecipeError(
                    f"cannot be sent to other processes ({first_line(cause.__cause__ or cause)})",
                    where="comparison",
                    remedy="define the classes and functions of network and data in a module, or use one worker",
                ) from cause
            except Exception:  # a worker has ended; which job it was at is not known
                if not self.running:
                    raise
                for number in [*self.running]:
                    yield waiting[number], self._alone(number, waiting[number])
                    del waiting[number]

    def _alone(self, number: int, job: Job) -> Value | Lost:
        self.running.clear()
        try:
            ((_, value),) = self._parallel({number: job})
            return value
        except Exception as error:
            why = f"its worker ended twice, or could not load it ({type(error).__name__}: {first_line(error)})"
            return Lost(f"{why}. Remedy: use fewer workers, if memory was short, or look into the worker's log")

    def _parallel(self, jobs: Mapping[int, Job]) -> Iterator[tuple[int, Value]]:
        # memory maps are copied on write, because PyTorch warns of read-only ones
        options = {"return_as": "generator_unordered", "pre_dispatch": "n_jobs", "batch_size": 1, "mmap_mode": "c"}
        parallel = Parallel(n_jobs=self.workers, **options)
        of_this_machine = type(parallel._backend).__name__ == "LokyBackend"
        threads = max(1, cpu_count() // parallel.n_jobs) if of_this_machine else None

        def started() -> Iterator[Any]:
            for number, job in [*jobs.items()]:
                self.running[number] = job
                yield delayed(_call)(self.function, self.shared, number, job, threads)

        for number, value in parallel(started()):
            del self.running[number]
            yield number, value


def _call(
    function: Callable[[Any, Any], Any], shared: Any, number: int, job: Any, threads: int | None
) -> tuple[int, Any]:
    """In a worker: run one job, with its share of the processors."""
    if threads is not None:
        torch.set_num_threads(threads)
    return number, function(shared, job)


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Within it, joblib runs on the workers of the Dask scheduler at ``address``; None: as before.

    Raises:
        RecipeError: if Dask is not installed, or there is no scheduler or no worker.
    """
    if address is None:
        yield
        return
    where = f"Dask scheduler {address}"
    try:
        from distributed import Client
    except ImportError as error:
        raise RecipeError("needs Dask", where=where, remedy='pip install "rheobase[cluster]"') from error
    try:
        client = Client(address, timeout=CONNECTING)
    except (OSError, ValueError) as error:
        reason = f"cannot be reached ({first_line(error)})"
        raise RecipeError(
            reason, where=where, remedy="start it with `dask scheduler`, or correct the address"
        ) from error
    try:
        try:
            client.wait_for_workers(1, timeout=CONNECTING)
        except TimeoutError:
            remedy = f"start some with `dask worker {address}`"
            raise RecipeError("has no workers", where=where, remedy=remedy) from None
        with parallel_config(backend="dask"):
            yield
    finally:
        client.close()
