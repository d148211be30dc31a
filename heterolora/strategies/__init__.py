"""Strategies, which decide when to search. Each lives in the file of its name."""

from typing import TYPE_CHECKING, Any

from heterolora.strategies.base import Strategy
from heterolora.strategies.dynamic import Dynamic
from heterolora.strategies.homogeneous import Homogeneous
from heterolora.strategies.pruning import Pruning
from heterolora.strategies.static import Static
from heterolora.strategies.warmup import Warmup

if TYPE_CHECKING:
    from heterolora.strategies.search import Search

__all__ = ["Dynamic", "Homogeneous", "Pruning", "Search", "Static", "Strategy", "Warmup"]


def __getattr__(name: str) -> Any:
    if name != "Search":
        raise AttributeError(f"module 'heterolora.strategies' has no attribute '{name}'")
    # `Search` needs torch; the strategies do not.
    from heterolora.strategies.search import Search

    return Search
