"""A table of a user's own sweep, whose rows are told apart by what varies."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from heterolora.errors import RecordError
from heterolora.harness.records.schema import CONTROL
from heterolora.harness.reporting.arms import CONTENTS, Arm, arms, labels
from heterolora.harness.reporting.frame import shaping
from heterolora.harness.reporting.layout import Row, Settings, Table

DATA = ("model", "task")
"""Sections that tell cells of one row apart: tasks stand side by side."""


def own_table(runs: pd.DataFrame, others: Sequence[str] = ()) -> Table:
    """Make a table of runs that no experiment describes: a row for each arm, whatever its data.

    A row is compared with the homogeneous row of the same budget, and a searched row also with a
    row of random allocation of the same budget; in each case with the one that differs from it in
    the fewest settings.

    Args:
        runs: the frame of runs.
        others: experiments whose runs are in the same folder but not in the table.

    Raises:
        RecordError: if none of the runs is finished.
    """
    found = arms(runs)
    if not found:
        raise RecordError(
            "none of the runs here has finished; run the same command again to finish them"
        )
    settings: dict[str, Settings] = {}
    of_label: dict[str, list[Arm]] = {}
    for arm, label in zip(found, labels([_named(arm) for arm in found]), strict=True):
        settings.setdefault(label, _apart_from_data(shaping(arm.runs[0])))
        of_label.setdefault(label, []).append(arm)
    varying = _varying(settings.values())
    rows = {
        label: _row(label, settings, varying, pd.concat([arm.frame for arm in of_label[label]]))
        for label in settings
    }
    caption = "One row per combination of settings; the runs of a row differ in their seed."
    if others:
        caption += f" Runs of {', '.join(others)} are in other tables: choose one with --table."
    names = ", ".join(sorted({str(name) for name in runs["name"]}))
    return Table(
        name=names, title=f"Runs of {names}", caption=caption, made_by="the same command", rows=rows
    )


def _row(
    label: str, settings: Mapping[str, Settings], varying: Sequence[str], runs: pd.DataFrame
) -> Row:
    own = settings[label]
    peers = {
        name: other
        for name, other in settings.items()
        if name != label and _budget(other) == _budget(own)
    }
    homogeneous = [name for name, other in peers.items() if _is_homogeneous(other)]
    random = [name for name, other in peers.items() if other.get("proxy.name") == CONTROL]
    searched = not _is_homogeneous(own) and own.get("proxy.name") not in (None, CONTROL)

    def nearest(names: Sequence[str]) -> str | None:
        def apart(name: str) -> int:
            return sum(settings[name].get(key) != own.get(key) for key in varying)

        return min(names, key=apart, default=None)

    baseline = None if _is_homogeneous(own) else nearest(homogeneous)
    control = nearest(random) if searched else None
    where = {key: own[key] for key in varying if key in own}
    # Settings that runs of other arms have and these lack.
    where |= {key: None for key in varying if key not in own and runs[key].isna().all()}
    controls = {"random": control} if control else {}
    return Row(where=where, baseline=baseline, controls=controls, optional=True)


def _varying(settings: Iterable[Settings]) -> list[str]:
    every = [*settings]
    keys = dict.fromkeys(key for one in every for key in one)
    return [key for key in keys if len({repr(one.get(key)) for one in every}) > 1]


def _named(arm: Arm) -> dict[str, Any]:
    """Return the settings by which an arm is labeled."""
    own = _apart_from_data(arm.settings)
    return {key: value for key, value in own.items() if key not in CONTENTS}


def _apart_from_data(settings: Settings) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in DATA}


def _budget(settings: Settings) -> list[Any]:
    return [value for key, value in settings.items() if key.startswith("rank_budget.")]


def _is_homogeneous(settings: Settings) -> bool:
    return settings.get("strategy.name") == "homogeneous"
