"""What a sweep prints: its plan, how its runs ended, and the command that reports them."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from heterolora.harness.loggers.progress import PLAIN, counted
from heterolora.harness.paths import CONF, INSTALLED
from heterolora.harness.records import schema
from heterolora.harness.records.schema import OutcomeRow, PlannedRun
from heterolora.harness.records.sweep import SweepRecord
from heterolora.harness.runs.signals import Standing

SHARED = {
    "model": ("model.path", "model.name"),
    "task": ("task.name",),
    "device": ("device",),
    "precision": ("precision",),
}
"""The labels on the first line, with their keys; the first key that is set is shown."""


def show_plan(
    console: Console, runs: Sequence[PlannedRun], known: Mapping[int, OutcomeRow], output: str
) -> None:
    """Print how many runs there are, and a line for each with what is known of it.

    Args:
        console: where it is printed.
        runs: the runs of the plan.
        known: the outcomes of the runs that are not launched, by index.
        output: the folder of all records.
    """
    done = sum(outcome.status == "skipped" for outcome in known.values())
    away = len(known) - done
    elsewhere = f", {away} running or queued elsewhere" if away else ""
    console.print(
        f"sweep of {counted(len(runs), 'run')}: {done} already finished{elsewhere}, "
        f"{len(runs) - len(known)} to run; {_shared([run.config for run in runs])}; records in "
        f"{output}",
        **PLAIN,
    )
    width = max((len(run.differs) for run in runs), default=0)
    for index, run in enumerate(runs):
        number = f"run {index + 1}".rjust(len(f"run {len(runs)}"))
        line = f"  {number}  {run.differs:<{width}}  {_state(run, known.get(index))}"
        console.print(line.rstrip(), **PLAIN)


def _state(run: PlannedRun, known: OutcomeRow | None) -> str:
    """Return what is known of a run before the sweep; empty for one that is to begin."""
    if known is not None:
        return "already finished" if known.status == "skipped" else known.status
    states = Path(run.directory or "") / schema.CHECKPOINT / "resume"
    begun = run.directory is not None and any(states.glob("step-*"))
    return "interrupted, will resume" if begun and not run.config["rerun"] else ""


def _shared(configs: Sequence[Mapping[str, Any]]) -> str:
    """Return model, task, device and precision of all runs, with every value that they have."""
    nodes = [OmegaConf.create(dict(config)) for config in configs]
    values = {
        name: dict.fromkeys(
            str(next(filter(None, (OmegaConf.select(node, key) for key in keys)), None))
            for node in nodes
        )
        for name, keys in SHARED.items()
    }
    return ", ".join(f"{name} {' and '.join(found)}" for name, found in values.items())


def summarize(console: Console, record: SweepRecord) -> int:
    """Print a line for each run, how to report them, and how many ended in which way.

    Returns:
        The exit code: 0 if no run failed.
    """
    outcomes, plan = record.outcomes(), record.read_plan()
    for index, run in enumerate(plan.runs):
        said = f"its job ended without a result; see {record.folder}/.submitit"
        lost = OutcomeRow(status="lost", what=run.overrides, said=said, exit_code=1)
        outcomes.setdefault(index, lost)
    console.print()
    for index, one in sorted(outcomes.items()):
        number = f"run {index + 1}".ljust(len(f"run {len(outcomes)}"))
        console.print(f"{one.status:<8}  {number}  {one.what}  {one.said}", **PLAIN)
    counts: dict[str, int] = dict.fromkeys(("finished", "skipped", "failed"), 0)
    for one in outcomes.values():
        counts[one.status] = counts.get(one.status, 0) + 1
    if counts["finished"] or counts["skipped"]:
        command = report_command([run.config for run in plan.runs])
        console.print(f"report the finished runs with: {command}", **PLAIN)
    codes = {one.exit_code for one in outcomes.values()} - {0}
    if codes:
        console.print("run the same command again to run what is missing", **PLAIN)
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{counted(len(outcomes), 'run')}: {listed}", **PLAIN)
    return min(codes, default=0)  # a bug (1) is worse than what a user can fix (2)


def report_command(configs: Sequence[Mapping[str, Any]]) -> str:
    """Return the command that reports the runs of a sweep."""
    output = str(configs[0]["output"])
    # Experiments have names such as `table4/part`, of which the first part is the folder.
    names = {Path(str(config["name"])).parts[0] for config in configs}
    folder = str(Path(output, *names)) if len(names) == 1 else output
    script = Path("scripts", "report.py")
    program = ["python", str(script if script.is_file() else CONF.parent / script)]
    return shlex.join([*(["heterolora-report"] if INSTALLED else program), folder])


def standing(record: SweepRecord) -> Standing:
    """Return where a sweep stands when it is interrupted: which runs stopped, at which step."""
    again = "run the same command again to resume"
    total = len(record.read_plan().runs)
    outcomes = record.outcomes()
    done = sum(one.status in ("finished", "skipped") for one in outcomes.values())
    stopped = {
        index + 1: one.said for index, one in outcomes.items() if one.status == "interrupted"
    }
    if len(stopped) > 1:  # say only once where the states are saved
        stopped = {number: where.partition(";")[0] for number, where in stopped.items()}
        again = f"the state of each is saved in checkpoint/resume in its record; {again}"
    runs = ", ".join(f"run {number} {where}" for number, where in stopped.items())
    return Standing(f"with {done} of {counted(total, 'run')} finished{runs and ', '}{runs}", again)
