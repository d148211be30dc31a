"""The command lines that are not Hydra's."""

import argparse
import sys
from typing import NoReturn

from heterolora.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        raise SystemExit(UserError.exit_code)
