"""Tasks that give each example an answer, which can be written to a file and graded."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from heterolora.losses import Batch
from heterolora.settings import setting
from heterolora.tasks.base import Columns, Examples, Task


@dataclass(frozen=True, kw_only=True)
class Predicting(Task):
    """A task with a column of labels, which a split may lack or hide.

    Without labels there are neither losses nor metrics.
    """

    label: str | None = setting(help="the column of the labels", example="label")
    max_length: int = setting(help="maximum number of tokens per example", gt=0, example=128)

    @property
    def has_labels(self) -> bool:
        """Whether there is a column of labels."""
        return self.label is not None

    def hides_labels(self, columns: Columns) -> bool:
        """Whether a split has no labels: no column, or only -1, null or empty lists in it."""
        given = [] if self.label is None else columns.get(self.label, [])
        return all(value is None or value == -1 or value == [] for value in given)

    def without_labels(self) -> Self:
        """Return the same task for a split without labels."""
        return replace(self, label=None)

    @abstractmethod
    def scores(self, output: Any, batch: Batch) -> list[list[float]]:
        """Return the model's logits for each example of a batch, in float32."""

    @abstractmethod
    def chosen(self, scores: Sequence[Sequence[float]], examples: Examples) -> list[Any]:
        """Turn the scores of all examples into answers, in the form of the column of labels."""


def highest(scores: Sequence[float]) -> int:
    """Return the index of the highest score, the first one in a tie."""
    return max(range(len(scores)), key=scores.__getitem__)
