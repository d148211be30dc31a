"""Ctrl-C and SIGTERM at any moment of a command: one line, and the exit code that shells expect.

Until there is something to clean up, such as a record, a signal ends the process where it is: an
exception could get lost in the libraries that are being imported. From then on, it is raised.
"""

import os
import signal
import sys
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
"""The signals that are handled, by the names that people use for them."""

UNDO_BAR = "\r\x1b[2K\x1b[?25h"
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


class _Door:
    """The signals that this process has received, and how it handles them.

    Attributes:
        speaks: whether this process prints the line.
        raises: whether a signal raises an exception.
        came: the signals received, in order.
    """

    def __init__(self) -> None:
        self.speaks = True
        self.raises = False
        self.came: list[int] = []


_door = _Door()


def listen(speaks: bool) -> None:
    """Handle Ctrl-C and SIGTERM from now on, unless they already have another handler.

    A signal that is ignored, like SIGINT for a command that the shell runs in the background, stays
    ignored.

    Args:
        speaks: whether this process prints the line; of several processes, only one does.
    """
    _door.speaks = speaks
    for number in NAMES:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)
    # For an exception raised where Python cannot propagate it: `meant` still knows the signal.
    sys.unraisablehook = _unraisable


def unwind() -> None:
    """Raise signals as exceptions from now on, because there is something to clean up."""
    _door.raises = True


def ignore() -> None:
    """Ignore signals from now on, because the command is over."""
    for number in NAMES:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_IGN)


def meant(error: BaseException) -> BaseException:
    """Return the error, or the signal's exception if a library turned that into another error."""
    if not _door.came or isinstance(error, KeyboardInterrupt | SystemExit):
        return error
    return raised(_door.came[0])


def raised(number: int) -> BaseException:
    """Return the exception that stands for a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def check() -> None:
    """Raise for a signal whose exception got lost."""
    if _door.came:
        raise raised(_door.came[0])


def line(stop: BaseException) -> str:
    """Return the line for an exception that stands for a signal; its last note says where."""
    number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
    by = NAMES.get(signal.Signals(number), signal.Signals(number).name)
    notes: list[str] = getattr(stop, "__notes__", ["; run the same command again"])
    return f"interrupted by {by}{notes[-1]}"


def where(stop: BaseException) -> str:
    """Return where a signal stopped the run, without what to do about it."""
    notes: list[str] = getattr(stop, "__notes__", ["before the first step"])
    return notes[-1].strip().partition("; run the same command")[0]


def exit_code(stop: BaseException) -> int:
    """Return the exit code that shells expect for the signal that an exception stands for."""
    return 128 + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def _end(number: int, frame: FrameType | None) -> None:
    again = bool(_door.came)
    _door.came.append(number)
    if again and number != signal.SIGINT:
        return  # the first one is being handled
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
