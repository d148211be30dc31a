"""Signals that stop a run, deferred until its state can be saved."""

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from heterolora.errors import one_line
from heterolora.training import interrupts
from heterolora.training.interrupts import Terminated

logger = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""Ctrl-C; the end of a job or a machine; the advance warning that SLURM is asked to send."""


class Stopped(BaseException):
    """The handler of a signal has declared the end, for example of a job that may not be requeued.

    Not an `Exception`: the process ends, rather than a run failing.
    """


class Signals:
    """Defers signals: the first of each kind to `obey` or the end, but not a second SIGINT.

    `obey` passes each signal to its previous handler, such as submitit's, which has SLURM requeue
    the job. If there was none, the process ends as the signal would have ended it. A signal that
    was ignored before stays ignored, as SIGINT does for a command that the shell runs in the
    background.
    """

    def __init__(self) -> None:
        self._waiting: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        interrupts.check()
        if threading.current_thread() is threading.main_thread():  # Python allows no other thread
            for number in STOPPING:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._put_off)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        # A step that fails never reaches `obey`. If the signal were lost, the next run of the job
        # would start and be killed halfway through.
        if error is None or isinstance(error, Exception):
            if error is not None and self._waiting:
                logger.warning("a signal arrived during a step that failed: %s", one_line(error))
            self.obey()
        self._before.clear()

    @property
    def waiting(self) -> bool:
        """Whether a signal has been received and not yet obeyed."""
        return bool(self._waiting)

    def obey(self) -> None:
        """Do what the received signals ask for.

        Raises:
            KeyboardInterrupt: for SIGINT, from Python's own handler.
            Terminated: for another signal that has no handler.
        """
        while self._waiting:
            self._deliver(self._waiting.pop(0), None)

    def _put_off(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in self._waiting:
            self._deliver(number, frame)
        if number not in self._waiting:
            self._waiting.append(number)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        before = self._before[number]
        if not callable(before):
            raise Terminated(number)
        try:
            before(number, frame)
        except Exception as error:
            raise Stopped(one_line(error)) from error
