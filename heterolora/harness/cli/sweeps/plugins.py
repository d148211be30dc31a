"""The plug-ins by which Hydra makes sweeps; what they do is imported when they do it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from heterolora.errors import ConfigError
from heterolora.harness.runs.launched import started

NAMESPACE = "hydra_plugins.heterolora"
"""Hydra takes plug-ins from `hydra_plugins` alone, and finds them there by name."""


def register() -> None:
    """Have Hydra know them. The one named joblib takes the place of that of Hydra's own plug-in."""
    for plugin in (GridSweeper, JoblibLauncher, PackedLauncher):
        Plugins.instance().register(plugin)
    node = {"_target_": f"{NAMESPACE}.{JoblibLauncher.__name__}", "n_jobs": -1}
    ConfigStore.instance().store(group="hydra/launcher", name="joblib", node=node)


class GridSweeper(Sweeper):
    """Hydra's sweeper for this project: one plan for all grids, of the runs that are missing.

    Args:
        params: parameters of every grid, as Hydra's own sweeper has them.
        grids: mappings of parameters to values such as `0,13,42`, swept one after another.
            Without them there is one grid, that of `params`.
        max_batch_size: launch so many jobs at once at most, the next when they have ended.
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
        """Called by Hydra before `sweep`."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Plan, launch, and print a line for each run.

        Args:
            arguments: the overrides of the command line, but for those of Hydra itself.

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
        Sweep(self.config, loader, self.launcher, self.max_batch_size).make(arguments)


class JoblibLauncher(Launcher):
    """Makes jobs in several processes of this machine, as Hydra's plug-in of this name does.

    A signal lets the jobs that are under way save their runs, and no other begins.

    Args:
        n_jobs: processes; -1 for as many as there are cores.
    """

    __module__ = NAMESPACE

    in_workers = True
    """Whether the jobs are made in other processes that write to the same terminal."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before `launch`."""
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
        """Make all jobs; how the runs of each ended, they note themselves."""
        from hydra_plugins.hydra_joblib_launcher._core import execute_job

        from heterolora.harness.cli.sweeps.workers import in_workers

        setup_globals()
        given = (self.hydra_context, self.config, self.task_function, Singleton.get_state())
        jobs = enumerate(job_overrides, start=initial_job_idx)
        calls = (partial(execute_job, index, overrides, *given) for index, overrides in jobs)
        made: list[JobReturn] = in_workers(calls, self.n_jobs)
        return made


class PackedLauncher(Launcher):
    """Trains runs of one model, task and search space together; those that differ, in turn.

    Args:
        max_packed: how many runs are trained at a time at most; as one ends, the next begins.
        n_jobs: processes to which the runs are dealt, each on its share of the cores.
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
        """Called by Hydra before `launch`."""
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
        """Make the runs of all jobs; how each ended, it notes itself."""
        from heterolora.harness.cli.sweeps import packed

        assert self.config is not None
        assert self.hydra_context is not None
        jobs = range(initial_job_idx, initial_job_idx + len(job_overrides))
        first = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(job_overrides[0])
        )
        packed.launch(first, jobs, self.max_packed, self.n_jobs)
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]
