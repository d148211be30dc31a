"""Ctrl-C and SIGTERM at any moment of a command: one line, and the exit code that shells expect.

`signals` handles those of this process, in one of three ways:

- At first a signal ends the process where it is: there is nothing to clean up, and an exception
  could get lost in the libraries that are being imported.
- From `unwind` on it is raised as an exception.
- Inside `deferred`, while a run is being trained, it waits until the state is saved.

It also knows where the command stands, for the line that is printed at the end.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from heterolora.errors import one_line

logger = logging.getLogger(__name__)

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
"""The signals that end a command, by the names that people use for them."""

DEFERRED = (*NAMES, signal.SIGUSR2)
"""The signals that wait during training; the last is the warning that SLURM is asked to send."""

CLEAR_BAR = "\r\x1b[2K\x1b[?25h"
"""For a terminal: clears the line with the progress bar, and shows the cursor again."""


class Terminated(SystemExit):
    """A signal ends the process, with the exit code that shells expect."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __reduce__(self) -> tuple[type["Terminated"], tuple[int]]:
        return Terminated, (self.number,)  # to be sent from a worker to its parent

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.number).name}"


class Stopped(BaseException):
    """The handler of a signal has declared the end, for example of a job that may not be requeued.

    Not an `Exception`: the process ends, rather than a run failing.
    """


@dataclass(frozen=True)
class Standing:
    """Where a command stands, and what a user can do if it is interrupted there."""

    where: str
    remedy: str


UNKNOWN = Standing("", "run the same command again")
NOT_BEGUN = Standing("before training began: nothing was written", "")
AT_ONCE = Standing("again: stopped at once", "the same command resumes from the last saved state")


class Signals:
    """The signals of a process. Use `signals`; others are for tests.

    Attributes:
        speaks: whether this process prints the line of a signal that ends it at once; of several
            processes that make one run, only one does.
        standing: where the command stands.
        received: the signals that were not deferred, in order.
    """

    def __init__(self) -> None:
        self.speaks = True
        self.standing = UNKNOWN
        self._raises = False
        self.received: list[int] = []
        self._waiting: list[int] = []
        self._handlers: dict[int, Any] = {}
        self._agree: Callable[[int], int] | None = None
        self._agreed = 0

    def listen(self, speaks: bool) -> None:
        """Handle Ctrl-C and SIGTERM from now on, unless they already have another handler.

        A signal that is ignored, like SIGINT for a command that the shell runs in the background,
        stays ignored.
        """
        self.speaks = speaks
        for number in NAMES:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._end)
        # For an exception raised where Python cannot propagate it: `meant` still knows the signal.
        sys.unraisablehook = _unraisable

    def unwind(self) -> None:
        """Raise signals as exceptions from now on, because there is something to clean up."""
        self._raises = True

    def ignore(self) -> None:
        """Ignore signals from now on, because the command is over."""
        for number in NAMES:
            if signal.getsignal(number) == self._end:
                signal.signal(number, signal.SIG_IGN)

    def meant(self, error: BaseException) -> BaseException:
        """Return the error, or a signal's exception if a library turned that into the error."""
        if not self.received or isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        return _exception(self.received[0])

    def check(self) -> None:
        """Raise for a signal whose exception got lost.

        Raises:
            KeyboardInterrupt: for SIGINT.
            Terminated: for any other.
        """
        if self.received:
            raise _exception(self.received[0])

    def line(self, stop: BaseException) -> str:
        """Return the line for an exception that stands for a signal."""
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        by = NAMES.get(signal.Signals(number), signal.Signals(number).name)
        where = f" {self.standing.where}" if self.standing.where else ""
        remedy = f"; {self.standing.remedy}" if self.standing.remedy else ""
        return f"interrupted by {by}{where}{remedy}"

    @contextmanager
    def deferred(
        self,
        agree: Callable[[int], int] | None = None,
        on_signal: Callable[[], None] | None = None,
    ) -> Iterator[None]:
        """Inside the context, signals wait for `obey`; only a second SIGINT does not.

        `obey` passes each signal to its previous handler, such as submitit's, which has SLURM
        requeue the job. If there was none, the process ends as the signal would have ended it. A
        signal that was ignored before stays ignored.

        Args:
            agree: for one of several processes that make a run together: given the highest signal
                that waits here, or 0, returns the highest of all processes. All call it equally
                often, so that all stop before the same step.
            on_signal: called when a signal is received.
        """
        self.check()
        self._agree, self._agreed = agree, 0

        def put_off(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGINT and number in self._waiting:
                self._deliver(number, frame)
            if number not in self._waiting:
                self._waiting.append(number)
            if on_signal is not None:
                on_signal()

        if threading.current_thread() is threading.main_thread():  # Python allows no other thread
            for number in DEFERRED:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):
                    self._handlers[number] = signal.signal(number, put_off)
        try:
            yield
            self._ask()
        except Exception as error:
            # A step that fails never reaches `obey`. If the signal were lost, the next run of the
            # job would start and be killed halfway through.
            if self._waiting:
                logger.warning("a signal arrived during a step that failed: %s", one_line(error))
                self._restore()
                self.obey()
            raise
        else:
            self._restore()
            self.obey()
        finally:
            self._restore()
            self._waiting.clear()
            self._handlers.clear()

    @property
    def waiting(self) -> bool:
        """Whether a signal has been received, here or in another process, and not yet obeyed."""
        self._ask()
        return self._agreed > 0

    def obey(self) -> None:
        """Do what the received signals ask for.

        Raises:
            KeyboardInterrupt: for SIGINT, from Python's own handler.
            Terminated: for another signal that has no handler, or that another process received.
        """
        agreed = self._agreed
        while self._waiting:
            self._deliver(self._waiting.pop(0), None)
        if agreed and self._agree is not None:
            raise Terminated(agreed)

    def pause(self, save: Callable[[], None]) -> None:
        """Between two steps: if a signal waits, save the state of the run, and obey."""
        if self.waiting:
            save()
            self.obey()

    def _ask(self) -> None:
        own = max(self._waiting, default=0)
        self._agreed = own if self._agree is None else self._agree(own)

    def _deliver(self, number: int, frame: FrameType | None) -> None:
        before = self._handlers[number]
        if not callable(before):
            raise Terminated(number)
        try:
            before(number, frame)
        except Exception as error:
            raise Stopped(one_line(error)) from error

    def _restore(self) -> None:
        for number, before in self._handlers.items():
            signal.signal(number, before)

    def _end(self, number: int, frame: FrameType | None) -> None:
        again = bool(self.received)
        self.received.append(number)
        if again and number != signal.SIGINT:
            return  # the first one is being handled
        stop = _exception(number)
        if again:
            self.standing = AT_ONCE
        elif self._raises:
            raise stop
        else:
            self.standing = NOT_BEGUN
        if self.speaks:
            _write(self.line(stop))
        os._exit(exit_code(stop))


signals = Signals()
"""The signals of this process."""


def exit_code(stop: BaseException) -> int:
    """Return the exit code that shells expect for the signal that an exception stands for."""
    return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def _exception(number: int) -> BaseException:
    """Return the exception that stands for a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def _write(text: str) -> None:
    if os.isatty(1):
        os.write(1, CLEAR_BAR.encode())
    os.write(2, f"{text}\n".encode())


def _unraisable(caught: "sys.UnraisableHookArgs") -> None:
    if not isinstance(caught.exc_value, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(caught)
