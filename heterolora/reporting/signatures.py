"""Failure signatures."""

from collections.abc import Sequence

from heterolora.reporting.load import Run


def signatures(runs: Sequence[Run]) -> list[str]:
    """None are known yet."""
    return []
