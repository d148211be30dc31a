"""Calls in processes of their own, which a signal lets come to their end."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children, resource_tracker
from types import FrameType
from typing import Generic, TypeVar

from joblib import Parallel, delayed
from joblib.externals.loky.backend import resource_tracker as loky_tracker

from heterolora.training import interrupts
from heterolora.training.signals import Signals

HELD = (signal.SIGINT, signal.SIGTERM)
"""What a worker that has nothing to do, or is just starting, does not hear: it would die of it, and
the others be killed."""

T = TypeVar("T")


class Forwarded(Signals):
    """Signals that wait here, while the workers are told to end: one may reach this process alone.

    A terminal's Ctrl-C reaches them as well; what comes second they do not heed.
    """

    def _put_off(self, number: int, frame: FrameType | None) -> None:
        super()._put_off(number, frame)
        for worker in active_children():
            if worker.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGTERM)


class Ended(Generic[T]):
    """How a call ended: its result, or what it raised."""

    def __init__(self, result: T | None = None, error: BaseException | None = None) -> None:
        self.result = result
        self.error = error


def in_workers(calls: Iterable[Callable[[], T]], n_jobs: int) -> list[T]:
    """Make calls in `n_jobs` processes.

    After a signal the workers save their runs and end, and no call begins.

    Returns:
        What they return.

    Raises:
        BaseException: what the first of them raised, once all have ended.
    """
    with Forwarded() as signals:
        left = (call for call in calls if not signals.waiting and not _held_back())
        parallel = Parallel(n_jobs, return_as="generator", batch_size=1, pre_dispatch="n_jobs")
        with _held():
            begun = parallel(delayed(_made)(call) for call in left)
        ended: list[Ended[T]] = list(begun)
    for error in (one.error for one in ended if one.error is not None):
        raise error
    return [one.result for one in ended]  # type: ignore[misc]  # None may be a result


def _made(call: Callable[[], T]) -> Ended[T]:
    """What a call raises is returned: raised in a worker, it would end the others at once."""
    try:
        interrupts.listen(speaks=False)
        interrupts.unwind()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        return Ended(result=call())
    except BaseException as error:
        return Ended(error=error)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


@contextmanager
def _held() -> Iterator[None]:
    """Inside, processes are started that do not hear `HELD`; signals of this one wait."""
    # These would let signals through again when they start.
    resource_tracker.ensure_running()
    loky_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _held_back() -> bool:
    """Whether a signal waits for this process to hear it."""
    return not signal.sigpending().isdisjoint(HELD)
