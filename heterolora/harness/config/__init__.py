"""The configuration of a run: its schema, the rules across its sections, and its identity."""

from heterolora.harness.config.identity import NOT_IN_IDENTITY, identity, without
from heterolora.harness.config.resolve import changes, check, prepare
from heterolora.harness.config.schema import (
    Config,
    MethodConfig,
    ModelConfig,
    PluginConfig,
    ProxyConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    SelectionConfig,
    StrategyConfig,
    TaskConfig,
)
from heterolora.harness.config.validation import Rule, suggestion, validate

__all__ = [
    "NOT_IN_IDENTITY",
    "Config",
    "MethodConfig",
    "ModelConfig",
    "PluginConfig",
    "ProxyConfig",
    "RankBudgetConfig",
    "Rule",
    "SearchSpaceConfig",
    "SelectionConfig",
    "StrategyConfig",
    "TaskConfig",
    "changes",
    "check",
    "identity",
    "prepare",
    "suggestion",
    "validate",
    "without",
]
