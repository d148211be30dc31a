"""How this process was started, and which of several it is, before they can communicate."""

import os

from heterolora.errors import UserError, print_errors

STEP_TASKS = "SLURM_STEP_NUM_TASKS"
"""Set by srun in every task, but not in a batch script or a shell."""


def started() -> int:
    """Return how many processes torchrun or srun started for this command; 0 if neither did."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get(STEP_TASKS) or 0)


def first() -> bool:
    """Whether this is the first process that torchrun or srun started, or the only one."""
    task = os.environ.get("SLURM_PROCID") if STEP_TASKS in os.environ else None
    return int(os.environ.get("RANK") or task or 0) == 0


def print_once(error: UserError) -> None:
    """Call `print_errors` in the first process only, for errors that all processes find."""
    if first():
        print_errors(error)
