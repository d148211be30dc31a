"""A setting that is chosen for each row, on data that is not reported."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from heterolora.harness.reporting.entries import Entry
from heterolora.harness.reporting.frame import listed
from heterolora.harness.reporting.report import Section, mean_std, section


def tuning(entry: Entry, seeds: Sequence[int]) -> pd.DataFrame:
    """Return the runs used for tuning: those of `seeds`, or all if there are none."""
    return entry.frame[entry.frame["seed"].isin(seeds)] if seeds else entry.frame


def chosen(entry: Entry, key: str, seeds: Sequence[int] = ()) -> Any:
    """Return the value of `key` with the best mean over runs of the selection half's best metric.

    The smallest in a tie; None if there are no runs. The report half is not used.

    Args:
        entry: an entry with runs at several values.
        key: the tuned key.
        seeds: the seeds of the runs that choose; all if empty.
    """
    runs = tuning(entry, seeds)
    means = runs["selection"].astype(float).groupby(runs[key]).mean()
    if means.empty:
        return None
    return means.idxmax() if entry.runs[0].higher_is_better else means.idxmin()


def at_best(entry: Entry, key: str, seeds: Sequence[int] = ()) -> Entry:
    """Return the entry with only the runs at the `chosen` value, and without those of `seeds`."""
    reported = (entry.frame[key] == chosen(entry, key, seeds)) & ~entry.frame["seed"].isin(seeds)
    left = tuple(seed for seed in entry.missing if seed not in seeds)
    return replace(entry, frame=entry.frame[reported], missing=left)


def tried(entries: Sequence[Entry], key: str, seeds: Sequence[int] = ()) -> Section:
    """List every value of `key` in every entry, and which was chosen."""
    rows = [
        {
            **entry.names,
            key: f"{value:g}",
            "n": len(found),
            "selection half": mean_std(found.mean(), found.std()),
            "": "chosen" if value == chosen(entry, key, seeds) else "",
        }
        for entry in entries
        for value, found in tuning(entry, seeds)["selection"]
        .astype(float)
        .groupby(entry.frame[key])
    ]
    of = f" (tuning seeds {listed(seeds)}, which are not reported)" if seeds else ""
    explanation = f"The best metric on the selection half, the only one used to choose {key}{of}."
    return section("Values tried", explanation, rows)


def uneven(entries: Sequence[Entry], key: str, seeds: Sequence[int] = ()) -> Iterator[str]:
    """Yield the entries whose values were not tried with the same seeds, in words."""
    for entry in entries:
        if tuning(entry, seeds).groupby(key)["seed"].agg(frozenset).nunique() > 1:
            yield (
                f"{entry.label}, {entry.place}: the values of {key} were not tried with the same "
                "seeds, so the choice compares means over different seeds"
            )
