"""The way into the command line: from its first moment a signal ends it in one line.

It imports next to nothing before it listens; Hydra, torch and Transformers come after that.
"""

from heterolora import interrupts
from heterolora.launched import first


def main() -> int:
    """Do what the arguments of the process say; returns the exit code."""
    interrupts.listen(speaks=first())
    from heterolora.cli import run

    return run.main()
