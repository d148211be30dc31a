"""What all processes of a run find, the first one says."""

from heterolora.errors import UserError, print_errors
from heterolora.launched import first


def print_once(error: UserError) -> None:
    """As `print_errors`."""
    if first():
        print_errors(error)
