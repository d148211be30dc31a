"""Ctrl-C and SIGTERM at any moment of a command: one line, and the exit code that shells know.

Until there is something to put in order, such as a record, a signal ends the process where it is:
an exception could be lost in the libraries that are being imported. From then on it is raised.
"""

import os
import signal
import sys
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
"""What a person calls the signals that are listened to."""

UNDO_BAR = "\r\x1b[2K\x1b[?25h"
"""For a terminal: the line with the progress bar is emptied, and the cursor is seen again."""


class Terminated(SystemExit):
    """A signal ends the process, with the exit code by which shells know it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __reduce__(self) -> tuple[type["Terminated"], tuple[int]]:
        return Terminated, (self.number,)  # from a worker to its parent

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.number).name}"


class _Door:
    """What this process has heard.

    Attributes:
        speaks: whether it is for this process to say so.
        raises: whether a signal is an exception.
        came: the signals, in order.
    """

    def __init__(self) -> None:
        self.speaks = True
        self.raises = False
        self.came: list[int] = []


_door = _Door()


def listen(speaks: bool) -> None:
    """Heed Ctrl-C and SIGTERM from now on, where nobody else does.

    What is ignored, as the shell has SIGINT for a command in the background, stays ignored.

    Args:
        speaks: whether this process is to print the line, as one of several is.
    """
    _door.speaks = speaks
    for number in NAMES:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
    # Of one that was raised where Python has no one to raise it to: `meant` knows it all the same.
    sys.unraisablehook = _unraisable


def unwind() -> None:
    """From here on there is something to put in order: a signal raises."""
    _door.raises = True


def ignore() -> None:
    """The command is over; no signal changes that."""
    for number in NAMES:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_IGN)


def meant(error: BaseException) -> BaseException:
    """The error, or that of the signal of which a library made another one."""
    if not _door.came or isinstance(error, KeyboardInterrupt | SystemExit):
        return error
    return raised(_door.came[0])


def raised(number: int) -> BaseException:
    """The exception that stands for a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def check() -> None:
    """Raise for a signal whose exception was lost on the way."""
    if _door.came:
        raise raised(_door.came[0])


def line(stop: BaseException) -> str:
    """What to say of an exception that stands for a signal: where it came, its last note has."""
    number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
    by = NAMES.get(signal.Signals(number), signal.Signals(number).name)
    notes: list[str] = getattr(stop, "__notes__", ["; run the same command again"])
    return f"interrupted by {by}{notes[-1]}"


def where(stop: BaseException) -> str:
    """Where a signal came, without what to do about it."""
    notes: list[str] = getattr(stop, "__notes__", ["before the first step"])
    return notes[-1].strip().partition("; run the same command")[0]


def exit_code(stop: BaseException) -> int:
    """By which shells know the signal that an exception stands for."""
    return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def _end(number: int, frame: FrameType | None) -> None:
    again = bool(_door.came)
    _door.came.append(number)
    if again and number != signal.SIGINT:
        return  # the first is being obeyed
    stop = raised(number)
    if again:
        stop.add_note(" again: stopped at once; the same command resumes from the last saved state")
    elif _door.raises:
        raise stop
    else:
        stop.add_note(" before training began: nothing was written")
    if _door.speaks:
        _write(line(stop))
    os._exit(exit_code(stop))


def _write(text: str) -> None:
    if os.isatty(1):
        os.write(1, UNDO_BAR.encode())
    os.write(2, f"{text}\n".encode())


def _unraisable(said: "sys.UnraisableHookArgs") -> None:
    if not isinstance(said.exc_value, KeyboardInterrupt | Terminated):
        sys.__unraisablehook__(said)
