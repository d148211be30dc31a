"""The console command: `heterolora COMMAND ...`; without a command, it is `run`.

It imports next to nothing before a run handles signals; Hydra, torch and Transformers come later.
"""

import sys
from importlib import import_module
from pathlib import Path

from heterolora.harness.cli.commands import COMMANDS
from heterolora.harness.runs.launched import first
from heterolora.harness.runs.signals import signals

PREFIX = "heterolora-"
"""Of the console commands that are named for one command, such as `heterolora-report`."""


def main() -> int:
    """Run the command that the arguments of the process name; return its exit code.

    A program that is named for a command, such as `heterolora-report` or `scripts/report.py`, is
    that command.
    """
    command = Path(sys.argv[0]).stem.removeprefix(PREFIX)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in COMMANDS:
        return call(command)
    if word in COMMANDS or word == "run":
        sys.argv[:2] = [f"heterolora {word}"]
    elif word.isidentifier():  # neither KEY=VALUE nor an option
        known = ", ".join(["run", *COMMANDS])
        print(
            f"error: {word}: there is no such command; choose one of {known}, or set keys of a run "
            "with KEY=VALUE",
            file=sys.stderr,
        )
        return 2
    return call(word) if word in COMMANDS else run()


def run() -> int:
    """Train, and from the first moment end in one line if a signal arrives."""
    signals.listen(speaks=first())
    from heterolora.harness.cli import train

    return train.main()


def call(command: str) -> int:
    """Call one of `COMMANDS` with the arguments of the process; return its exit code."""
    from heterolora.harness.cli.run.errors import report_errors

    module = import_module(f"heterolora.harness.cli.commands.{command}")
    return report_errors(lambda: module.main(sys.argv[1:]))
