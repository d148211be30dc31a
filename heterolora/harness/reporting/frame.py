"""The frame of runs, one row per run, from which tables, diagnostics and figures are made."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from heterolora.harness.config.identity import shaping_settings
from heterolora.harness.records.read import Run, flat
from heterolora.harness.reporting.layout import Settings, Table

ORIGINS: Mapping[str, str] = {
    "code commit": "code.commit",
    "uncommitted changes": "code.dirty",
    "torch": "packages.torch",
    "transformers": "packages.transformers",
    "device name": "hardware.device_name",
    "model": "model.fingerprint",
    "training data": "data.train.fingerprint",
    "validation data": "data.validation.fingerprint",
}
"""The parts of their provenance that runs should have in common."""

ALWAYS = ["run", "status", "identity", "name", "seed", "model.name", "task.name"]
"""Columns that exist even in a frame without runs."""


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a frame with a row for each run.

    The columns are its settings by dotted key, None if it lacks a key; `run`, the record; `status`
    and `identity`; `best` and `last`, its metric in its unit at the best and at the last epoch;
    `test`, the best epoch's metric on a test split, if a run has one; `selection`, the metric that
    chose the best epoch; and the numbers of `run.json`, such as `seconds.training`.
    """
    rows = []
    for run in runs:
        result = run.result
        row = flat(run.config) | {"run": run, "status": result.status, "identity": result.identity}
        if run.finished:
            row |= flat(result.model_dump(include={"parameters", "seconds", "peak_memory_bytes"}))
            row |= {"best": run.best, "last": run.last, "selection": run.selection}
            if run.test is not None:
                row["test"] = run.test
        rows.append(row)
    made = pd.DataFrame(rows, dtype=object, columns=None if rows else ALWAYS)
    return made.where(made.notna(), None)


def matching(runs: pd.DataFrame, *wanted: Settings) -> pd.Series:
    """Return which rows have all the values of one of `wanted`; lists compare in any order."""
    asked = [{key: in_any_order(value) for key, value in where.items()} for where in wanted]
    keys = dict.fromkeys(key for where in asked for key in where)
    known = {key: runs[key].tolist() for key in keys if key in runs}
    rows = [
        {key: in_any_order(known[key][row]) if key in known else None for key in keys}
        for row in range(len(runs))
    ]
    found = [any(where.items() <= row.items() for where in asked) for row in rows]
    return pd.Series(found, index=runs.index, dtype=bool)


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose numbers are final."""
    return runs[runs["status"] == "finished"]


def unfinished(runs: pd.DataFrame) -> Iterator[str]:
    """Yield the runs that are not counted, and why."""
    for run in runs["run"]:
        if not run.finished:
            reason = run.result.error or "it is still running, or was killed"
            yield f"not counted, {run.result.status}: {run.directory}: {reason}"


def runs_of(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that `table` is made of.

    They are those of its own experiment, or all runs if there are none of it, as after a
    hand-written sweep; and borrowed runs for the cells that these do not fill.
    """
    if runs.empty:
        return runs
    names = runs["name"].astype(str).str.partition("/")[0]
    own = runs[names == table.name]
    own = runs if own.empty else own
    if table.report != "rows":
        return own
    others = runs[names.isin(table.borrows) & ~runs.index.isin(own.index)]
    unfilled = [where for where in table.wheres if not matching(own, where).any()]
    return pd.concat([own, others[matching(others, *unfilled)]])


def reported(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs without those whose seeds are only for tuning."""
    return runs[~runs["seed"].isin(table.tuning_seeds)]


def shaping(run: Run) -> dict[str, Any]:
    """Return the settings that determine a run's numbers, without seed and paths."""
    return flat(shaping_settings(run.config))


def traits(runs: pd.DataFrame) -> pd.DataFrame:
    """Return as text what should be equal in runs that differ only in the seed; NaN if missing."""
    rows = []
    for run in runs["run"]:
        row = {key: shown(value) for key, value in shaping(run).items()}
        # The GPUs of a machine are interchangeable.
        row["device"] = str(run.setting("device")).split(":")[0]
        origin = run.provenance.row()
        parts = [flat(part) for part in (origin, *origin.get("resumed", []))]
        for name, key in ORIGINS.items():
            # If a resumed run used another value, list all of them in order.
            values = dict.fromkeys(part[key] for part in parts if key in part)
            row[name] = " then ".join(map(shown, values or [None]))
        rows.append(row)
    return pd.DataFrame(rows, index=runs.index)


def mixed(runs: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
    """Return the traits in which `runs` differ: for each, its values and the seeds with them."""
    if len(runs) < 2:
        return {}
    values = traits(runs).fillna("unknown")
    return {
        key: runs["seed"].groupby(values[key], sort=False).apply(sorted).to_dict()
        for key in values.columns[values.nunique() > 1]
    }


def shown(value: Any) -> str:
    """Format a value for a reader: abbreviate a commit, show None as unknown."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return value[:12] if isinstance(value, str) and len(value) >= 40 else str(value)


def listed(numbers: Iterable[int]) -> str:
    """Join numbers, such as `0, 13, 42`."""
    return ", ".join(map(str, numbers))


def in_any_order(value: Any) -> Any:
    """Return a list as a set, for comparison; anything else unchanged."""
    return frozenset(value) if isinstance(value, (list, tuple)) else value
