"""From a configuration composed by Hydra to a typed one."""

from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heterolora.errors import ConfigError, one_line
from heterolora.harness import network
from heterolora.harness.config import rules
from heterolora.harness.config.schema import Config
from heterolora.harness.config.validation import problems_of_changes, validate
from heterolora.training.precision import resolve_device, resolve_precision


def prepare(cfg: DictConfig) -> Config:
    """Validate a composed configuration and settle what depends on the machine.

    Raises:
        ConfigError: with all problems.
    """
    config = validate(_resolved(cfg), rules.every())
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    return config.model_copy(update={"device": str(device), "precision": precision})


def check(cfg: DictConfig) -> None:
    """Check all that needs neither torch nor Transformers, which take seconds to import.

    Raises:
        ConfigError: with all problems but those that only the model or the device shows.
    """
    validate(_resolved(cfg), rules.light())


ASKED = ("model", "search_space")
"""Sections that only the model itself can check."""


def changes(cfg: DictConfig, changed: Collection[str]) -> list[str]:
    """Return the problems with the sections `changed` of a configuration that was valid before.

    Rules that consult the model are applied only if what was changed requires them; `prepare`
    applies all rules.
    """
    asked = rules.light() if set(ASKED).isdisjoint(changed) else rules.every()
    return problems_of_changes(_resolved(cfg), asked, changed)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain values, and go offline from here on if it says so.

    Raises:
        ConfigError: if a value cannot be resolved.
    """
    try:
        raw = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        reason = one_line(error).split(" full_key: ")[0].removesuffix(".")
        raise ConfigError(
            [f"{error.full_key}: cannot be resolved ({reason}); set it with {error.full_key}=..."]
        ) from error
    assert isinstance(raw, dict)
    if raw.get("offline") is True:
        network.stay_offline()  # before a rule loads a model
    return {str(key): value for key, value in raw.items()}
