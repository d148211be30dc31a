"""The command `heterolora run`: Hydra composes the configuration, then one run or a sweep."""

import sys
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from heterolora.errors import UserError
from heterolora.files import as_user_error
from heterolora.harness.cli.commands import COMMANDS
from heterolora.harness.cli.run.compose import HYDRA_VERSION, offer_plugins
from heterolora.harness.cli.run.errors import report_errors
from heterolora.harness.cli.run.overrides import check_command_line, overrides_of
from heterolora.harness.cli.run.quiet import quiet_libraries
from heterolora.harness.cli.run.single import check_no_launcher, single
from heterolora.harness.cli.sweeps import plugins
from heterolora.harness.loggers.progress import own_display
from heterolora.harness.paths import CONF
from heterolora.harness.runs.launched import first, print_once
from heterolora.harness.runs.signals import signals

MULTIRUN = ("-m", "--multirun")


def main() -> int:
    """Run what the arguments of the process ask for; return the exit code."""
    # Hydra does not accept overrides on both sides of an option.
    sys.argv[1:] = sorted(map(expand_home, sys.argv[1:]), key=lambda one: one not in MULTIRUN)
    plugins.register()
    run_hydra = hydra.main(version_base=HYDRA_VERSION, config_path=str(CONF), config_name="config")

    def command() -> None:
        offer_plugins()
        check_command_line(sys.argv[1:])
        if {"--help", "-h"} & {*sys.argv[1:]}:
            show_help(overrides_of(sys.argv[1:]))
        else:
            run_hydra(task)()

    return report_errors(command)


def expand_home(argument: str) -> str:
    """Return an argument with `~/` expanded, which a shell does not do after a dotted key."""
    key, equals, value = argument.partition("=")
    return f"{key}={Path(value).expanduser()}" if equals and value.startswith("~/") else argument


def task(cfg: DictConfig) -> float:
    """Train a run, or all runs of a job of a sweep, as Hydra's task function.

    Returns:
        The task's first metric at the best epoch.
    """
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from heterolora.harness.cli.sweeps.jobs import job

        quiet_libraries()
        return job(cfg)
    try:
        check_no_launcher()
        with own_display().live() if first() else nullcontext():
            return single(cfg)
    except (UserError, OSError) as problem:  # Hydra would print a traceback of it
        signals.check()
        error = as_user_error(problem)
        print_once(error)
        raise SystemExit(error.exit_code) from None


def show_help(overrides: list[str]) -> None:
    """Print the help, with the values that some overrides give."""
    from rich.console import Console

    from heterolora.harness.cli.run import help  # late, for it imports pydantic

    help.show(overrides, Console(), COMMANDS)
