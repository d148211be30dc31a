"""What a strategy decides."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from heterolora.settings import Settings


@dataclass(frozen=True)
class Strategy(Settings, ABC):
    """At which optimizer steps a search is made, and how much of the budget it may spend.

    Attributes:
        searches: whether one is ever made.
    """

    searches: ClassVar[bool] = True

    @abstractmethod
    def search_steps(
        self, epoch: int, steps_per_epoch: int, total: int | None = None
    ) -> Sequence[int]:
        """The steps of `epoch` (both counted from 0) before which a search is made.

        Args:
            epoch: which.
            steps_per_epoch: optimizer steps in each.
            total: optimizer steps in all; those of one epoch if None.
        """

    @property
    def start(self) -> float | None:
        """Until the first search, every site has this multiple of the budget's rank on.

        None where the first search comes before the first step.
        """
        return None

    def share(self, done: float) -> float:
        """The parameters that a search may switch on, as a multiple of the budget.

        Args:
            done: the share of all optimizer steps that have been made, from 0 to 1.
        """
        return 1.0

    def periodic(self, steps_per_epoch: int) -> int | None:
        """The searches of every epoch; None where epochs differ."""
        return None

    def shortfall(self, steps_per_epoch: int) -> str | None:
        """What of the settings an epoch of this length cannot hold, in one line; None if it can."""
        return None
