"""What a strategy decides."""

from abc import ABC, abstractmethod

from heterolora.config import StrategyConfig


class Strategy(StrategyConfig, ABC):
    """At which optimizer steps a search is made."""

    @abstractmethod
    def search_steps(self, epoch: int, steps_per_epoch: int) -> range:
        """The steps of `epoch` (both counted from 0) before which a search is made."""
