"""The way into the command line: from its first moment a signal ends it in one line.

It imports next to nothing before it listens; Hydra, torch and Transformers come after that.
"""

from heterolora.harness.runs.launched import first
from heterolora.training import interrupts


def main() -> int:
    """Do what the arguments of the process say; returns the exit code."""
    interrupts.listen(speaks=first())
    from heterolora.harness.cli.run import single

    return single.main()
