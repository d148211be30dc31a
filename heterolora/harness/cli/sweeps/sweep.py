"""A sweep: plan every run of the grids, launch what is missing, and say how each run ended."""

import json
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from heterolora.errors import ConfigError, RecordError, UserError, one_line, shown
from heterolora.files import remedy
from heterolora.harness.cli.run.grids import combinations, compose_runs
from heterolora.harness.cli.sweeps import slurm
from heterolora.harness.cli.sweeps.summary import show_plan, standing, summarize
from heterolora.harness.loggers.console import headline
from heterolora.harness.loggers.progress import Screen, counted, own_display
from heterolora.harness.records.lock import holder
from heterolora.harness.records.record import check_writable, finished
from heterolora.harness.records.schema import OutcomeRow, Plan, PlannedRun
from heterolora.harness.records.sweep import SweepRecord
from heterolora.harness.runs.signals import Standing, signals

WAITING = Standing(
    "while waiting for SLURM", "submitted jobs continue, and the same command shows their state"
)


@dataclass(frozen=True)
class Sweep:
    """All runs of a command line.

    Attributes:
        config: the configuration of the sweep as a whole, with Hydra's own node.
        loader: Hydra's.
        launcher: runs the jobs.
        max_batch_size: how many jobs are launched at once at most; None for all.
    """

    config: DictConfig
    loader: ConfigLoader
    launcher: Launcher
    max_batch_size: int | None

    def run(self, arguments: Sequence[str]) -> None:
        """Plan, launch, and print a line for each run.

        Args:
            arguments: the overrides of the command line, except those of Hydra itself.

        Raises:
            UserError: if it cannot be planned.
            SystemExit: with the exit code of the worst run, if one failed.
        """
        output, console = Path(self.config.output), own_display().console
        record = SweepRecord(Path(self.config.hydra.sweep.dir).absolute())
        check_writable(output)
        if self._on_cluster:
            slurm.restart_from_copy(output)
        self._check()
        with own_display().live():
            runs = self._runs(arguments)
            plan = self._plan(runs, record)
        show_plan(console, runs, record.outcomes(), runs[0].config["output"])
        launched = self._launch(plan, record)
        code = summarize(console, record) or int(not launched)
        if code:
            raise SystemExit(code)

    @property
    def _on_cluster(self) -> bool:
        return str(self.config.hydra.launcher._target_).endswith(slurm.LAUNCHER)

    def _check(self) -> None:
        """Check the settings that divide runs among jobs.

        Raises:
            ConfigError: with all problems.
        """
        from heterolora.harness.config import changes

        problems = changes(OmegaConf.masked_copy(self.config, "runs_per_job"), ["runs_per_job"])
        size = self.max_batch_size
        if size is not None and (not isinstance(size, int) or size < 1):
            problems.append(
                f"hydra.sweeper.max_batch_size={shown(size)}: must be a whole number greater than "
                "0; for example hydra.sweeper.max_batch_size=1000"
            )
        if problems:
            raise ConfigError(problems)

    def _runs(self, arguments: Sequence[str]) -> list[PlannedRun]:
        """Return all runs; of several that are the same run, the first."""
        overrides = combinations(self.loader, self.config.hydra.sweeper, arguments)
        screen = Screen(own_display())
        planning = f"planning {counted(len(overrides), 'run')}"
        screen.say(f"{planning}; records will be in {self.config.output}")
        screen.doing(planning)
        # Compose all before anything slow: a mistake in the last one should be reported at once.
        configs = list(compose_runs(self.loader, self.config, overrides))
        distinct: dict[str, tuple[Sequence[str], Any, str | None]] = {}
        for given, cfg in zip(overrides, configs, strict=True):
            directory, config = _directory(cfg), OmegaConf.to_container(cfg)
            key = directory or json.dumps(config, sort_keys=True)
            distinct.setdefault(key, (given, config, directory))
        screen.close()
        differs = differing([given for given, _, _ in distinct.values()])
        return [
            PlannedRun(
                overrides=" ".join(given),
                config=config,
                directory=directory,
                label=f"run {index + 1} of {len(distinct)}",
                differs=differs[index],
            )
            for index, (given, config, directory) in enumerate(distinct.values())
        ]

    def _plan(self, runs: list[PlannedRun], record: SweepRecord) -> Plan:
        """Plan the jobs of the runs that are neither finished nor under way, and write the plan."""
        queued = {}
        if self._on_cluster:
            slurm.check_runs(runs)
            queued = slurm.submitted(record.folder.parent)
        known = {index: _known(run, queued) for index, run in enumerate(runs)}
        missing = [index for index, outcome in known.items() if outcome is None]
        jobs = divided(missing, self.config.runs_per_job)
        size = min(self.max_batch_size or len(jobs), len(jobs)) or 1
        plan = Plan(runs=runs, jobs=jobs, batch=size)
        try:
            for index, outcome in known.items():
                if outcome is not None:
                    record.write_outcome(index, outcome)
            record.write_plan(plan)
        except OSError as error:
            raise RecordError(
                f"hydra.sweep.dir={record.folder}: cannot be written ({one_line(error)}); "
                f"{remedy(error)}"
            ) from error
        return plan

    def _launch(self, plan: Plan, record: SweepRecord) -> bool:
        """Launch the jobs, batch after batch; return whether none of them was lost."""
        progress = (
            nullcontext()  # workers write to the terminal themselves
            if getattr(self.launcher, "in_workers", False)
            else own_display().sweep(len(plan.runs), lambda: len(record.outcomes()))
        )
        signals.unwind()
        try:
            with progress:
                batches = divided(range(len(plan.jobs)), plan.batch)
                complete = [self._launch_batch(batch, record.folder) for batch in batches]
        except (KeyboardInterrupt, SystemExit):
            signals.standing = WAITING if self._on_cluster else standing(record)
            raise
        return all(complete)

    def _launch_batch(self, jobs: Sequence[int], folder: Path) -> bool:
        """Launch jobs together, which write the outcomes; return whether none of them was lost."""
        quoted = str(folder).replace("'", r"\'")
        overrides = [[f"+job={index}", f"hydra.sweep.dir='{quoted}'"] for index in jobs]
        try:
            for result in self.launcher.launch(overrides, initial_job_idx=jobs[0]):
                _ = result.return_value  # raises what the job raised
        except Exception:
            # The launcher raises at the first job that the cluster lost; the others go on.
            traceback.print_exc()
            slurm.wait_for(folder)
            return False
        return True


def differing(runs: Sequence[Sequence[str]]) -> list[str]:
    """Return for each run those of its overrides that not all runs have."""
    common = set(runs[0]).intersection(*runs[1:]) if runs else set()
    return [" ".join(one for one in overrides if one not in common) for overrides in runs]


def divided(indices: Sequence[int], size: int) -> list[list[int]]:
    """Return groups of `size` consecutive indices; the last may be smaller."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


def _directory(cfg: DictConfig) -> str | None:
    """Return the directory of a run; None if its configuration is not valid, as the run reports."""
    # Late, for they import torch: the first line of a sweep is printed before.
    from heterolora.harness.config import identity
    from heterolora.harness.runs.outcome import directory_of
    from heterolora.harness.runs.prepare import prepare

    # If the precision is given, the directory does not depend on the device, and the machine that
    # plans need not have it.
    here = cfg if cfg.precision == "auto" else OmegaConf.merge(cfg, {"device": "auto"})
    assert isinstance(here, DictConfig)
    try:
        config = prepare(here)
        return str(directory_of(config, identity(config)))
    except UserError:
        return None


def _known(run: PlannedRun, queued: Mapping[str, str]) -> OutcomeRow | None:
    """Return the outcome of a run that is finished or under way; None if it is to be launched."""
    if run.directory is None:
        return None
    directory = Path(run.directory)
    try:
        result = None if run.config["rerun"] else finished(directory)
    except RecordError:
        result = None  # the run itself reports what is wrong with its record
    if result is not None:
        return OutcomeRow(status="skipped", what=run.directory, said=headline(result))
    if process := holder(directory):
        return OutcomeRow(status="running", what=run.directory, said=process)
    if task := queued.get(run.directory):
        return OutcomeRow(status="queued", what=run.directory, said=f"SLURM job {task}")
    return None
