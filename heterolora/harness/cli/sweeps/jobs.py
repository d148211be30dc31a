"""The jobs of a sweep: each trains its runs, one after another or packed, and notes how they end.

The plan says which runs a job has. A run that fails ends neither its job nor the sweep.
"""

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from heterolora.errors import ConfigError, UserError, one_line
from heterolora.files import as_user_error
from heterolora.harness.cli.run.quiet import quiet_libraries
from heterolora.harness.cli.sweeps.workers import in_workers
from heterolora.harness.config import without
from heterolora.harness.loggers.progress import PLAIN, Screen, duration, own_display
from heterolora.harness.records.schema import Outcome, PlannedRun
from heterolora.harness.records.sweep import SweepRecord
from heterolora.harness.runs.launched import first
from heterolora.training import interrupts
from heterolora.training.signals import Signals, Stopped

if TYPE_CHECKING:
    from heterolora.training.trainer import Steps

OF_EACH_RUN: Mapping[str, Any] = {
    **dict.fromkeys(("seed", "name", "proxy", "strategy", "selection", "rank_budget"), True),
    **dict.fromkeys(("optimizer", "importance", "tracking", "checkpoint", "output"), True),
    **dict.fromkeys(("rerun", "runs_per_job", "table"), True),
    "search_space": dict.fromkeys(("lora_alpha", "shortcut_alpha", "scaling", "pool"), True),
}
"""The keys in which runs of a pack may differ."""


def job(cfg: DictConfig) -> float:
    """Train the runs of one job, one after another.

    Args:
        cfg: what Hydra composed for the job. With the sweeper of this project it says which job of
            the plan this is, and with another, which has no plan, it is the only run of the job.

    Returns:
        The task's first metric at the best epoch of the last run; NaN if that failed.
    """
    hydra = HydraConfig.get()
    record = SweepRecord(Path(hydra.sweep.dir))
    if "job" not in cfg:
        index = hydra.job.num
        overrides = " ".join(hydra.overrides.task)
        planned = PlannedRun(
            overrides=overrides, config={}, directory=None, label=f"run {index + 1}"
        )
        return _train_alone(cfg, record, index, planned)
    plan = record.read_plan()
    metric = float("nan")
    for index in plan.jobs[cfg.job]:
        planned = plan.runs[index]
        metric = _train_alone(config_of(record, index, planned), record, index, planned)
    return metric


def packed_jobs(folder: Path, jobs: Sequence[int], max_packed: int, n_jobs: int) -> None:
    """Train the runs of jobs together, in packs of runs that can share a pass.

    Args:
        folder: the folder of the sweep.
        jobs: indices of jobs in the plan.
        max_packed: how many runs are trained at a time at most.
        n_jobs: in how many processes.

    Raises:
        ConfigError: if there is no plan, or a run that cannot be packed.
    """
    record = SweepRecord(folder)
    if not record.is_planned:
        raise ConfigError(
            ["hydra/launcher=packed: needs this project's sweeper; set hydra/sweeper=grid"]
        )
    plan = record.read_plan()
    for run in plan.runs:
        if (engine := run.config.get("engine", "local")) != "local":
            raise ConfigError(
                [f"engine={engine}: hydra/launcher=packed trains in one process; set engine=local"]
            )
    groups: dict[str, list[int]] = {}
    for index in (index for job in jobs for index in plan.jobs[job]):
        shared = without(plan.runs[index].config, OF_EACH_RUN)
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(index)
    # Neighbors, such as the seeds of an arm, go to different processes: they cost the same.
    packs = [
        {index: plan.runs[index] for index in indices[start::n_jobs]}
        for indices in groups.values()
        for start in range(min(n_jobs, len(indices)))
    ]
    calls = [partial(_train_packed, record, pack, max_packed) for pack in packs]
    if n_jobs > 1:
        in_workers(calls, n_jobs)
    else:
        for call in calls:
            call()


def config_of(record: SweepRecord, index: int, planned: PlannedRun) -> DictConfig:
    """Return the configuration of a planned run, which `rerun` runs again only once a sweep."""
    cfg = OmegaConf.create(planned.config)
    assert isinstance(cfg, DictConfig)
    if cfg.rerun and record.had_begun(index, planned.directory):
        cfg.rerun = False
    return cfg


def _train_alone(cfg: DictConfig, record: SweepRecord, index: int, planned: PlannedRun) -> float:
    """Train one run; return its metric, or NaN if it failed."""
    from heterolora.training.trainer import drive

    interrupts.check()
    return drive(_training(cfg, record, index, planned, Signals()))


def _train_packed(record: SweepRecord, pack: Mapping[int, PlannedRun], max_packed: int) -> None:
    """Train runs together."""
    from heterolora.training.together import Together

    quiet_libraries()
    trainings = [
        partial(_training, config_of(record, index, run), record, index, run)
        for index, run in pack.items()
    ]
    Together(trainings, max_packed).drive()


def _training(
    cfg: DictConfig, record: SweepRecord, index: int, planned: PlannedRun, signals: Signals
) -> "Steps[float]":
    """Train one run, yielding its optimizer steps; note its outcome and print a line about it.

    Returns:
        Its metric; NaN if it failed, or in a process that only follows the first.
    """
    from heterolora.harness.runs.processes import running

    screen, metric = Screen(own_display(), planned.label), float("nan")

    def stopped(status: Literal["failed", "interrupted"], said: str, exit_code: int = 1) -> Outcome:
        return Outcome(status=status, what=planned.overrides, said=said, exit_code=exit_code)

    try:
        result = yield from running(cfg, screen, signals)
        if result is None:
            return metric
    except (UserError, OSError) as problem:
        interrupts.check()
        error = as_user_error(problem)
        outcome = stopped("failed", "; ".join(str(error).splitlines()), error.exit_code)
    except Stopped as error:
        record.write_outcome(index, stopped("failed", one_line(error)))
        raise
    except (KeyboardInterrupt, SystemExit) as stop:
        if first():
            record.write_outcome(index, stopped("interrupted", interrupts.where(stop)))
        raise
    except Exception as error:
        interrupts.check()
        traceback.print_exc()
        outcome = stopped("failed", f"{type(error).__name__}: {one_line(error)}")
    else:
        metric = result.metric
        outcome = Outcome(
            status="skipped" if result.skipped else "finished",
            what=str(result.directory),
            said=result.headline(),
        )
    record.write_outcome(index, outcome)
    line = f"{planned.label} {outcome.status}: {outcome.said}{_progress(record)}"
    screen.console.print(line, **PLAIN)
    return metric


def _progress(record: SweepRecord) -> str:
    """Return how many runs have ended and how long the others will take; empty without a plan."""
    if not record.is_planned:
        return ""
    plan, ended = record.read_plan(), record.outcomes()
    launched = [run for job in plan.jobs for run in job]
    done = sum(index in ended for index in launched)
    elapsed = time.time() - record.planned_at
    left = elapsed / done * (len(launched) - done)
    return (
        f" ({len(ended)} of {len(plan.runs)} runs done, elapsed {duration(elapsed)}, "
        f"left {duration(left)})"
    )
