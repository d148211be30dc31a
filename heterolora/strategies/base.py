"""The base class of strategies."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from heterolora.settings import Settings


@dataclass(frozen=True)
class Strategy(Settings, ABC):
    """At which optimizer steps to search, and how much of the budget each search may spend.

    Attributes:
        searches: whether the strategy ever searches.
    """

    searches: ClassVar[bool] = True

    @abstractmethod
    def search_steps(
        self, epoch: int, steps_per_epoch: int, total: int | None = None
    ) -> Sequence[int]:
        """Return the steps of `epoch` before which to search; steps and epochs are counted from 0.

        Args:
            epoch: the index of the epoch.
            steps_per_epoch: the number of optimizer steps in each epoch.
            total: the number of optimizer steps in the whole training; one epoch's if None.
        """

    @property
    def start(self) -> float | None:
        """The multiple of the budget's rank at which every site is on until the first search.

        None if the first search comes before the first step.
        """
        return None

    @property
    def only_before_training(self) -> bool:
        """Whether no search comes after a training step."""
        searches = (self.search_steps(epoch, 1000, 2000) for epoch in range(2))
        return not any(epoch or step for epoch, steps in enumerate(searches) for step in steps)

    def share(self, done: float) -> float:
        """Return how many parameters a search may switch on, as a multiple of the budget.

        Args:
            done: the fraction of all optimizer steps that have been made, from 0 to 1.
        """
        return 1.0

    def periodic(self, steps_per_epoch: int) -> int | None:
        """Return the number of searches in every epoch; None if epochs differ."""
        return None

    def shortfall(self, steps_per_epoch: int) -> str | None:
        """Return one line on what does not fit an epoch of this length; None if everything does."""
        return None
