"""Command lines that argparse reads, not Hydra."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from heterolora.errors import UserError


class Parser(argparse.ArgumentParser):
    """Reports an error in one line.

    Args:
        text: the docstring of the command: its summary, an empty line, and the end of its help.
        before: returns what precedes that end; called only if help is printed.
    """

    def __init__(self, text: str | None, before: Callable[[], str] = str) -> None:
        assert text is not None
        summary, self._rest = text.split("\n\n", 1)
        self._before = before
        super().__init__(description=summary, formatter_class=argparse.RawTextHelpFormatter)

    def format_help(self) -> str:
        """Return the help."""
        self.epilog = self._before() + self._rest
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Print an error and exit with code 2."""
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        raise SystemExit(UserError.exit_code)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every command on a finished run: `run`, `--weights` and `--model`."""
    parser.add_argument("run", type=Path, help="the directory of a finished run")
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        default="best",
        help="weights of the best epoch or of the last (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="folder of the pretrained model, if it has moved since the run",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, for a command that computes."""
    parser.add_argument(
        "--device", help="device, such as cpu (default: the run's, if this machine has it)"
    )
