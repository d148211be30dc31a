"""What a sweep says of itself: its plan, how it ended or was interrupted, and how to report it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from heterolora.harness.cli.sweeps import slurm
from heterolora.harness.cli.sweeps.jobs import Row, outcomes, row_of
from heterolora.harness.loggers.progress import PLAIN, counted
from heterolora.harness.paths import CONF, INSTALLED
from heterolora.harness.records import schema

SHARED = {
    "model": ("model.path", "model.name"),
    "task": ("task.name",),
    "device": ("device",),
    "precision": ("precision",),
}
"""What the first line of a plan says of all runs: the first of these keys that has a value."""


def differing(combinations: Sequence[Sequence[str]]) -> list[str]:
    """Of the overrides of each run those that not all runs have."""
    common = set(combinations[0]).intersection(*combinations[1:]) if combinations else set()
    return [" ".join(one for one in given if one not in common) for given in combinations]


def show_plan(console: Console, runs: Sequence[Row], known: Mapping[int, Row], output: str) -> None:
    """Print how many runs there are, and a line for each: what is its own, and what is known of it.

    Args:
        console: where.
        runs: of the plan.
        known: the row of the summary of each run that is not launched, such as a finished one.
        output: the folder of all records.
    """
    done = sum(row["status"] == "skipped" for row in known.values())
    away = len(known) - done
    elsewhere = f", {away} running or queued elsewhere" if away else ""
    console.print(
        f"sweep of {counted(len(runs), 'run')}: {done} already finished{elsewhere}, "
        f"{len(runs) - len(known)} to run; {_shared([run['config'] for run in runs])}; records in "
        f"{output}",
        **PLAIN,
    )
    width = max((len(run["differs"]) for run in runs), default=0)
    for index, run in enumerate(runs):
        said = _standing(run, known.get(index))
        number = f"run {index + 1}".rjust(len(f"run {len(runs)}"))
        console.print(f"  {number}  {run['differs']:<{width}}  {said}".rstrip(), **PLAIN)


def _standing(run: Row, known: Row | None) -> str:
    """What is known of a run before the sweep: nothing of one that is to begin."""
    if known is not None:
        status: str = known["status"]
        return "already finished" if status == "skipped" else status
    states = Path(run["directory"] or "") / schema.CHECKPOINT / "resume"
    begun = run["directory"] is not None and any(states.glob("step-*"))
    return "interrupted, will resume" if begun and not run["config"]["rerun"] else ""


def _shared(configs: Sequence[Mapping[str, Any]]) -> str:
    """Model, task, device and precision, with every value that they have."""
    made = [OmegaConf.create(dict(config)) for config in configs]
    values = {
        name: dict.fromkeys(
            str(next(filter(None, (OmegaConf.select(one, key) for key in keys)), None))
            for one in made
        )
        for name, keys in SHARED.items()
    }
    return ", ".join(f"{name} {' and '.join(found)}" for name, found in values.items())


def summarize(console: Console, folder: Path) -> int:
    """Print a line for each run of a sweep, how to report them, and how many ended in which way.

    Returns:
        The exit code: 0 if none of them failed.
    """
    rows, plan = outcomes(folder), json.loads((folder / slurm.PLAN).read_text())
    for index, planned in enumerate(plan["runs"]):
        said = f"its job ended without a result; see {folder}/.submitit"
        rows.setdefault(index, row_of("lost", planned["overrides"], said, 1))
    console.print()
    for index, row in sorted(rows.items()):
        number = f"run {index + 1}".ljust(len(f"run {len(rows)}"))
        console.print(f"{row['status']:<8}  {number}  {row['what']}  {row['said']}", **PLAIN)
    counts = dict.fromkeys(("finished", "skipped", "failed"), 0)
    for row in rows.values():
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    if counts["finished"] or counts["skipped"]:
        command = report_command([run["config"] for run in plan["runs"]])
        console.print(f"report the finished runs with: {command}", **PLAIN)
    if any(row["exit_code"] for row in rows.values()):
        console.print("run the same command again to run what is missing", **PLAIN)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{counted(len(rows), 'run')}: {told}", **PLAIN)
    # A bug (1) is worse than what a user can put right (2).
    return min({row["exit_code"] for row in rows.values()} - {0}, default=0)


def report_command(configs: Sequence[Mapping[str, Any]]) -> str:
    """The command that reports the runs of a sweep."""
    output = str(configs[0]["output"])
    # Experiments have names such as `table4/part`, of which the first part is the folder.
    names = {Path(str(config["name"])).parts[0] for config in configs}
    folder = str(Path(output, *names)) if len(names) == 1 else output
    return shlex.join([*_program(), folder])


def _program() -> list[str]:
    script = Path("scripts", "report.py")
    if INSTALLED:
        return ["heterolora-report"]
    return ["python", str(script if script.is_file() else CONF.parent / script)]


def stopped(folder: Path) -> str:
    """What to say of a sweep that was interrupted: which of its runs are saved, and at which step.

    Args:
        folder: of the sweep.
    """
    again = "run the same command again to resume"
    total = len(json.loads((folder / slurm.PLAN).read_text())["runs"])
    rows = outcomes(folder)
    done = sum(row["status"] in ("finished", "skipped") for row in rows.values())
    said = {index + 1: row["said"] for index, row in rows.items() if row["status"] == "interrupted"}
    if len(said) > 1:  # where the states are is said once
        said = {number: where.partition(";")[0] for number, where in said.items()}
        again = f"the state of each is saved in checkpoint/resume in its record; {again}"
    runs = ", ".join(f"run {number} {where}" for number, where in said.items())
    return f" with {done} of {counted(total, 'run')} finished{runs and ', '}{runs}; {again}"
