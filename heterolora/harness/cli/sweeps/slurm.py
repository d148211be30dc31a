"""What SLURM has queued of the sweeps of an output folder."""

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from heterolora.errors import ClusterError

PLAN = "plan.json"
"""In the folder of a sweep: every run's configuration and directory, the runs of each job, and how
many jobs there are in a batch."""


def live_tasks() -> set[str]:
    """The tasks of this user that are queued or running, such as `12`, or `12_0` of an array.

    Raises:
        ClusterError: if SLURM is here and does not answer.
    """
    if shutil.which("squeue") is None:
        return set()
    command = ["squeue", "--me", "--noheader", "--array", "--format=%F_%K"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise ClusterError(f"squeue failed ({said}); try again later")
    return {task.removesuffix("_N/A") for task in done.stdout.split()}


def submitted(sweeps: Path) -> dict[str, str]:
    """The live task of each run directory that one is making, or has in its queue.

    Args:
        sweeps: the folder of all sweeps; submitit leaves the tasks of each in `.submitit`.
    """
    live = live_tasks()
    found = {}
    for file in sweeps.glob(f"*/{PLAN}") if live else ():
        plan = json.loads(file.read_text())
        for task, job in jobs_of(tasks_of(file.parent), plan["batch"]).items():
            if task in live:
                for index in plan["jobs"][job]:
                    found[plan["runs"][index]["directory"]] = task
    return found


def jobs_of(tasks: Iterable[str], batch: int) -> dict[str, int]:
    """Which job of the plan each task of a sweep is.

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
    """The tasks that a sweep submitted; also the number of each array, which is no task."""
    return {folder.name for folder in (sweep / ".submitit").glob("[0-9]*")}


def wait_for(sweep: Path, seconds: float = 5) -> None:
    """Return when no task of the sweep is queued or running; asks every few `seconds`."""
    own = tasks_of(sweep)
    while own:
        with contextlib.suppress(ClusterError):  # it answers again some time
            own &= live_tasks()
        time.sleep(seconds)


def cut(indices: Iterable[int], size: int) -> list[list[int]]:
    """Groups of `size` consecutive indices; the last may be shorter."""
    rest = list(indices)
    return [rest[start : start + size] for start in range(0, len(rest), size)]
