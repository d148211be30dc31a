"""The command line: what Hydra composes is run, alone or as a job of a sweep."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from heterolora import slurm
from heterolora.config import suggestion
from heterolora.errors import ConfigError, UserError, one_line, print_errors
from heterolora.experiment import prepare, run
from heterolora.sweep import Sweep, job, tell

CONF = Path(__file__).parents[1] / "conf"
HYDRA_VERSION = "1.3"


def main(cfg: DictConfig) -> float:
    """One run, or one job of a sweep; returns the task's first metric at the best epoch."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return job(cfg) if HydraConfig.get().mode == RunMode.MULTIRUN else _single(cfg)


def _single(cfg: DictConfig) -> float:
    console = Console()
    try:
        outcome = run(cfg, console)
    except UserError as error:  # past Hydra, which would print a traceback
        print_errors(error)
        raise SystemExit(error.exit_code) from None
    outcome.show(console)
    return outcome.metric


def door(main_function: Callable[[], object]) -> int:
    """Run Hydra's main function; what a user can put right is a line on stderr and exit code 2."""
    # Hydra prints composition errors over many lines and exits with 1, unless it may raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    Sweep.folder = None
    try:
        main_function()
    except (HydraException, OmegaConfBaseException) as error:
        print_errors(ConfigError(_composition_problems(error, sys.argv[1:])))
        return UserError.exit_code
    except UserError as error:
        print_errors(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        # A job that the cluster lost: the launcher raises at the first of them.
        if Sweep.folder is None:
            raise
        traceback.print_exc()
        slurm.wait_for(Sweep.folder)
        return tell(Sweep.folder) or 1
    return 0


def _composition_problems(error: Exception, arguments: Sequence[str]) -> list[str]:
    """Every problem of the command line: of each override alone, then of the rest together."""
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    GlobalHydra.instance().clear()
    problems: list[str] = []
    sound: list[str] = []
    with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
        for override in overrides:
            try:
                compose("config", [override])
                sound.append(override)
            except (HydraException, OmegaConfBaseException) as problem:
                if "--multirun" not in str(problem):
                    problems.append(_override_problem(override, problem))
        try:
            prepare(compose("config", sound))
        except (ConfigError, HydraException, OmegaConfBaseException) as problem:
            problems += problem.problems if isinstance(problem, ConfigError) else []
    return problems or [one_line(error)]


def _override_problem(override: str, problem: Exception) -> str:
    key, _, value = override.partition("=")
    key = key.lstrip("+~")
    files = (file.relative_to(CONF / key) for file in (CONF / key).rglob("*.yaml"))
    options = [str(file.with_suffix("")) for file in files if file.parts[0] != "base"]
    if options and value not in options:
        return f"{key}={value}: there is no such {key}; {suggestion(value, options)}"
    if "Could not override" in str(problem):
        known = _dotted(OmegaConf.to_container(compose("config")))
        return f"{key}: unknown key; {suggestion(key, known)}"
    return f"{override}: {one_line(problem)[:200]}"


def _dotted(node: Any, prefix: str = "") -> list[str]:
    """Every key of nested dictionaries, as `group.key`."""
    if not isinstance(node, dict):
        return []
    keys = [f"{prefix}{key}" for key in node]
    return keys + [k for key, value in node.items() for k in _dotted(value, f"{prefix}{key}.")]
