"""What a user can get wrong, said in one line each: the key, the rule, the value and the remedy."""

import sys
from collections.abc import Sequence
from typing import Any


class UserError(Exception):
    """Something the user can put right: the command line prints its message and exits with 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\n", "\\n"))


class ConfigError(UserError):
    """Every problem of a configuration at once, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problem.replace("\n", "\\n") for problem in problems)
        Exception.__init__(self, "\n".join(self.problems))


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


STAY_FINITE = (
    "lower optimizer.learning_rate, or optimizer.weight_decay or the alphas of search_space where "
    "they are high, or set precision=fp32 where it is bf16"
)
"""What to do about numbers that are no longer finite."""


def one_line(error: BaseException) -> str:
    """The message of any exception, its white space folded into single blanks."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(value: Any) -> str:
    """A value as it would be given."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(one)}' for key, one in value.items())}}}"
    return str(value)


LONGEST = 100
"""Characters of a value that an error shows."""


def printable(text: str) -> str:
    """A text in one line of an error: what cannot be printed as in code, and no end without end."""
    plain = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."


def print_errors(error: UserError) -> None:
    """Each line of the message as `error: ...` on stderr."""
    for line in str(error).splitlines():
        sys.stderr.write(f"error: {line}\n")
