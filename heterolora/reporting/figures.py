"""Figures."""

from collections.abc import Sequence
from pathlib import Path

from heterolora.reporting.load import Run


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """None are drawn yet."""
    return []
