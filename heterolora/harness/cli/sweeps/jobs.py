"""The jobs of a sweep: each trains its runs, one after another or packed, and notes how they end.

The plan says which runs a job has. A run that fails ends neither its job nor the sweep.
"""

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from heterolora.errors import ConfigError, UserError, one_line
from heterolora.files import as_user_error
from heterolora.harness.cli.run.quiet import quiet_libraries
from heterolora.harness.cli.sweeps.workers import in_workers
from heterolora.harness.config import Config, without
from heterolora.harness.loggers.progress import PLAIN, Screen, duration, own_display
from heterolora.harness.records.schema import OutcomeRow, PlannedRun
from heterolora.harness.records.sweep import SweepRecord
from heterolora.harness.runs.launched import first
from heterolora.harness.runs.signals import Stopped, signals

if TYPE_CHECKING:
    from heterolora.harness.runs.execute import Run
    from heterolora.harness.runs.outcome import Outcome
    from heterolora.harness.runs.packs import Pause, Training

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
    """Return the configuration of a planned run; `rerun` is off once the sweep has begun it."""
    cfg = OmegaConf.create(planned.config)
    assert isinstance(cfg, DictConfig)
    if cfg.rerun and record.had_begun(index, planned.directory):
        cfg.rerun = False
    return cfg


def _train_alone(cfg: DictConfig, record: SweepRecord, index: int, planned: PlannedRun) -> float:
    """Train one run; return its metric, or NaN if it failed."""
    from heterolora.harness.runs import processes

    signals.check()
    attempt = Attempt(record, index, planned)
    with attempt.noted():
        attempt.outcome = processes.run(cfg, attempt.screen)
    return float("nan") if attempt.outcome is None else attempt.outcome.metric


def _train_packed(record: SweepRecord, runs: Mapping[int, PlannedRun], max_packed: int) -> None:
    """Train runs together."""
    from heterolora.harness.runs.packs import Pack
    from heterolora.harness.runs.prepare import prepare
    from heterolora.settings import torch
    from heterolora.training.precision import reproducible

    quiet_libraries()
    attempts = {index: Attempt(record, index, run) for index, run in runs.items()}
    configs: dict[int, Config] = {}
    for index, attempt in attempts.items():
        with attempt.noted():
            configs[index] = prepare(config_of(record, index, runs[index]))

    def open_training(index: int, contexts: ExitStack, pause: "Pause") -> "Training":
        attempt = attempts[index]
        contexts.enter_context(attempt.noted())
        return contexts.enter_context(attempt.opened(configs[index], pause))

    if configs:
        shared = next(iter(configs.values()))  # all have the same device and number formats
        with reproducible(shared.training.tf32, torch.device(shared.device)):
            Pack([partial(open_training, index) for index in configs], max_packed).train()


class Attempt:
    """A run of a sweep that is being trained.

    Attributes:
        screen: where its progress is shown.
        outcome: how it ended; None until it has finished, if it failed, and in a process that only
            follows the first.
    """

    def __init__(self, record: SweepRecord, index: int, planned: PlannedRun) -> None:
        self.screen = Screen(own_display(), planned.label)
        self.outcome: Outcome | None = None
        self._record = record
        self._index = index
        self._planned = planned

    @contextmanager
    def opened(self, config: Config, pause: "Pause") -> "Iterator[Run]":
        """Open the run, to be trained with others; set its outcome when it is closed."""
        from heterolora.harness.runs.execute import open_run

        with closing(self.screen):
            with open_run(config, self.screen, pause) as run:
                yield run
            self.outcome = run.outcome()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Record and print how the run inside the context ended.

        An error of the run goes no further: it does not end the sweep.
        """
        try:
            yield
        except (UserError, OSError) as problem:
            signals.check()
            error = as_user_error(problem)
            row = self._row("failed", "; ".join(str(error).splitlines()), error.exit_code)
        except Stopped as error:
            self._record.write_outcome(self._index, self._row("failed", one_line(error)))
            raise
        except (KeyboardInterrupt, SystemExit):
            if first():
                where = signals.standing.where or "before the first step"
                self._record.write_outcome(self._index, self._row("interrupted", where))
            raise
        except Exception as error:
            signals.check()
            traceback.print_exc()
            row = self._row("failed", f"{type(error).__name__}: {one_line(error)}")
        else:
            if self.outcome is None:
                return  # the first of several processes notes it
            row = OutcomeRow(
                status="skipped" if self.outcome.skipped else "finished",
                what=str(self.outcome.directory),
                said=self.outcome.headline(),
            )
        self._record.write_outcome(self._index, row)
        line = f"{self._planned.label} {row.status}: {row.said}{_progress(self._record)}"
        self.screen.console.print(line, **PLAIN)

    def _row(
        self, status: Literal["failed", "interrupted"], said: str, exit_code: int = 1
    ) -> OutcomeRow:
        what = self._planned.overrides
        return OutcomeRow(status=status, what=what, said=said, exit_code=exit_code)


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
