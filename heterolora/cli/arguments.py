"""The command lines that are not Hydra's."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from heterolora.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line.

    Args:
        text: the docstring of the command: what it does, an empty line, and what ends its help.
        before: the end of the help begins with this.
    """

    def __init__(self, text: str | None, before: str = "") -> None:
        assert text is not None
        summary, rest = text.split("\n\n", 1)
        super().__init__(
            description=summary,
            epilog=before + rest,
            formatter_class=argparse.RawTextHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        raise SystemExit(UserError.exit_code)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command on a finished run takes: `run`, `weights` and `model`."""
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
    """`device`, of a command that computes."""
    parser.add_argument(
        "--device", help="device, such as cpu (default: the run's, if this machine has it)"
    )
