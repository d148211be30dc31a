"""Sweeps on a SLURM cluster: what may run there, from which source, and what is queued."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from heterolora.errors import ClusterError, ConfigError
from heterolora.harness.paths import INSTALLED
from heterolora.harness.records import code_version as source
from heterolora.harness.records import schema
from heterolora.harness.records.schema import PlannedRun
from heterolora.harness.records.sweep import SweepRecord

LAUNCHER = "SlurmLauncher"
"""The class of the launcher of Hydra's plug-in for submitit."""


def check_runs(runs: Sequence[PlannedRun]) -> None:
    """Check that every run gets the same identity on each node, and that a job can train it.

    Raises:
        ConfigError: if one does not.
    """
    if any(run.config["precision"] == "auto" for run in runs):
        raise ConfigError(
            [
                "precision=auto: would be decided by each node, so finished runs cannot be "
                "recognized here; set precision=bf16 or precision=fp32"
            ]
        )
    for config in (run.config for run in runs):
        if (engine := config.get("engine", "local")) != "local" and config["runs_per_job"] > 1:
            raise ConfigError(
                [
                    f"runs_per_job={config['runs_per_job']}: the processes of engine={engine} "
                    "train only one run per job; set runs_per_job=1"
                ]
            )


def restart_from_copy(output: Path) -> None:
    """Start this process again from a copy of the source, so that jobs run the source as it is now.

    It returns if this process already runs a copy, or an installed package, which nobody edits.

    Args:
        output: the folder of all records, which has the copies.
    """
    if INSTALLED or source.is_copy():
        return
    copy = source.keep(output.absolute() / ".sweeps" / "source")
    paths = [str(copy), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Jobs inherit both, and so import the copy wherever they start.
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    script = [sys.executable, str(copy / "train.py"), *sys.argv[1:]]
    os.execve(sys.executable, script, {**os.environ, **environment})


def live_tasks() -> set[str]:
    """Return the tasks of this user that are queued or running: `12`, or `12_0` of an array.

    Raises:
        ClusterError: if SLURM is here and does not answer.
    """
    if shutil.which("squeue") is None:
        return set()
    command = ["squeue", "--me", "--noheader", "--array", "--format=%F_%K"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise ClusterError(f"squeue failed ({reason}); try again later")
    return {task.removesuffix("_N/A") for task in done.stdout.split()}


def submitted(sweeps: Path) -> dict[str, str]:
    """Return the live task of each run directory that one is training, or has in its queue.

    Args:
        sweeps: the folder of all sweeps.
    """
    live = live_tasks()
    found: dict[str, str] = {}
    for file in sweeps.glob(f"*/{schema.PLAN}") if live else ():
        plan = SweepRecord(file.parent).read_plan()
        for task, job in jobs_of(tasks_of(file.parent), plan.batch).items():
            if task in live:
                directories = (plan.runs[index].directory for index in plan.jobs[job])
                found |= {directory: task for directory in directories if directory is not None}
    return found


def jobs_of(tasks: Iterable[str], batch: int) -> dict[str, int]:
    """Return the index of the job in the plan that each task of a sweep runs.

    Every batch is an array of its own, whose tasks count from 0. The batches were submitted one
    after another, so the numbers of the arrays ascend.

    Args:
        tasks: of one sweep, such as `12_0`, or `13` of a batch of one job.
        batch: how many jobs a batch has.
    """
    split = {task: task.partition("_") for task in tasks}
    arrays = sorted({int(array) for array, _, _ in split.values()})
    return {
        task: arrays.index(int(array)) * batch + int(index or 0)
        for task, (array, _, index) in split.items()
    }


def tasks_of(sweep: Path) -> set[str]:
    """Return the tasks that a sweep submitted, and the number of each array, which is no task.

    submitit makes a folder for each of them in `.submitit`.
    """
    return {folder.name for folder in (sweep / ".submitit").glob("[0-9]*")}


def wait_for(sweep: Path, seconds: float = 5) -> None:
    """Return when no task of a sweep is queued or running, asking SLURM every few `seconds`."""
    tasks = tasks_of(sweep)
    while tasks:
        with suppress(ClusterError):  # it will answer again
            tasks &= live_tasks()
        if tasks:
            time.sleep(seconds)
