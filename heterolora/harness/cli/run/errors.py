"""How a command ends: what a user can fix, and signals, are one line on stderr and an exit code."""

import os
import sys
from collections.abc import Callable

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError, UserError
from heterolora.files import as_user_error
from heterolora.harness.cli.run.overrides import composition_problems
from heterolora.harness.runs.launched import first, print_once
from heterolora.harness.runs.signals import Terminated, exit_code, signals


def report_errors(command: Callable[[], object]) -> int:
    """Call a command and return its exit code.

    Args:
        command: may return an exit code; whatever else it returns counts as 0.

    Returns:
        That code; 2, after a line on stderr, for a `UserError`; that of the signal for a signal.
    """
    # Hydra prints composition errors over many lines and exits with 1, unless it may raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        result = _with_signals(command)
    except (HydraException, OmegaConfBaseException) as error:
        overrides = [one for one in sys.argv[1:] if "=" in one and not one.startswith("-")]
        print_once(ConfigError(composition_problems(error, overrides)))
        return UserError.exit_code
    except (UserError, OSError) as problem:
        user_error = as_user_error(problem)
        print_once(user_error)
        return user_error.exit_code
    except (KeyboardInterrupt, Terminated) as stop:
        signals.ignore()
        if first():
            print(signals.line(stop), file=sys.stderr)
        return exit_code(stop)
    return result if isinstance(result, int) else 0


def _with_signals(command: Callable[[], object]) -> object:
    """Call a command; if a library turned a signal into another error, raise the signal again."""
    try:
        return command()
    except BaseException as problem:
        error = signals.meant(problem)
        if error is problem:
            raise
        raise error from None
