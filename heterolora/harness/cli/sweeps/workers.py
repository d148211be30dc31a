"""Calls in several processes, which finish in order when a signal arrives."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import active_children, resource_tracker
from typing import Generic, TypeVar

from joblib import Parallel, delayed
from joblib.externals.loky.backend import resource_tracker as loky_tracker

from heterolora.harness.runs.signals import signals

BLOCKED = (signal.SIGINT, signal.SIGTERM)
"""Signals that a worker blocks unless it is inside a call.

A worker that starts or waits for a call would die of them, and joblib then kills all others.
"""

T = TypeVar("T")


@dataclass(frozen=True)
class Ended(Generic[T]):
    """How a call ended: with a result or with an error."""

    result: T | None = None
    error: BaseException | None = None


def in_workers(calls: Iterable[Callable[[], T]], n_jobs: int) -> list[T]:
    """Make calls in `n_jobs` processes and return their results.

    After a signal, calls under way save their runs and end, and no other call begins.

    Raises:
        BaseException: the first error of a call, after all calls have ended.
    """
    with signals.deferred(on_signal=_end_workers):
        pending = (call for call in calls if not signals.waiting and not _signal_is_pending())
        parallel = Parallel(n_jobs, return_as="generator", batch_size=1, pre_dispatch="n_jobs")
        with _signals_blocked():  # workers inherit this when they start
            begun = parallel(delayed(_in_worker)(call) for call in pending)
        ended: list[Ended[T]] = list(begun)
    for error in (one.error for one in ended if one.error is not None):
        raise error
    return [one.result for one in ended]  # type: ignore[misc]  # None may be a result


def _end_workers() -> None:
    """Have the workers end, as a signal may have reached this process alone.

    Ctrl-C in a terminal reaches the workers as well, which ignore the second signal.
    """
    for worker in active_children():
        if worker.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)


def _in_worker(call: Callable[[], T]) -> Ended[T]:
    """Make a call in a worker, and return its error: if it were raised, joblib would end all."""
    try:
        signals.listen(speaks=False)
        signals.unwind()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        return Ended(result=call())
    except BaseException as error:
        return Ended(error=error)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals in this process, and so in processes that it starts."""
    # Starting these two unblocks signals, so they must be running before.
    resource_tracker.ensure_running()
    loky_tracker.ensure_running()  # not a public API of joblib: a test names the version checked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_is_pending() -> bool:
    """Return whether this process has received a signal that it blocks."""
    return not signal.sigpending().isdisjoint(BLOCKED)
