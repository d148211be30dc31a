"""Download what a run or sweep needs from the hub, on a machine with a network.

python scripts/prefetch.py +experiment=table4
python scripts/prefetch.py model=minilm task=mrpc,rte seed=0,13,42

It takes the arguments of train.py. Its last line is the command to run then, without network.
Models and datasets go to the caches of the Hugging Face libraries, in HF_HOME.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from heterolora.errors import ConfigError
from heterolora.harness.cli.run.compose import composing
from heterolora.harness.cli.run.single import report_errors
from heterolora.harness.cli.sweeps.sweep import composed, swept
from heterolora.harness.config import Config
from heterolora.harness.paths import INSTALLED
from heterolora.harness.runs.prepare import prepare

CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
"""The variables of the environment that say where the caches are."""


def main() -> None:
    """Fetch each model and task once, and print where they are."""
    overrides = parsed(sys.argv[1:])
    import transformers  # which takes longer to import than it takes to print the help

    from heterolora.harness.config import checkpoints
    from heterolora.harness.data import sources

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    is_sweep, runs = runs_of(overrides)
    configs = prepared(runs)
    models = {run.model.model_dump_json(): run for run in configs}
    tasks = {run.task.model_dump_json(exclude={"max_length"}): run.task for run in configs}
    for run in models.values():
        folder = checkpoints.fetch(run.model, run.task.build())
        say(f"model {run.model.path or run.model.name}", folder)
    for task in tasks.values():
        say(f"task {task.name}", sources.fetch(task))
    print(f"next: {following(overrides, is_sweep)}")


def parsed(arguments: Sequence[str]) -> list[str]:
    """The overrides of the command line."""
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=summary, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-m", "--multirun", action="store_true", help="accepted and ignored")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for train.py"
    )
    overrides: list[str] = parser.parse_intermixed_args(arguments).overrides
    return overrides


def runs_of(overrides: list[str]) -> tuple[bool, list[DictConfig]]:
    """Whether the overrides make a sweep, and the configurations of its runs, or of the one run."""
    with composing():
        hydra, loader = GlobalHydra.instance().hydra, GlobalHydra.instance().config_loader()
        assert hydra is not None
        whole = hydra.compose_config("config", overrides, RunMode.MULTIRUN)
        sweeper = whole.hydra.sweeper
        combinations = swept(loader, sweeper, whole.hydra.overrides.task)
        runs = [cfg for _, cfg in composed(loader, whole, combinations)]
        return bool(sweeper.params or sweeper.grids) or len(runs) > 1, runs


def prepared(runs: Sequence[DictConfig]) -> list[Config]:
    """The validated configurations, as if they ran here and now.

    Raises:
        ConfigError: with every problem of any of them.
    """
    configs: list[Config] = []
    problems: list[str] = []
    for cfg in runs:
        cfg.device, cfg.offline = "auto", False  # what the run computes on need not be here
        try:
            configs.append(prepare(cfg))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return configs


def say(what: str, folder: Path | None) -> None:
    """Print that something is here now, and where."""
    where = f"revision {folder.name}, in {folder}" if folder else "local, nothing to fetch"
    print(f"{what}: {where}", flush=True)


def following(overrides: Sequence[str], swept: bool) -> str:
    """The command that then needs no network."""
    caches = [f"{name}={shlex.quote(os.environ[name])}" for name in CACHES if name in os.environ]
    sweeping = ["-m"] if swept else []
    kept = [override for override in overrides if not override.startswith("offline=")]
    program = ["heterolora"] if INSTALLED else ["python", "train.py"]
    train = [*program, *sweeping, *kept, "offline=true"]
    return " ".join([*caches, shlex.join(train)])


def run() -> None:
    """Entry point of the script and of `heterolora-prefetch`."""
    sys.exit(report_errors(main))
