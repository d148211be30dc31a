"""The frame of runs: one row for each, of which tables, diagnostics and figures are made."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from heterolora.config.identity import BY_FINGERPRINT, NOT_IN_IDENTITY, without
from heterolora.records.read import Run

Settings = Mapping[str, Any]
"""Values by dotted key."""

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
"""What runs should have in common of their provenance."""

ALWAYS = ["run", "status", "identity", "name", "seed", "model.name", "task.name"]
"""Columns that a frame without runs has too."""


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values by dotted key; lists as tuples."""
    (found,) = pd.json_normalize(dict(values)).to_dict("records")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run.

    The columns are its settings by dotted key, None where it has no such key; `run`, the record;
    `status`, `identity`; `best` and `last`, its metric in percent at the best and at the last
    epoch; `selection`, the metric that chose the best epoch; and the numbers of `run.json`, such as
    `seconds.training`.
    """
    rows = [{**flat(run.config), **_result(run), "run": run} for run in runs]
    made = pd.DataFrame(rows, dtype=object, columns=None if rows else ALWAYS)
    return made.where(made.notna(), None)


def matching(runs: pd.DataFrame, where: Settings) -> pd.Series:
    """Which rows have the values that `where` asks for, those of a list in any order."""
    found = pd.Series(True, index=runs.index)
    for key, wanted in where.items():
        column = runs.get(key, pd.Series(None, index=runs.index, dtype=object))
        found &= column.map(_in_any_order) == _in_any_order(wanted)
    return found


def finished(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose numbers are final."""
    return runs[runs["status"] == "finished"]


def shaping(run: Run) -> dict[str, Any]:
    """The settings that shape a run's numbers, the seed and the place of model and data apart."""
    return flat(without(without(run.config, NOT_IN_IDENTITY), BY_FINGERPRINT))


def traits(runs: pd.DataFrame) -> pd.DataFrame:
    """As text, what should be equal in runs that differ in the seed alone."""
    rows = []
    for run in runs["run"]:
        origin = run.provenance.row()
        parts = [flat(part) for part in (origin, *origin.get("resumed", []))]
        # One GPU of a machine is as good as the next.
        row = shaping(run) | {"device": str(run.setting("device")).split(":")[0]}
        rows.append(row | {name: _in_turn(parts, key) for name, key in ORIGINS.items()})
    return pd.DataFrame(rows, index=runs.index, dtype=object).map(shown)


def mixed(runs: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
    """The traits in which `runs` differ: for each its values, and the seeds that have them."""
    values = traits(runs)
    return {
        key: runs["seed"].groupby(values[key], sort=False).apply(sorted).to_dict()
        for key in values.columns[values.nunique() > 1]
    }


def shown(value: Any) -> str:
    """A value for a reader: a commit in short, None as unknown."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return value[:12] if isinstance(value, str) and len(value) >= 40 else str(value)


def _result(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"status": run.result.status, "identity": run.result.identity}
    if run.finished:
        row |= flat(run.result.model_dump(include={"parameters", "seconds", "peak_memory_bytes"}))
        assert run.result.best is not None
        selection = 100 * run.result.best.metrics[run.config["task"]["metrics"][0]]
        row |= {"best": run.best, "last": run.last, "selection": selection}
    return row


def _in_turn(parts: Sequence[Settings], key: str) -> Any:
    """A value of the provenance; of a run that went on with another, all in turn."""
    values = list(dict.fromkeys(part[key] for part in parts if key in part))
    return " then ".join(map(shown, values)) if len(values) > 1 else next(iter(values), None)


def _in_any_order(value: Any) -> Any:
    return frozenset(value) if isinstance(value, (list, tuple)) else value
