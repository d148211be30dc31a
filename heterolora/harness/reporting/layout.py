"""The `table` key of an experiment's YAML: its rows and columns, and the paper's numbers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from yaml import YAMLError

from heterolora.errors import ConfigError, one_line
from heterolora.harness.records.yaml_values import plain_values

if TYPE_CHECKING:
    from heterolora.harness.reporting.statistics import Spread

Settings = Mapping[str, Any]
"""Values by dotted key."""


class Spec(BaseModel):
    """A frozen part of the key; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(Spec):
    """One of the paper's numbers, in percent; None if it is not known.

    Attributes:
        printed: the mean that the paper prints.
        std: its sample standard deviation.
        logged: the best epoch of seeds 0, 13 and 42 in the authors' event logs.
        later: seed 0 in the authors' later logs, where they ran it again.
        summary: n, mean and sample standard deviation of the logs, where the seeds are not known.
    """

    printed: float | None = None
    std: float | None = None
    logged: tuple[float | None, ...] = ()
    later: float | None = None
    summary: tuple[int, float, float] | None = None

    @property
    def logs(self) -> "Spread | None":
        """The authors' logs of the entry, summarized; None if there are none."""
        from heterolora.harness.reporting.statistics import Spread, spread  # and SciPy

        if self.summary is not None:
            n, mean, std = self.summary
            return Spread(n, mean, std, mean)
        return spread([value for value in self.logged if value is not None])


class Frequency(Spec):
    """A panel of the paper's Figure 4: in what percentage of searches each role's sites are on."""

    where: Settings
    roles: Mapping[str, float]


class Paper(Spec):
    """What the paper and its authors' logs report for a table.

    Attributes:
        model: the name on the Hub of the model that the numbers are for.
        learning_rates: the learning rates of the logged runs, by task.
        remark: what a reader of the numbers must know.
        numbers: the numbers by row (`row, column` if there are columns), then by task.
        frequencies: the panels of Figure 4.
    """

    model: str
    learning_rates: Mapping[str, float] = {}
    remark: str | None = None
    numbers: Mapping[str, Mapping[str, Number]] = {}
    frequencies: tuple[Frequency, ...] = ()


class Row(Spec):
    """A row of a table.

    Attributes:
        where: the settings of its runs, besides those of all rows and of its columns.
        columns: the columns in which it has a cell; all if empty.
        baseline: the row with an equal budget that it is compared with, in the same column; or
            `row, column`.
        controls: the rows of random allocation that it is compared with, by their names in
            comparisons.
        optional: whether a cell is left out if its row or its column has no runs.
        others: the part of its name that is replaced by another proxy's name: each proxy that has
            runs but is in no row gets a row like this one.
    """

    where: Settings = {}
    columns: tuple[str, ...] = ()
    baseline: str | None = None
    controls: Mapping[str, str] = {}
    optional: bool = False
    others: str | None = None


@dataclass(frozen=True)
class Cell:
    """One place in a table: a row, or the part of a row in one column.

    Attributes:
        row: the name of the row.
        column: the name of the column; empty if the columns are tasks.
        where: the settings of its runs.
        against: the cells that it is compared with, by their role: `baseline` and the controls.
        optional: see `Row`.
    """

    row: str
    column: str
    where: Settings
    against: Mapping[str, str]
    optional: bool

    @property
    def label(self) -> str:
        """Its name outside the grid."""
        return f"{self.row}, {self.column}" if self.column else self.row


class Table(Spec):
    """A table: what it shows, and which runs belong where.

    Attributes:
        name: the experiment whose runs it shows.
        report: `rows`, or the special report that replaces them, which has none.
        title: the heading.
        caption: what its rows have in common.
        tasks: the tasks of the paper's table, in its order.
        where: the settings of the runs in all rows.
        columns: the settings of the runs in each column; without any, the columns are tasks.
        rows: the rows by name, in order.
        made_by: the command that makes its runs; `make NAME` if empty.
        borrows: experiments whose runs fill the cells for which it has none of its own.
        tuned: a key that is chosen for each row by the half of the validation split that is not
            reported.
        tuning_seeds: the seeds of the runs that choose it, which are not reported; the reported
            ones if empty.
        seeds: the reported seeds, for running the experiment; see scripts/study.py.
        family: the rows whose comparisons are corrected together; all if empty.
        stability: whether to show how alike the seeds of each row are.
        paper: the paper's numbers.
    """

    name: str
    report: Literal["rows", "importance", "recall"] = "rows"
    title: str
    caption: str
    tasks: tuple[str, ...] = ()
    where: Settings = {}
    columns: Mapping[str, Settings] = {}
    rows: Mapping[str, Row] = {}
    made_by: str = ""
    borrows: tuple[str, ...] = ()
    tuned: str | None = None
    tuning_seeds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    family: tuple[str, ...] = ()
    stability: bool = False
    paper: Paper | None = None

    @cached_property
    def cells(self) -> dict[str, Cell]:
        """Every cell by its label, row by row."""
        found = []
        for name, row in self.rows.items():
            for column in row.columns or [*self.columns] or [""]:
                where = {**self.where, **self.columns.get(column, {}), **row.where}
                against = dict(self._against(row, column))
                found.append(Cell(name, column, where, against, row.optional))
        return {cell.label: cell for cell in found}

    @property
    def again(self) -> str:
        """The command to run for what is missing."""
        return self.made_by or f"make {self.name}"

    @property
    def wheres(self) -> list[Settings]:
        """The settings of the runs of each cell."""
        return [cell.where for cell in self.cells.values()]

    def with_proxies(self, names: Iterable[str]) -> "Table":
        """Return this table with a row for each proxy that no row names; see `Row.others`."""
        known = {row.where.get("proxy.name") for row in self.rows.values()}
        rows: dict[str, Row] = dict(self.rows)
        for name, row in self.rows.items():
            for proxy in sorted({*names} - known) if row.others else ():
                change = {"where": {**row.where, "proxy.name": proxy}, "optional": True}
                rows[name.replace(row.others or "", proxy)] = row.model_copy(update=change)
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return Table(**{**fields, "rows": rows})  # a copy would keep cached cells

    def number(self, label: str, model: str, task: str) -> Number | None:
        """Return the paper's number for a cell; None if it has none, or is for another model."""
        if self.paper is None or model != self.paper.model:
            return None
        return self.paper.numbers.get(label, {}).get(task)

    def _against(self, row: Row, column: str) -> Iterator[tuple[str, str]]:
        """Yield the role and label of each comparison, except with rows that lack this column."""
        others = {"baseline": row.baseline} if row.baseline else {}
        for role, name in (others | dict(row.controls)).items():
            if name not in self.rows:
                yield role, name
            elif not column or column in (self.rows[name].columns or self.columns):
                yield role, f"{name}, {column}" if column else name

    @model_validator(mode="after")
    def _names_are_known(self) -> "Table":
        def check(place: str, names: Iterable[str], known: Iterable[str]) -> None:
            for name in names:
                if name not in known:
                    raise ValueError(
                        f"{place}: there is no {name!r}; choose from {'; '.join(known)}"
                    )

        if self.tuning_seeds and self.tuned is None:
            raise ValueError("tuning_seeds needs tuned, the key that they are for")
        if both := sorted({*self.tuning_seeds} & {*self.seeds}):
            raise ValueError(f"seeds: {both} are also tuning_seeds, which are not reported")
        if (self.report == "rows") != bool(self.rows):
            raise ValueError(
                f"report {self.report} {'must have no' if self.rows else 'needs'} rows"
            )
        check("family", self.family, self.rows)
        for name, row in self.rows.items():
            check(f"rows.{name}.columns", row.columns, self.columns)
        for cell in self.cells.values():
            check(f"rows.{cell.row}: baseline and controls", cell.against.values(), self.cells)
        check("paper.numbers", self.paper.numbers if self.paper else (), self.cells)
        return self


def experiments(folder: Path) -> dict[str, Path]:
    """Return the YAML file of every experiment, by name."""
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def frequencies(folder: Path) -> list[Frequency]:
    """Return the panels of the paper's Figure 4, whichever tables have them."""
    papers = [read(file).paper for file in experiments(folder).values()]
    return [panel for paper in papers if paper for panel in paper.frequencies]


def read(file: Path) -> Table:
    """Read the table of an experiment, with what it inherits from those in its `defaults`.

    Raises:
        ConfigError: if the file has no table, or one that breaks its rules; a line per problem.
    """
    try:
        return Table.model_validate({**_content(file), "name": file.stem})
    except (
        OSError,
        UnicodeDecodeError,
        YAMLError,
        OmegaConfBaseException,
        RecursionError,
    ) as error:
        raise ConfigError([f"{file}: cannot be read ({one_line(error)})"]) from error
    except (KeyError, TypeError) as error:
        remedy = "add a top-level key table with title and rows"
        raise ConfigError([f"{file}: has no table; {remedy}"]) from error
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            place = ".".join(map(str, ("table", *detail["loc"])))
            message = detail["msg"].removeprefix("Value error, ")
            problems.append(f"{file}: {place}: {message[:1].lower()}{message[1:]}")
        raise ConfigError(problems) from error


def _content(file: Path) -> dict[str, Any]:
    """Return the `table` key of an experiment as Hydra composes it, in a thousandth of its time."""
    content = plain_values(file.read_text(encoding="utf-8"))
    table: dict[str, Any] = {}
    for base in content.get("defaults", ()):
        # An experiment beside it; what is chosen from other groups is a mapping.
        if isinstance(base, str) and base != "_self_":
            table = _merged(table, _content(file.with_name(f"{base}.yaml")))
    return _merged(table, content["table"])


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `own` in place of its own, also within nested mappings."""
    found = {**base}
    for key, value in own.items():
        nested = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        found[key] = _merged(base[key], value) if nested else value
    return found
