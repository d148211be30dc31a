"""From what Hydra composed to a typed configuration."""

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
        ConfigError: with every problem.
    """
    # Rules ask the model and the machine; who reads records does without torch.
    from heterolora.config import engine_rules, model_rules, rules, storage_rules
    from heterolora.training.precision import resolve_device, resolve_precision

    asked = (*rules.RULES, *model_rules.RULES, *storage_rules.RULES, *engine_rules.RULES)
    config = validate(_resolved(cfg), asked)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    return config.model_copy(update={"device": str(device), "precision": precision})


ASKED = ("model", "search_space", "proxy")
"""Sections that only the model or the proxy itself can judge."""


def changes(cfg: DictConfig, changed: Collection[str]) -> list[str]:
    """What is wrong with the sections `changed` of a configuration that was sound before.

    torch and transformers take seconds to import, so that rules which need them are asked only
    where they are the ones to judge what was changed; `prepare` asks them all.
    """
    from heterolora.config import rules

    asked = rules.RULES
    if not set(ASKED).isdisjoint(changed):
        from heterolora.config import engine_rules, model_rules, storage_rules

        asked = (*asked, *model_rules.RULES, *storage_rules.RULES, *engine_rules.RULES)
    return problems_of_changes(_resolved(cfg), asked, changed)


def _resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values; whether it is offline holds from here on.

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
        network.stay_offline()  # before a rule asks for a model
    return {str(key): value for key, value in raw.items()}
