"""The launcher that trains the runs of a sweep at once, in one process or a few."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from heterolora.cli import slurm
from heterolora.errors import ConfigError

OF_EACH_RUN = {
    *("seed", "name", "proxy", "strategy", "selection", "rank_budget", "optimizer", "importance"),
    *("tracking", "checkpoint", "output", "rerun", "runs_per_job", "table"),
}
"""What the runs of a pack may differ in."""
OF_EACH_SPACE = {"lora_alpha", "shortcut_alpha", "scaling", "pool"}
"""And of a search space."""


class PackedLauncher(Launcher):
    """Trains runs of one model, task and search space together; those that differ, in turn.

    Args:
        max_packed: how many runs are trained at a time at most; as one ends, the next begins.
        n_jobs: processes to which the runs are dealt, each on its share of the cores.
    """

    __module__ = "hydra_plugins.heterolora_packed"  # by which Hydra knows it; see `cli.run.main`

    def __init__(self, max_packed: int, n_jobs: int) -> None:
        self.max_packed = max_packed
        self.n_jobs = n_jobs
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
        from joblib import Parallel, delayed  # takes its time, and --help does without

        from heterolora.training.signals import Signals

        assert self.config is not None
        assert self.hydra_context is not None
        setup_globals()
        first = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(job_overrides[0])
        )
        folder = Path(first.hydra.sweep.dir)
        if not (folder / slurm.PLAN).exists():
            raise ConfigError(
                ["hydra/launcher=packed: needs this project's sweeper; set hydra/sweeper=grid"]
            )
        plan = json.loads((folder / slurm.PLAN).read_text())
        jobs = range(initial_job_idx, initial_job_idx + len(job_overrides))
        groups: dict[str, list[int]] = {}
        for index in (index for job in jobs for index in plan["jobs"][job]):
            groups.setdefault(_shared(plan["runs"][index]["config"]), []).append(index)
        # Neighbours, such as the seeds of an arm, go to different processes: they cost the same.
        packs = [
            indices[start :: self.n_jobs]
            for indices in groups.values()
            for start in range(min(self.n_jobs, len(indices)))
        ]
        train = partial(train_pack, folder, max_packed=self.max_packed)
        if self.n_jobs == 1:
            for pack in packs:
                train(pack)
        else:
            # A signal reaches the workers as well, which save their runs before they end.
            with Signals():
                errors = Parallel(n_jobs=self.n_jobs)(
                    delayed(caught)(train, pack) for pack in packs
                )
            for error in filter(None, errors):
                raise error
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]


def caught(train: Callable[[Sequence[int]], None], pack: Sequence[int]) -> BaseException | None:
    """What training a pack raised: raised in a worker, it would end the other workers at once."""
    try:
        train(pack)
    except BaseException as error:
        return error
    return None


def train_pack(folder: Path, indices: Sequence[int], max_packed: int) -> None:
    """Make runs of a plan that can be packed.

    Args:
        folder: of the sweep.
        indices: the numbers of the runs.
        max_packed: how many are trained at a time at most.
    """
    from heterolora.cli.run import quiet_libraries
    from heterolora.cli.sweep import attempting, prepared
    from heterolora.training.together import Together  # and torch, which --help does without

    quiet_libraries()
    runs = json.loads((folder / slurm.PLAN).read_text())["runs"]
    configs = {index: prepared(runs[index], folder, index) for index in indices}
    Together(
        [
            partial(attempting, configs[index], folder, index, runs[index]["overrides"])
            for index in indices
        ],
        max_packed,
    ).drive()


def _shared(config: Mapping[str, Any]) -> str:
    """What the runs of a pack have in common."""
    kept = {key: value for key, value in config.items() if key not in OF_EACH_RUN}
    space = {k: v for k, v in kept["search_space"].items() if k not in OF_EACH_SPACE}
    return json.dumps({**kept, "search_space": space}, sort_keys=True)
