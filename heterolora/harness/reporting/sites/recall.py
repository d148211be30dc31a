"""Recall: whether rules find the sites that a task is known to need."""

from collections.abc import Collection, Iterator

import pandas as pd

from heterolora.errors import RecordError
from heterolora.harness.records.read import Run
from heterolora.harness.reporting.arms import CONTENTS, Arm, arms, labels
from heterolora.harness.reporting.frame import unfinished
from heterolora.harness.reporting.layout import Settings, Table
from heterolora.harness.reporting.report import Report, Section, text
from heterolora.harness.reporting.sites.frame import IMPORTANCE, sites

BEFORE = "before training"
AFTER = f"{IMPORTANCE}, after training"
"""The rule that knows the best that can be known."""


def recall(values: pd.Series, right: Collection[str]) -> float:
    """Return the share of the k `right` sites that are among the k with the highest values.

    Among sites with equal values at the cut, chance takes as many as there is room for; the mean
    over its choices is

        (|right above the cut| + room |right at the cut| / |at the cut|) / k.
    """
    k = min(len(right), len(values))
    cut = values.nlargest(k).iloc[-1]
    above, at = values.index[values > cut], values.index[values == cut]
    room = k - len(above)
    return float(above.isin(right).sum() + room * at.isin(right).mean()) / len(right)


def planted(run: Run) -> frozenset[str]:
    """Return the sites that the task of a run is known to need; empty if that is not known."""
    return frozenset((run.provenance.data or {}).get("planted", ()))


def report(table: Table, runs: pd.DataFrame) -> Report:
    """Report the recall of every proxy's scores before training, and of each search's last ranks.

    Raises:
        RecordError: if no run has a task whose right sites are known.
    """
    rows = [
        {
            "rule": rule,
            "task": run.setting("task.name"),
            "sites": len(values),
            "right": len(planted(run)),
            "recall": recall(values, planted(run)),
        }
        for arm, label in _labeled(arms(runs[[bool(planted(run)) for run in runs["run"]]]))
        for run in arm.runs
        for rule, values in _rules(run, label)
    ]
    if not rows:
        raise RecordError(f"no run here is of a planted task; run make {table.name}")
    groups = pd.DataFrame(rows).groupby(["task", "rule", "sites", "right"], sort=False)["recall"]
    numbers = groups.agg(["count", "mean", "min", "max"]).reset_index()
    numbers["chance"] = numbers["right"] / numbers["sites"]
    numbers = numbers.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    shown = numbers[["rule", "task"]].assign(n=numbers["count"].astype(str))
    for column, name in (("mean", "recall"), ("min", "lowest"), ("max", "highest")):
        shown[name] = numbers[column].map(lambda value: text(value, ".2f"))
    shown["chance"] = [
        f"{row.chance:.2f} ({row.right} of {row.sites})" for row in numbers.itertuples()
    ]
    explanation = (
        "The fraction of planted sites among as many sites with the highest scores before "
        "training, or with the most ranks after the last search: the mean and range over n runs, "
        f"and the expectation of a random choice. {AFTER.capitalize()}: sites ranked by what "
        "leaving each out costs."
    )
    notes = [*unfinished(runs)]
    return Report(
        table.title, table.caption, [Section("Recall by rule", explanation, shown)], notes, numbers
    )


def _rules(run: Run, label: str) -> Iterator[tuple[str, pd.Series]]:
    """Yield each rule that a run has followed, and its value for each site."""
    for rule, found in sites([run]).groupby("search", sort=False):
        values = found.set_index("site")
        if isinstance(rule, int):
            if rule == len(run.searches) - 1:
                yield label, values["rank"]
        elif not run.searches:  # scored once per planting, at the budget's rank
            yield AFTER if rule == IMPORTANCE else f"{rule}, {BEFORE}", values["score"]


def _labeled(found: list[Arm]) -> list[tuple[Arm, str]]:
    """Pair arms with labels of what they do, whatever data they do it on."""
    return list(zip(found, labels([_apart_from_data(arm.settings) for arm in found]), strict=True))


def _apart_from_data(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key not in CONTENTS}
