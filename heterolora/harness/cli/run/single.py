"""One run, from its composed configuration to its summary."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError
from heterolora.harness.cli.run.quiet import quiet_libraries
from heterolora.harness.loggers.progress import Screen, own_display
from heterolora.harness.runs.launched import first


def single(cfg: DictConfig) -> float:
    """Train one run and print its summary.

    Returns:
        The task's first metric at the best epoch; NaN in a process that only follows the first.

    Raises:
        UserError: for anything that the user can fix.
    """
    from heterolora.harness.config import check  # late, for it imports pydantic

    screen = Screen(own_display())
    if "torch" not in sys.modules:  # importing it takes seconds
        if first():
            screen.say(first_line(cfg))
        check(cfg)
    screen.doing("importing torch and Transformers")
    quiet_libraries()
    from heterolora.harness.runs import processes

    outcome = processes.run(cfg, screen)
    if outcome is None:
        return float("nan")
    outcome.show(screen.console)
    return outcome.metric


def first_line(cfg: DictConfig) -> str:
    """Return what is known of a run before torch is imported; `auto` stays, as torch decides it."""

    def select(key: str) -> object:
        return OmegaConf.select(cfg, key, default="?", throw_on_missing=False)

    try:
        model = select("model.path") or select("model.name")
        folder = Path(str(select("output")), str(select("name")), str(select("task.name")))
        return (
            f"starting: model {model}, task {select('task.name')}, device {select('device')}, "
            f"precision {select('precision')}; the record will be in {folder}"
        )
    except OmegaConfBaseException:  # `check` reports it together with all other problems
        return "starting"


def check_no_launcher() -> None:
    """Check that no launcher is chosen for a single run: Hydra would silently not use it.

    Raises:
        ConfigError: if there is one.
    """
    launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
    if launcher != "basic":
        raise ConfigError(
            [f"hydra/launcher={launcher}: only works for sweeps; add -m, or leave it out"]
        )
