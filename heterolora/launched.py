"""Which of several processes this one is, before any of them knows the others."""

import os

STEP_TASKS = "SLURM_STEP_NUM_TASKS"
"""srun sets it, in every task; a batch script or a shell has none."""


def started() -> int:
    """How many processes torchrun or srun started for this command; 0 if neither of them did."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get(STEP_TASKS) or 0)


def first() -> bool:
    """Whether this is the first process that torchrun or srun started, or the only one."""
    task = os.environ.get("SLURM_PROCID") if STEP_TASKS in os.environ else None
    return int(os.environ.get("RANK") or task or 0) == 0
