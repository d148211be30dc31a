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
from heterolora.cli.sweep import Row, attempting, prepared
from heterolora.config import without
from heterolora.errors import ConfigError

OF_EACH_RUN: Mapping[str, Any] = {
    **dict.fromkeys(("seed", "name", "proxy", "strategy", "selection", "rank_budget"), True),
    **dict.fromkeys(("optimizer", "importance", "tracking", "checkpoint", "output"), True),
    **dict.fromkeys(("rerun", "runs_per_job", "table"), True),
    "search_space": dict.fromkeys(("lora_alpha", "shortcut_alpha", "scaling", "pool"), True),
}
"""What the runs of a pack may differ in."""


Pack = Mapping[int, Row]
"""What the plan has of runs that are trained together, by their numbers."""


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
            shared = without(plan["runs"][index]["config"], OF_EACH_RUN)
            groups.setdefault(json.dumps(shared, sort_keys=True), []).append(index)
        # Neighbours, such as the seeds of an arm, go to different processes: they cost the same.
        packs = [
            {index: plan["runs"][index] for index in indices[start :: self.n_jobs]}
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


def caught(train: Callable[[Pack], None], pack: Pack) -> BaseException | None:
    """What training a pack raised: raised in a worker, it would end the other workers at once."""
    try:
        train(pack)
    except BaseException as error:
        return error
    return None


def train_pack(folder: Path, pack: Pack, max_packed: int) -> None:
    """Make runs that can be packed.

    Args:
        folder: of the sweep.
        pack: the runs.
        max_packed: how many are trained at a time at most.
    """
    from heterolora.cli.run import quiet_libraries
    from heterolora.training.together import Together  # and torch, which --help does without

    quiet_libraries()
    Together(
        [
            partial(attempting, prepared(run, folder, index), folder, index, run["overrides"])
            for index, run in pack.items()
        ],
        max_packed,
    ).drive()
