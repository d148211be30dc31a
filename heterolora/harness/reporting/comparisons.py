"""Comparisons between the entries of a table, seed by seed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from heterolora.harness.reporting.entries import Entry
from heterolora.harness.reporting.statistics import Paired, holm, paired, seeds_needed

EFFECT = 0.6
"""In points: the largest gain of a searched row in the paper's Table 4 (MRPC, r = 2)."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of two entries with the same model and task, over the seeds that both have.

    Attributes:
        entry: the entry that is compared.
        other: the entry that it is compared with.
        role: `baseline`, with an equal budget, or the table's name for a control.
        paired: the statistics.
        size: the difference between the paper's numbers, in points; `EFFECT` if there are none.
        seeds_needed: the number of seeds needed to detect a difference of that size; None if
            unknown.
        p_holm: p, corrected over the table's family of comparisons; None outside it.
    """

    entry: Entry
    other: Entry
    role: str
    paired: Paired
    size: float
    seeds_needed: int | None
    p_holm: float | None = None

    @property
    def gain(self) -> float | None:
        """The difference in the direction that is better; None if they share no seed."""
        return None if self.paired.difference is None else self._sign * self.paired.difference

    @property
    def ruled_out(self) -> float | None:
        """Gains above this are ruled out: the upper end of the gain's 95 % interval.

        0 if that is below 0, so that any gain is ruled out; None if there is no interval.
        """
        if self.paired.interval is None:
            return None
        return max(0.0, *(self._sign * end for end in self.paired.interval))

    @cached_property
    def seconds(self) -> tuple[float, float]:
        """Training and searching time of a run in each entry: medians over common seeds."""
        one, other = (
            _seconds(entry.frame, self.paired.seeds) for entry in (self.entry, self.other)
        )
        return one, other

    @property
    def _sign(self) -> int:
        return 1 if self.entry.runs[0].higher_is_better else -1


def compare(entries: Sequence[Entry], family: Collection[str] = ()) -> list[Comparison]:
    """Make every comparison between a table's entries, and correct p values together.

    Args:
        entries: the entries.
        family: the rows whose comparisons are corrected; all if empty.
    """
    by_label = {(entry.model, entry.task, entry.label): entry for entry in entries}
    found = []
    for entry in entries:
        for role, label in entry.cell.against.items() if entry.runs else ():
            if other := by_label.get((entry.model, entry.task, label)):
                result, size = paired(entry.by_seed(), other.by_seed()), EFFECT
                one, two = entry.published, other.published
                if one and two and one.printed is not None and two.printed is not None:
                    size = round(abs(one.printed - two.printed), 1) or EFFECT
                needed = seeds_needed(size, result.std)
                found.append(Comparison(entry, other, role, result, size, needed))
    tested = [one.paired.p if not family or one.entry.cell.row in family else None for one in found]
    p = pd.Series(tested, dtype=float).dropna()
    corrected = dict(zip(p.index, holm([*p]), strict=True))
    return [replace(one, p_holm=corrected.get(index)) for index, one in enumerate(found)]


def _seconds(runs: pd.DataFrame, seeds: Sequence[int]) -> float:
    parts = runs.loc[runs["seed"].isin(seeds), ["seconds.training", "seconds.searching"]]
    return float(parts.astype(float).sum(axis=1).median())
