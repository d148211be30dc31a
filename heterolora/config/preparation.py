"""From a configuration composed by Hydra to a typed one."""

from collections.abc import Collection
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from heterolora import network
from heterolora.config.schema import Config
from heterolora.config.validation import problems_of_changes, validate
from heterolora.errors import ConfigError, one_line


def prepare(cfg: DictConfig) -> Config:
    """Validate a composed configuration and settle what depends on the machine.

    Raises:
        ConfigError: with all problems.
    """
    # These rules need torch, which readers of records do not.
    from heterolora.config import engine_rules, model_rules, rules, storage_rules
    from heterolora.training.precision import resolve_device, resolve_precision

    asked = (*rules.RULES, *model_rules.RULES, *storage_rules.RULES, *engine_rules.RULES)
    config = validate(_resolved(cfg), asked)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    return config.model_copy(update={"device": str(device), "precision": precision})


ASKED = ("model", "search_space", "proxy")
"""Sections that only the model or the proxy itself can check."""


def changes(cfg: DictConfig, changed: Collection[str]) -> list[str]:
    """Return the problems with the sections `changed` of a configuration that was valid before.

    torch and transformers take seconds to import, so rules that need them are applied only if what
    was changed requires them; `prepare` applies all rules.
    """
    from heterolora.config import rules

    asked = rules.RULES
    if not set(ASKED).isdisjoint(changed):
        from heterolora.config import engine_rules, model_rules, storage_rules

        asked = (*asked, *model_rules.RULES, *storage_rules.RULES, *engine_rules.RULES)
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
