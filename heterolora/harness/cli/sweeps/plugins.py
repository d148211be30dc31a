"""Hydra's plug-ins of this project: a sweeper and two launchers.

What they need is imported when they are used, since every command line registers them.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from heterolora.errors import ConfigError
from heterolora.harness.runs.launched import started

NAMESPACE = "hydra_plugins.heterolora"
"""Hydra accepts plug-ins only from `hydra_plugins`, and imports them from there by name."""


def register() -> None:
    """Register the plug-ins with Hydra."""
    sys.modules[NAMESPACE] = sys.modules[__name__]
    for plugin in (GridSweeper, JoblibLauncher, PackedLauncher):
        Plugins.instance().register(plugin)


class GridSweeper(Sweeper):
    """Plans the runs of all grids together, and launches those that are missing.

    Args:
        params: parameters of every grid, as for Hydra's own sweeper.
        grids: mappings of parameters to values such as `0,13,42`, swept one after another; None for
            a single grid, that of `params`.
        max_batch_size: how many jobs are launched at once at most; None for all.
    """

    __module__ = NAMESPACE

    def __init__(
        self,
        params: Mapping[str, Any] | None = None,
        grids: Sequence[Mapping[str, Any]] | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        self.params = params
        self.grids = grids
        self.max_batch_size = max_batch_size
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare to `sweep`; Hydra calls it."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Plan, launch, and print a line for each run.

        Args:
            arguments: the overrides of the command line, except those of Hydra itself.

        Raises:
            UserError: if it cannot be planned.
            SystemExit: with the exit code of the worst run, if one failed.
        """
        from heterolora.harness.cli.sweeps.sweep import Sweep

        if (count := started()) > 1:
            raise ConfigError(
                [
                    f"-m: {count} processes were started, but only one may plan a sweep; start "
                    "one process with hydra/launcher=slurm, or remove -m"
                ]
            )
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        loader = self.hydra_context.config_loader
        Sweep(self.config, loader, self.launcher, self.max_batch_size).run(arguments)


class JoblibLauncher(Launcher):
    """Runs jobs in several processes on this machine.

    Unlike Hydra's plug-in of this name it handles signals: jobs under way save their runs, and no
    other job begins.

    Args:
        n_jobs: the number of processes; -1 for one per core.
    """

    __module__ = NAMESPACE

    in_workers = True
    """Whether jobs run in other processes, which write to the same terminal."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare to `launch`; Hydra calls it.

        Raises:
            ConfigError: if a setting is not valid.
        """
        if not isinstance(self.n_jobs, int) or self.n_jobs == 0 or self.n_jobs < -1:
            raise ConfigError(
                [
                    f"hydra.launcher.n_jobs={self.n_jobs}: must be a whole number greater than 0, "
                    "or -1 for one per core; for example hydra.launcher.n_jobs=2"
                ]
            )
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run all jobs, which write the outcomes of their runs."""
        from heterolora.harness.cli.sweeps.workers import in_workers

        setup_globals()
        shared = (self.hydra_context, self.config, self.task_function, Singleton.get_state())
        run = partial(_run_job, *shared)
        jobs = enumerate(job_overrides, start=initial_job_idx)
        return in_workers((partial(run, *job) for job in jobs), self.n_jobs)


def _run_job(
    hydra_context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    singletons: dict[Any, Any],
    index: int,
    overrides: Sequence[str],
) -> JobReturn:
    """Run a job in a process that has not set up Hydra."""
    setup_globals()
    Singleton.set_state(singletons)
    cfg = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = f"{cfg.hydra.job.name}_{index}"
        cfg.hydra.job.num = index
    HydraConfig.instance().set_config(cfg)
    return run_job(
        task_function=task_function,
        config=cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=hydra_context,
    )


class PackedLauncher(Launcher):
    """Trains runs of one model, task and search space together, and other runs after them.

    Args:
        max_packed: how many runs are trained at a time at most; as one ends, the next begins.
        n_jobs: the number of processes that share the runs and the cores.
    """

    __module__ = NAMESPACE

    def __init__(self, max_packed: int, n_jobs: int) -> None:
        self.max_packed = max_packed
        self.n_jobs = n_jobs
        self.in_workers = n_jobs != 1
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare to `launch`; Hydra calls it.

        Raises:
            ConfigError: if a setting is not valid.
        """
        self.hydra_context = hydra_context
        self.config = config
        problems = [
            f"hydra.launcher.{key}={value}: must be a whole number greater than 0; for example "
            f"hydra.launcher.{key}={example}"
            for key, value, example in (
                ("max_packed", self.max_packed, 8),
                ("n_jobs", self.n_jobs, 2),
            )
            if not isinstance(value, int) or value < 1
        ]
        if problems:
            raise ConfigError(problems)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Train the runs of all jobs and write their outcomes."""
        from heterolora.harness.cli.sweeps.jobs import packed_jobs

        assert self.config is not None
        assert self.hydra_context is not None
        setup_globals()
        first = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(job_overrides[0])
        )
        jobs = range(initial_job_idx, initial_job_idx + len(job_overrides))
        packed_jobs(Path(first.hydra.sweep.dir), jobs, self.max_packed, self.n_jobs)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]
