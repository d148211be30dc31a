"""From scores and a budget to an allocation; pure, and without torch."""

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import homogeneous_budget
from heterolora.allocation.select import select

__all__ = ["Allocation", "homogeneous_budget", "select"]
