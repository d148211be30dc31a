"""What a strategy decides."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from heterolora.settings import Settings


@dataclass(frozen=True)
class Strategy(Settings, ABC):
    """At which optimizer steps a search is made.

    Attributes:
        searches: whether one is ever made.
    """

    searches: ClassVar[bool] = True

    @abstractmethod
    def search_steps(self, epoch: int, steps_per_epoch: int) -> range:
        """The steps of `epoch` (both counted from 0) before which a search is made."""

    def shortfall(self, steps_per_epoch: int) -> str | None:
        """What of the settings an epoch of this length cannot hold, in one line; None if it can."""
        return None
