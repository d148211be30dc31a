"""Classification of examples that belong together, such as the answers to one question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from heterolora.errors import DataError, Problem
from heterolora.losses import GROUPS, Batch
from heterolora.settings import Situation, setting, torch
from heterolora.tasks.base import Columns, Examples, Metric
from heterolora.tasks.classification import Predictions
from heterolora.tasks.encoded import Encoded
from heterolora.tasks.prompted import Prompted
from heterolora.tasks.tokens import check_columns

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Grouped(Prompted):
    """Classify examples in groups; `exact_match` is the fraction of groups fully right."""

    group: tuple[str, ...] = setting(
        help="columns, or fields of one, that are equal for all examples of a group",
        example="[idx.question]",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the texts, the label, and the groups."""
        return tuple(dict.fromkeys([*super().columns, *self._group_columns()]))

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check as for other texts, and that at least one column defines the groups."""
        yield from super().problems(situation)
        if not self.group:
            remedy = "for example `group=[idx.question]`"
            yield Problem("group", self.group, "must name at least one column", remedy)

    def fitting(self) -> list[str]:
        """Return the metrics that fit, and `exact_match`, which fits whatever the labels are."""
        return [*super().fitting(), "exact_match"]

    def check(self, columns: Columns, where: str) -> Examples:
        """Check as for other texts, and that every example belongs to a group."""
        check_columns(columns, dict.fromkeys(self._group_columns(), "task.group"), where)
        named = [_named(columns, name, where) for name in self.group]
        numbers: dict[tuple[Any, ...], int] = {}
        groups = [numbers.setdefault(key, len(numbers)) for key in zip(*named, strict=True)]
        return Examples({**super().check(columns, where).columns, GROUPS: groups})

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        positions: int,
        device: torch.device,
    ) -> Encoded:
        """Tokenize the texts, keeping the group number of every example."""
        encoded = super().encode(examples, tokenizer, positions, device)
        return encoded.with_feature(GROUPS, torch.tensor(examples.columns[GROUPS]).unbind())

    def metric(self) -> Metric:
        """Return a metric over all predictions and all groups together."""
        return GroupedPredictions(self)

    def _group_columns(self) -> list[str]:
        return list(dict.fromkeys(name.split(".")[0] for name in self.group))


def _named(columns: Columns, name: str, where: str) -> list[Any]:
    """Return a column, or a field of one, such as `idx.question`.

    Raises:
        DataError: names the first row that lacks it.
    """
    column, *parts = name.split(".")
    found = []
    for row, value in enumerate(columns[column]):
        for part in parts:
            if not isinstance(value, dict) or part not in value:
                raise DataError(
                    f"{where}: row {row} has no {name}, which task.group names; name an existing "
                    "column or field, for example task.group=[idx]"
                )
            value = value[part]
        found.append(value)
    return found


@dataclass
class GroupedPredictions(Predictions):
    """Collects the group of each prediction as well."""

    groups: list[Tensor] = field(default_factory=list)

    def update(self, output: Any, batch: Batch) -> None:
        """Collect the batch's logits, labels and groups, on the CPU."""
        super().update(output, batch)
        self.groups.append(batch[GROUPS].cpu())

    def absorb(self, other: Self) -> None:
        """Append the other's groups; groups with the same number are one group."""
        super().absorb(other)
        self.groups += other.groups

    def measure(self, name: str, labels: Sequence[float], predicted: Sequence[float]) -> float:
        """Compute a metric; `exact_match` is the share of groups with every example right."""
        if name != "exact_match":
            return super().measure(name, labels, predicted)
        right: dict[int, bool] = {}
        groups = torch.cat(self.groups).tolist()
        for group, label, guess in zip(groups, labels, predicted, strict=True):
            right[group] = right.get(group, True) and label == guess
        return sum(right.values()) / len(right)
