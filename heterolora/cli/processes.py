"""Which of several processes this one is, before any of them knows the others."""

import os

from heterolora.errors import UserError, print_errors


def first() -> bool:
    """Whether this is the first process that torchrun or srun started, or the only one."""
    task = os.environ.get("SLURM_PROCID") if "SLURM_STEP_NUM_TASKS" in os.environ else None
    return int(os.environ.get("RANK") or task or 0) == 0


def print_once(error: UserError) -> None:
    """As `print_errors`; what all processes find, the first one says."""
    if first():
        print_errors(error)
