"""Selections, which turn scores into ranks. Each lives in the file of its name."""

from heterolora.allocation.selection.base import Candidates, Selection
from heterolora.allocation.selection.proportional import Proportional
from heterolora.allocation.selection.top import Top
from heterolora.allocation.selection.waterfill import Waterfill

__all__ = ["Candidates", "Proportional", "Selection", "Top", "Waterfill"]
