"""Errors that a user can fix, each in one line: the key, the rule, the value and the remedy."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class UserError(Exception):
    """An error that the user can fix: the command line prints its message and exits with code 2."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\n", "\\n"))


class ConfigError(UserError):
    """All problems of a configuration at once, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problem.replace("\n", "\\n") for problem in problems)
        Exception.__init__(self, "\n".join(self.problems))


class PluginError(UserError):
    """An addition from another installed package that cannot be used."""


class DataError(UserError):
    """A dataset that cannot be read, or whose rows break the task's rules."""


class ModelError(UserError):
    """A checkpoint that cannot be found, read or adapted."""


class AllocationError(UserError):
    """Scores or a budget from which no allocation can be made."""


class RecordError(UserError):
    """A run directory that cannot be written or read."""


class TrackingError(UserError):
    """A dashboard that does not accept the run."""


class ClusterError(UserError):
    """A cluster that does not respond."""


class TrainingError(UserError):
    """Training that cannot continue, for example because its loss is no longer finite."""


@dataclass(frozen=True)
class Problem:
    """Why something that was chosen cannot be used, in terms of the library's arguments.

    In rule and remedy, a setting or a choice is written `name=value` between backticks, so that a
    command line can write its own keys instead.

    Attributes:
        setting: the argument at fault, such as `objective`; `proxy` for a proxy as a whole.
        value: the value of the argument.
        rule: what is wrong with it.
        remedy: what to change.
    """

    setting: str
    value: Any
    rule: str
    remedy: str

    def line(self, start: str, write: Callable[[str, str], str]) -> str:
        """Return the problem in one line.

        Args:
            start: what to write for the argument at fault and its value.
            write: returns what to write for any other, from its name and value.
        """
        text = f"{self.rule}; {self.remedy}"
        written = re.sub("`(\\w+)=([^`]*)`", lambda found: write(*found.groups()), text)
        return f"{start}: {written}"

    def __str__(self) -> str:
        return self.line(f"{self.setting}={shown(self.value)}", _plainly)


def _plainly(name: str, value: str) -> str:
    """Return `the proxy eva` for a choice among objects, and `objective=output` for a setting."""
    objects = ("proxy", "selection", "strategy", "method", "model")
    return f"the {name} {value}" if name in objects else f"{name}={value}"


STAY_FINITE = (
    "lower optimizer.learning_rate, or optimizer.weight_decay or the alphas of search_space where "
    "they are high, or set precision=fp32 where it is bf16"
)
"""The remedy for numbers that are no longer finite."""


def one_line(error: BaseException) -> str:
    """Return the message of any exception, with whitespace collapsed to single spaces."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(value: Any) -> str:
    """Format a value as a user would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(one)}' for key, one in value.items())}}}"
    return str(value)


LONGEST = 100
"""The largest number of characters of a value that an error shows."""


def printable(text: str) -> str:
    """Prepare a text for a one-line error: escape what cannot be printed, and cut long texts."""
    plain = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}..."


def print_errors(error: UserError) -> None:
    """Write each line of the message to stderr as `error: ...`."""
    for line in str(error).splitlines():
        sys.stderr.write(f"error: {line}\n")
