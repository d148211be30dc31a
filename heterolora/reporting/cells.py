"""The cells of a table: the runs of one row over seeds, and what must be known about them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Any

from heterolora.reporting import published
from heterolora.reporting.entries import Entry, Table, entries_shown
from heterolora.reporting.load import Run
from heterolora.reporting.published import SEEDS, Number
from heterolora.reporting.statistics import Spread, spread

APART = (
    *("seed", "name", "output", "rerun", "offline", "runs_per_job", "checkpoint", "tracking"),
    "training.log_every",
)
"""Settings in which runs of one cell may differ."""
OF_ARMS = ("strategy", "proxy", "search_space", "rank_budget")
"""Sections in which rows differ on purpose."""
ORIGINS = {
    "code commit": ("code", "commit"),
    "uncommitted changes": ("code", "dirty"),
    "torch": ("packages", "torch"),
    "transformers": ("packages", "transformers"),
    "device name": ("hardware", "device_name"),
}
"""What is read of `provenance.json`."""


@dataclass(frozen=True)
class Cost:
    """What a row costs: medians over its runs.

    Attributes:
        training: seconds.
        searching: seconds.
        evaluating: seconds.
        overhead: searching / (training + evaluating), in percent.
        peak_memory: the most bytes that any of the runs had.
    """

    training: float
    searching: float
    evaluating: float
    overhead: float | None
    peak_memory: int


@dataclass(frozen=True)
class Searches:
    """How decisive the searches of a row were.

    Attributes:
        total: how many its runs made.
        degenerate: those in which all scores were equal.
        tied: those of the others whose cut fell among equal scores.
    """

    total: int
    degenerate: int
    tied: int


@dataclass(frozen=True)
class Cell:
    """The finished runs of one arm, model and task."""

    arm: Entry
    model: str
    task: str
    runs: tuple[Run, ...]

    @cached_property
    def by_seed(self) -> Mapping[int, float]:
        """The best epoch of each seed, in percent; the mean where a seed has several runs."""
        return _by_seed(self.runs, lambda run: run.best)

    @cached_property
    def best(self) -> Spread | None:
        """The paper's statistic: over seeds, the best epoch."""
        return spread(list(self.by_seed.values()))

    @cached_property
    def last(self) -> Spread | None:
        """Over seeds, the last epoch."""
        return spread(list(_by_seed(self.runs, lambda run: run.last).values()))

    @property
    def missing(self) -> tuple[int, ...]:
        """Which of the paper's seeds have no finished run."""
        return tuple(seed for seed in SEEDS if seed not in self.by_seed)

    @property
    def published(self) -> Number | None:
        """The paper's number, where the setting is the paper's."""
        if self.arm.published is None:
            return None
        return published.find(*self.arm.published, self.model, self.task)

    @property
    def parameters(self) -> int | None:
        """Adapter parameters that are on at the end, the median over runs."""
        counts = [run.result["parameters"]["enabled"] for run in self.runs]
        return round(median(counts)) if counts else None

    @cached_property
    def cost(self) -> Cost | None:
        """None where there are no runs."""
        if not self.runs:
            return None
        training, searching, evaluating = (
            [float(run.result["seconds"][name]) for run in self.runs]
            for name in ("training", "searching", "evaluating")
        )
        rest = [sum(pair) for pair in zip(training, evaluating, strict=True)]
        shares = [100 * s / r for s, r in zip(searching, rest, strict=True) if r > 0]
        return Cost(
            median(training),
            median(searching),
            median(evaluating),
            median(shares) if shares else None,
            max(int(run.result["peak_memory_bytes"]) for run in self.runs),
        )

    @cached_property
    def searches(self) -> Searches:
        """Counted over its runs."""
        rows = [row for run in self.runs for row in run.searches]
        degenerate = sum(bool(row["degenerate"]) for row in rows)
        tied = sum(bool(row["tied"]) and not row["degenerate"] for row in rows)
        return Searches(len(rows), degenerate, tied)


def cells_of(table: Table, runs: Sequence[Run]) -> list[Cell]:
    """A cell for every arm of `table` that is shown, and every model and task that has runs.

    Args:
        table: the table.
        runs: its runs, finished or not.
    """
    known = [run for run in runs if any(arm.holds(run) for arm in table.arms)]
    arms = entries_shown(table, known)
    cells = []
    for model, task in _places(table, known):
        here = [run for run in known if run.finished and _place(run) == (model, task)]
        for arm in arms:
            cells.append(Cell(arm, model, task, tuple(filter(arm.holds, here))))
    return cells


def mixed(runs: Sequence[Run]) -> dict[str, dict[Any, list[int]]]:
    """The settings and origins in which `runs` differ though only their seeds should.

    Returns:
        For each such key, its values and the seeds that have them.
    """
    traits = [_traits(run) for run in runs]
    keys = list(dict.fromkeys(key for trait in traits for key in trait))
    found: dict[str, dict[Any, list[int]]] = {}
    for key in keys:
        values: dict[Any, list[int]] = {}
        for run, trait in zip(runs, traits, strict=True):
            values.setdefault(trait.get(key), []).append(run.seed)
        if len(values) > 1:
            found[key] = {value: sorted(seeds) for value, seeds in values.items()}
    return found


def flags(cell: Cell) -> list[str]:
    """What makes the runs of a cell unequal, in words; nothing where they are alike."""
    said = []
    for key, values in mixed(cell.runs).items():
        parts = [f"{_shown(value)} (seed {_listed(s)})" for value, s in values.items()]
        said.append(f"mixed {key}: {'; '.join(parts)}")
    seeds = [run.seed for run in cell.runs]
    for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        said.append(f"seed {seed} has {seeds.count(seed)} runs, whose mean is counted once")
    return said


def unequal_rows(cells: Sequence[Cell], tuned: str | None) -> list[str]:
    """What differs between rows of one model and task, beside what makes them rows.

    Args:
        cells: those of one model and task.
        tuned: a key that may differ because it was chosen for each row.
    """
    values: dict[str, dict[Any, list[str]]] = {}
    for cell in cells:
        own = mixed(cell.runs)
        for run in cell.runs:
            for key, value in _traits(run).items():
                if key in own or key == tuned or key.split(".")[0] in OF_ARMS:
                    continue
                labels = values.setdefault(key, {}).setdefault(value, [])
                if cell.arm.label not in labels:
                    labels.append(cell.arm.label)
    said = []
    for key, by_value in values.items():
        if len(by_value) > 1:
            *few, most = sorted(by_value, key=lambda value: len(by_value[value]))
            parts = [f"{_shown(value)} in {'; '.join(by_value[value])}" for value in few]
            said.append(f"rows differ in {key}: {', '.join(parts)}, {_shown(most)} in the others")
    return said


def _traits(run: Run) -> dict[str, Any]:
    """Everything that should be equal in runs of one cell."""
    settings = {
        key: value
        for key, value in _flat(run.config)
        if key not in APART and key.split(".")[0] not in APART
    }
    # One GPU of a machine is as good as the next.
    settings["device"] = str(run.setting("device")).split(":")[0]
    for name, (section, key) in ORIGINS.items():
        settings[name] = _origin(run, section, key)
    return settings


def _origin(run: Run, section: str, key: str) -> Any:
    """What `provenance.json` says; of a run that went on with something else, all in turn."""
    parts = [run.provenance, *run.provenance.get("resumed", [])]
    values = list(dict.fromkeys(part[section].get(key) for part in parts if section in part))
    return " then ".join(map(_shown, values)) if len(values) > 1 else next(iter(values), None)


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every dotted key and its value; lists as tuples."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        else:
            yield key, tuple(value) if isinstance(value, list) else value


def _places(table: Table, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Each model and task of `runs`: the paper's tasks first, in its order."""

    def order(place: tuple[str, str]) -> tuple[str, int, str]:
        model, task = place
        known = table.tasks.index(task) if task in table.tasks else len(table.tasks)
        return model, known, task

    return sorted({_place(run) for run in runs}, key=order)


def _place(run: Run) -> tuple[str, str]:
    return str(run.setting("model.name")), str(run.setting("task.name"))


def _by_seed(runs: Sequence[Run], number: Callable[[Run], float]) -> dict[int, float]:
    seeds = sorted({run.seed for run in runs})
    return {seed: fmean(number(run) for run in runs if run.seed == seed) for seed in seeds}


def _shown(value: Any) -> str:
    words = {None: "unknown", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)[:12] if isinstance(value, str) and len(value) == 40 else str(value)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
