"""The command line: `heterolora proxy=gradnorm strategy=dynamic`, or a sweep with `-m`."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from heterolora.errors import ConfigError, UserError
from heterolora.files import as_user_error
from heterolora.harness.cli.run.compose import (
    HYDRA_VERSION,
    check_command_line,
    composition_problems,
    offer_plugins,
    overrides_of,
)
from heterolora.harness.cli.sweeps import plugins
from heterolora.harness.loggers.progress import Screen, own_display
from heterolora.harness.paths import CONF
from heterolora.harness.runs.launched import first, print_once
from heterolora.training import interrupts

SWEEP = ("-m", "--multirun")


def main() -> int:
    """Do what the arguments of the process say; returns the exit code."""
    # Hydra takes no overrides on both sides of an option.
    sys.argv[1:] = sorted(map(at_home, sys.argv[1:]), key=lambda one: one not in SWEEP)
    sys.modules[plugins.NAMESPACE] = plugins
    plugins.register()
    on_hydra = hydra.main(version_base=HYDRA_VERSION, config_path=str(CONF), config_name="config")

    def command() -> None:
        offer_plugins()
        check_command_line(sys.argv[1:])
        if {"--help", "-h"} & {*sys.argv[1:]}:
            help_on(overrides_of(sys.argv[1:]))
        else:
            on_hydra(task)()

    return report_errors(command)


def at_home(argument: str) -> str:
    """An argument in which ~ is the user's home: a shell leaves it alone behind a dotted key."""
    key, equals, value = argument.partition("=")
    return f"{key}={Path(value).expanduser()}" if equals and value.startswith("~/") else argument


def task(cfg: DictConfig) -> float:
    """One run, or one job of a sweep; returns the task's first metric at the best epoch."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from heterolora.harness.cli.sweeps.jobs import job

        quiet_libraries()
        return job(cfg)
    try:
        _check_launcher()
        with own_display().live() if first() else nullcontext():
            return single(cfg)
    except (UserError, OSError) as problem:  # Hydra would print a traceback of it
        interrupts.check()
        error = as_user_error(problem)
        print_once(error)
        raise SystemExit(error.exit_code) from None


def help_on(overrides: list[str]) -> None:
    """Print every group and key."""
    from heterolora.harness.cli.run import help  # and pydantic, which --cfg does without

    help.show(overrides, Console())


class ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what is stderr at the moment: a progress bar has itself told of what is printed."""

    def emit(self, record: logging.LogRecord) -> None:
        """As of any stream."""
        self.stream = sys.stderr
        super().emit(record)


def quiet_libraries() -> None:
    """Warnings of this project are told, a line each; of libraries, errors alone."""
    import transformers  # and torch, which take their time: --help does without

    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[ToStderr()])
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # Only in-place changes of a layer's output would be lost, and no family makes any.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    transformers.logging.disable_progress_bar()


def single(cfg: DictConfig) -> float:
    """One run, with its whole summary.

    Returns:
        The task's first metric at the best epoch; not a number where another process tells of it.

    Raises:
        UserError: for anything that the user can put right.
    """
    from heterolora.harness.config import check  # and pydantic, which --cfg does without

    screen = Screen(own_display())
    if "torch" not in sys.modules:  # importing it takes seconds
        if first():
            screen.say(beginning(cfg))
        check(cfg)
    screen.doing("importing torch and Transformers")
    quiet_libraries()
    from heterolora.harness.runs.processes import running
    from heterolora.training.signals import Signals
    from heterolora.training.trainer import drive

    outcome = drive(running(cfg, screen, Signals()))
    if outcome is None:
        return float("nan")
    outcome.show(screen.console)
    return outcome.metric


def beginning(cfg: DictConfig) -> str:
    """What can be said of a run before torch has been imported: what `auto` stands for cannot."""

    def of(key: str) -> object:
        return OmegaConf.select(cfg, key, default="?", throw_on_missing=False)

    try:
        model = of("model.path") or of("model.name")
        folder = Path(str(of("output")), str(of("name")), str(of("task.name")))
        return (
            f"starting: model {model}, task {of('task.name')}, device {of('device')}, "
            f"precision {of('precision')}; the record will be in {folder}"
        )
    except OmegaConfBaseException:  # which is told with all that is wrong
        return "starting"


def _check_launcher() -> None:
    """Refuse a launcher for what is no sweep: Hydra would run it here, without a word.

    Raises:
        ConfigError: if there is one.
    """
    launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
    if launcher != "basic":
        raise ConfigError(
            [f"hydra/launcher={launcher}: only works for sweeps; add -m, or leave it out"]
        )


def report_errors(command: Callable[[], object]) -> int:
    """Run a command; what a user can put right is a line on stderr and exit code 2."""
    # Hydra prints composition errors over many lines and exits with 1, unless it may raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _as_meant(command)
    except (HydraException, OmegaConfBaseException) as error:
        overrides = [one for one in sys.argv[1:] if "=" in one and not one.startswith("-")]
        print_once(ConfigError(composition_problems(error, overrides)))
        return UserError.exit_code
    except (UserError, OSError) as problem:
        told = as_user_error(problem)
        print_once(told)
        return told.exit_code
    except (KeyboardInterrupt, interrupts.Terminated) as stop:
        interrupts.ignore()
        if first():
            print(interrupts.line(stop), file=sys.stderr)
        return interrupts.exit_code(stop)
    return 0


def _as_meant(command: Callable[[], object]) -> None:
    """Run a command; what a library made of a signal is the signal again."""
    try:
        command()
    except BaseException as problem:
        error = interrupts.meant(problem)
        if error is problem:
            raise
        raise error from None
