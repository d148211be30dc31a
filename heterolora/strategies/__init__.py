"""Strategies, which decide when to search. Each lives in the file of its name."""

from heterolora.strategies.base import Strategy
from heterolora.strategies.dynamic import Dynamic
from heterolora.strategies.homogeneous import Homogeneous
from heterolora.strategies.pruning import Pruning
from heterolora.strategies.search import Search
from heterolora.strategies.static import Static
from heterolora.strategies.warmup import Warmup

__all__ = ["Dynamic", "Homogeneous", "Pruning", "Search", "Static", "Strategy", "Warmup"]
