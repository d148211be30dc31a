"""A table as data: its rows, and by which settings a run belongs to one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heterolora.reporting.load import Run


@dataclass(frozen=True)
class Entry:
    """One row of a table, or where it has columns of its own, one of their entries.

    Attributes:
        row: its name.
        settings: dotted keys of the configuration and the values that its runs have there.
        column: the column it stands in; empty where the columns are tasks.
        baseline: the label of the arm of equal budget that it is compared with.
        published: the paper's table and the row there.
        optional: whether it may be left out where neither it nor its row or column has runs.
    """

    row: str
    settings: Mapping[str, Any]
    column: str = ""
    baseline: str | None = None
    published: tuple[str, str] | None = None
    optional: bool = False

    @property
    def label(self) -> str:
        """What it is called outside the grid."""
        return f"{self.row}, {self.column}" if self.column else self.row

    def holds(self, run: Run) -> bool:
        """Whether `run` belongs to it."""
        return all(_same(run.setting(key), value) for key, value in self.settings.items())


@dataclass(frozen=True)
class Table:
    """The rows of a table and where their runs are.

    Attributes:
        name: of the experiment that makes its runs.
        title: its heading.
        caption: what its rows have in common, in words.
        arms: its rows, in order.
        tasks: those of the paper's table.
        borrows: experiments whose runs stand in for an arm that its own does not run.
        tuned: a key that is chosen for each arm by the half of the validation split that is not
            reported.
    """

    name: str
    title: str
    caption: str
    arms: tuple[Entry, ...]
    tasks: tuple[str, ...] = ()
    borrows: tuple[str, ...] = ()
    tuned: str | None = None

    def arm(self, label: str) -> Entry:
        """The arm called `label`."""
        return next(arm for arm in self.arms if arm.label == label)

    def control(self, arm: Entry) -> Entry | None:
        """Random allocation with otherwise the settings of `arm`; None where there is none."""
        proxy = arm.settings.get("proxy.name")
        if proxy in (None, "constant"):
            return None
        wanted = {key: v for key, v in arm.settings.items() if key != "proxy.weights"}
        wanted |= {"proxy.name": "constant"}
        return next((other for other in self.arms if other.settings == wanted), None)


def runs_of(table: Table, runs: Sequence[Run]) -> list[Run]:
    """The runs that `table` is made of.

    They are those of its own experiment, or of all where `runs` has none of it, as after a sweep
    that was written by hand; and borrowed ones for the arms that these do not have.
    """
    own = [run for run in runs if _of_experiment(run, table.name)] or list(runs)
    bare = [arm for arm in table.arms if not any(map(arm.holds, own))]
    others = [run for run in runs if any(_of_experiment(run, name) for name in table.borrows)]
    borrowed = [run for run in others if run not in own and any(arm.holds(run) for arm in bare)]
    return own + borrowed


def entries_shown(table: Table, runs: Sequence[Run]) -> list[Entry]:
    """The arms of `table`, less the optional ones whose row or column has no runs at all."""
    found = [arm for arm in table.arms if any(map(arm.holds, runs))]
    rows, columns = {arm.row for arm in found}, {arm.column for arm in found}
    return [
        arm for arm in table.arms if not arm.optional or (arm.row in rows and arm.column in columns)
    ]


def _of_experiment(run: Run, name: str) -> bool:
    """Whether a run is of experiment `name` or a part of it, such as `table2/as_printed`."""
    return re.match(rf"{re.escape(name)}(?![a-z0-9])", str(run.config["name"])) is not None


def _same(found: Any, wanted: Any) -> bool:
    """Equality; of lists, whatever their order."""
    if isinstance(found, Iterable) and isinstance(wanted, (list, tuple)):
        return sorted(found) == sorted(wanted)
    return bool(found == wanted)
