"""What a user can get wrong, said in one line each: the key, the rule, the value and the remedy."""

import sys
from collections.abc import Sequence


class UserError(Exception):
    """Something the user can put right: the command line prints its message and exits with 2."""

    exit_code = 2


class ConfigError(UserError):
    """Every problem of a configuration at once, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class PluginError(UserError):
    """What another installed package adds, and cannot be used."""


class DataError(UserError):
    """A dataset that cannot be read, or whose rows break the task's rules."""


class ModelError(UserError):
    """A checkpoint that cannot be found, read or adapted."""


class AllocationError(UserError):
    """Scores or a budget from which no allocation can be made."""


class RecordError(UserError):
    """A run directory that cannot be written or read."""


class TrackingError(UserError):
    """A dashboard that does not take the run."""


class ClusterError(UserError):
    """A cluster that does not answer."""


class TrainingError(UserError):
    """A training that cannot go on, such as one whose loss is no longer finite."""


def one_line(error: BaseException) -> str:
    """The message of any exception, its white space folded into single blanks."""
    return " ".join(str(error).split()) or type(error).__name__


def print_errors(error: UserError) -> None:
    """Each line of the message as `error: ...` on stderr."""
    for line in str(error).splitlines():
        sys.stderr.write(f"error: {line}\n")
