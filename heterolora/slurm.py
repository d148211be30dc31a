"""What SLURM has of the sweeps of an output folder."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from heterolora.errors import ClusterError

PLAN = "plan.json"
"""In the folder of a sweep: every run's configuration and directory, and which job makes which."""


def live_tasks() -> set[str]:
    """The jobs of this user that wait or run, such as `12`, or `12_0` of an array.

    Raises:
        ClusterError: if SLURM is here and does not answer.
    """
    if shutil.which("squeue") is None:
        return set()
    command = ["squeue", "--me", "--noheader", "--array", "--format=%F_%K"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise ClusterError(f"squeue: does not say what is queued ({said}); try again later")
    return {task.removesuffix("_N/A") for task in done.stdout.split()}


def submitted(sweeps: Path) -> dict[str, str]:
    """For each run directory that a live task is to make, or is making, the task.

    Args:
        sweeps: the folder of all sweeps; submitit leaves the tasks of each in `.submitit`.
    """
    live = live_tasks()
    found = {}
    for file in sweeps.glob(f"*/{PLAN}") if live else ():
        plan = json.loads(file.read_text())
        for task in tasks_of(file.parent) & live:
            for index in plan["jobs"][int(task.partition("_")[2] or 0)]:
                found[plan["runs"][index]["directory"]] = task
    return found


def tasks_of(sweep: Path) -> set[str]:
    """The jobs that a sweep submitted; among them the array itself, which is none."""
    return {folder.name for folder in (sweep / ".submitit").glob("[0-9]*")}


def wait_for(sweep: Path, seconds: float = 5) -> None:
    """Return when no task of the sweep waits or runs any more; asks every few `seconds`."""
    own = tasks_of(sweep)
    while own:
        with contextlib.suppress(ClusterError):  # it answers again some time
            own &= live_tasks()
        time.sleep(seconds)


def cut(indices: Iterable[int], size: int) -> list[list[int]]:
    """Runs of `size` consecutive indices; the last may be shorter."""
    rest = list(indices)
    return [rest[start : start + size] for start in range(0, len(rest), size)]
