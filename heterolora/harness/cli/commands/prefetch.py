"""Download what a run or sweep needs from the hub, on a machine with a network.

python scripts/prefetch.py +experiment=table4
python scripts/prefetch.py model=minilm task=mrpc,rte seed=0,13,42

It takes the arguments of train.py. Its last line is the command to run then, without network.
Models and datasets go to the caches of the Hugging Face libraries, in HF_HOME.
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from heterolora.errors import ConfigError
from heterolora.harness.cli.commands.arguments import Parser
from heterolora.harness.cli.run.compose import composing
from heterolora.harness.cli.run.grids import combinations, compose_runs
from heterolora.harness.cli.run.quiet import quiet_transformers
from heterolora.harness.config import Config
from heterolora.harness.paths import INSTALLED
from heterolora.harness.runs.prepare import prepare

CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
"""Environment variables that say where the caches are."""


def main(arguments: Sequence[str]) -> None:
    """Download each model and task once, and print where they are."""
    overrides = parse_args(arguments)
    from heterolora.harness.config import checkpoints
    from heterolora.harness.data import sources

    quiet_transformers()
    is_sweep, runs = runs_of(overrides)
    configs = prepare_all(runs)
    models = {run.model.model_dump_json(): run for run in configs}
    tasks = {run.task.model_dump_json(exclude={"max_length"}): run.task for run in configs}
    for run in models.values():
        folder = checkpoints.fetch(run.model, run.task.build())
        report(f"model {run.model.path or run.model.name}", folder)
    for task in tasks.values():
        report(f"task {task.name}", sources.fetch(task))
    print(f"next: {next_command(overrides, is_sweep)}")


def parse_args(arguments: Sequence[str]) -> list[str]:
    """Return the overrides of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted and ignored")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for train.py"
    )
    overrides: list[str] = parser.parse_intermixed_args(arguments).overrides
    return overrides


def runs_of(overrides: list[str]) -> tuple[bool, list[DictConfig]]:
    """Return whether overrides make a sweep, and the configuration of each of its runs."""
    with composing():
        loader = GlobalHydra.instance().config_loader()
        whole = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        sweeper = whole.hydra.sweeper
        each = combinations(loader, sweeper, whole.hydra.overrides.task)
        runs = list(compose_runs(loader, whole, each))
        return bool(sweeper.params or sweeper.grids) or len(runs) > 1, runs


def prepare_all(runs: Sequence[DictConfig]) -> list[Config]:
    """Return the validated configurations, as if the runs were made on this machine.

    Raises:
        ConfigError: with all problems.
    """
    configs: list[Config] = []
    problems: list[str] = []
    for cfg in runs:
        cfg.device, cfg.offline = "auto", False  # the device of the run need not be here
        try:
            configs.append(prepare(cfg))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return configs


def report(what: str, folder: Path | None) -> None:
    """Print where something is now."""
    where = f"revision {folder.name}, in {folder}" if folder else "local, nothing to fetch"
    print(f"{what}: {where}", flush=True)


def next_command(overrides: Sequence[str], is_sweep: bool) -> str:
    """Return the command that now needs no network."""
    caches = [f"{name}={shlex.quote(os.environ[name])}" for name in CACHES if name in os.environ]
    sweeping = ["-m"] if is_sweep else []
    kept = [override for override in overrides if not override.startswith("offline=")]
    program = ["heterolora"] if INSTALLED else ["python", "train.py"]
    train = [*program, *sweeping, *kept, "offline=true"]
    return " ".join([*caches, shlex.join(train)])
