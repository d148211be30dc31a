"""The `table` key of an experiment's YAML: its rows and columns, and the paper's numbers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from yaml import YAMLError

from heterolora.errors import ConfigError, one_line
from heterolora.reporting.frame import Settings
from heterolora.reporting.statistics import Spread, spread


class Spec(BaseModel):
    """A frozen part of the key; a key it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(Spec):
    """One of the paper's numbers, in percent; None is one that is not known.

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
    def logs(self) -> Spread | None:
        """What the logs say of the cell; None where there are none."""
        if self.summary is not None:
            n, mean, std = self.summary
            return Spread(n, mean, std, mean)
        return spread([value for value in self.logged if value is not None])


class Frequency(Spec):
    """A panel of the paper's Figure 4: percent of the searches that switched on a role's sites."""

    where: Settings
    roles: Mapping[str, float]


class Paper(Spec):
    """What the paper and its authors' logs say of a table.

    Attributes:
        model: the hub name of the model that the numbers are of.
        learning_rates: of the logged runs, by task.
        remark: what a reader of the numbers must know.
        numbers: by row (`row, column` where there are columns), then by task.
        frequencies: of Figure 4.
    """

    model: str
    learning_rates: Mapping[str, float] = {}
    remark: str | None = None
    numbers: Mapping[str, Mapping[str, Number]] = {}
    frequencies: tuple[Frequency, ...] = ()


class Row(Spec):
    """A row of a table.

    Attributes:
        where: what its runs have, beside what those of all rows and of its columns have.
        columns: the columns in which it has an entry; all where it names none.
        baseline: the row of equal budget that it is compared with, in the same column; or
            `row, column`.
        controls: the rows of random allocation that it is compared with, by what a comparison
            calls them.
        optional: whether it is left out where neither it nor its row or column has runs.
        others: the part of its name in whose place another proxy's is put, for each proxy that has
            runs and is in no row: that gets a row like this one.
    """

    where: Settings = {}
    columns: tuple[str, ...] = ()
    baseline: str | None = None
    controls: Mapping[str, str] = {}
    optional: bool = False
    others: str | None = None


@dataclass(frozen=True)
class Entry:
    """What belongs in one place of a table: a row, or its part in one column.

    Attributes:
        row: the row's name.
        column: the column's; empty where the columns are tasks.
        where: what its runs have.
        against: the entries that it is compared with, by their role: `baseline` and the controls.
        optional: see `Row`.
    """

    row: str
    column: str
    where: Settings
    against: Mapping[str, str]
    optional: bool

    @property
    def label(self) -> str:
        """What it is called outside the grid."""
        return f"{self.row}, {self.column}" if self.column else self.row


class Table(Spec):
    """A table: what it shows, and which runs belong where.

    Attributes:
        name: of the experiment whose runs it shows.
        report: `rows`, or the special report that takes their place, which has none.
        title: its heading.
        caption: what its rows have in common.
        tasks: those of the paper's table, in its order.
        where: what the runs of all rows have.
        columns: the same for each column; without any, tasks stand across.
        rows: by name, in order.
        made_by: the command that makes its runs; `make NAME` if empty.
        borrows: experiments whose runs fill the entries for which its own has none.
        tuned: a key that is chosen for each row by the half of the validation split that is not
            reported.
        tuning_seeds: whose runs choose it, and are not reported; the reported ones if none.
        seeds: what is reported, for who runs the experiment; see `heterolora.cli.study`.
        stability: whether to show how alike the seeds of each row are.
        paper: its numbers.
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
    stability: bool = False
    paper: Paper | None = None

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """Every entry by its label, row by row."""
        found = []
        for name, row in self.rows.items():
            for column in row.columns or [*self.columns] or [""]:
                where = {**self.where, **self.columns.get(column, {}), **row.where}
                against = dict(self._against(row, column))
                found.append(Entry(name, column, where, against, row.optional))
        return {entry.label: entry for entry in found}

    @property
    def again(self) -> str:
        """What is to be run for what is missing."""
        return self.made_by or f"make {self.name}"

    @property
    def wheres(self) -> list[Settings]:
        """What the runs of each entry have."""
        return [entry.where for entry in self.entries.values()]

    def with_proxies(self, names: Iterable[str]) -> "Table":
        """This table with a row for each proxy that no row names; see `Row.others`."""
        known = {row.where.get("proxy.name") for row in self.rows.values()}
        rows: dict[str, Row] = dict(self.rows)
        for name, row in self.rows.items():
            for proxy in sorted({*names} - known) if row.others else ():
                change = {"where": {**row.where, "proxy.name": proxy}, "optional": True}
                rows[name.replace(row.others or "", proxy)] = row.model_copy(update=change)
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return Table(**{**fields, "rows": rows})  # a copy would have the entries of this one

    def number(self, label: str, model: str, task: str) -> Number | None:
        """The paper's number for an entry; None where it has none, or is of another model."""
        if self.paper is None or model != self.paper.model:
            return None
        return self.paper.numbers.get(label, {}).get(task)

    def _against(self, row: Row, column: str) -> Iterator[tuple[str, str]]:
        """The label of each comparison; one with a row that this column lacks is left out."""
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
        for name, row in self.rows.items():
            check(f"rows.{name}.columns", row.columns, self.columns)
        for entry in self.entries.values():
            check(f"rows.{entry.row}: baseline and controls", entry.against.values(), self.entries)
        check("paper.numbers", self.paper.numbers if self.paper else (), self.entries)
        return self


def experiments(folder: Path) -> dict[str, Path]:
    """The YAML of every experiment, by name."""
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def frequencies(folder: Path) -> list[Frequency]:
    """The panels of the paper's Figure 4, whichever tables have them."""
    papers = [read(file).paper for file in experiments(folder).values()]
    return [panel for paper in papers if paper for panel in paper.frequencies]


def read(file: Path) -> Table:
    """The table of an experiment.

    Raises:
        ConfigError: if the file has none, or one that breaks its rules; a line for each problem.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
        return Table.model_validate({**content["table"], "name": file.stem})
    except (OSError, YAMLError, OmegaConfBaseException) as error:
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
