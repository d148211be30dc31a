"""When to search. Each strategy lives in the file of its name."""

from heterolora.strategies.base import Strategy
from heterolora.strategies.dynamic import Dynamic
from heterolora.strategies.homogeneous import Homogeneous
from heterolora.strategies.search import Search
from heterolora.strategies.static import Static

__all__ = ["Dynamic", "Homogeneous", "Search", "Static", "Strategy"]
