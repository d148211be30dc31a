"""The command lines that are not Hydra's."""

import argparse
import sys
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
