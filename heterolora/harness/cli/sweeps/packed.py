"""Training the runs of a sweep at once, in one process or a few."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from heterolora.errors import ConfigError
from heterolora.harness.cli.sweeps import slurm
from heterolora.harness.cli.sweeps.jobs import Row, attempting, prepared
from heterolora.harness.cli.sweeps.workers import in_workers
from heterolora.harness.config import without

OF_EACH_RUN: Mapping[str, Any] = {
    **dict.fromkeys(("seed", "name", "proxy", "strategy", "selection", "rank_budget"), True),
    **dict.fromkeys(("optimizer", "importance", "tracking", "checkpoint", "output"), True),
    **dict.fromkeys(("rerun", "runs_per_job", "table"), True),
    "search_space": dict.fromkeys(("lora_alpha", "shortcut_alpha", "scaling", "pool"), True),
}
"""What the runs of a pack may differ in."""


Pack = Mapping[int, Row]
"""What the plan has of runs that are trained together, by their numbers."""


def launch(config: DictConfig, jobs: Sequence[int], max_packed: int, n_jobs: int) -> None:
    """Make the runs of jobs.

    Args:
        config: of the first job, Hydra's own node included.
        jobs: their numbers in the plan of the sweep.
        max_packed: how many runs are trained at a time at most.
        n_jobs: processes to which the runs are dealt.

    Raises:
        ConfigError: if there is no plan.
    """
    setup_globals()
    folder = Path(config.hydra.sweep.dir)
    if not (folder / slurm.PLAN).exists():
        raise ConfigError(
            ["hydra/launcher=packed: needs this project's sweeper; set hydra/sweeper=grid"]
        )
    plan = json.loads((folder / slurm.PLAN).read_text())
    for run in plan["runs"]:
        if (engine := run["config"].get("engine", "local")) != "local":
            raise ConfigError(
                [f"engine={engine}: hydra/launcher=packed trains in one process; set engine=local"]
            )
    groups: dict[str, list[int]] = {}
    for index in (index for job in jobs for index in plan["jobs"][job]):
        shared = without(plan["runs"][index]["config"], OF_EACH_RUN)
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(index)
    # Neighbors, such as the seeds of an arm, go to different processes: they cost the same.
    packs = [
        {index: plan["runs"][index] for index in indices[start::n_jobs]}
        for indices in groups.values()
        for start in range(min(n_jobs, len(indices)))
    ]
    train = partial(train_pack, folder, max_packed=max_packed)
    if n_jobs == 1:
        for pack in packs:
            train(pack)
        return
    in_workers((partial(train, pack) for pack in packs), n_jobs)


def train_pack(folder: Path, pack: Pack, max_packed: int) -> None:
    """Make runs that can be packed.

    Args:
        folder: of the sweep.
        pack: the runs.
        max_packed: how many are trained at a time at most.
    """
    from heterolora.harness.cli.run.single import quiet_libraries
    from heterolora.training.together import Together  # and torch, which --help does without

    quiet_libraries()
    Together(
        [
            partial(attempting, prepared(run, folder, index), folder, index, run)
            for index, run in pack.items()
        ],
        max_packed,
    ).drive()
