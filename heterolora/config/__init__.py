"""The configuration of a run: its schema, the rules across its sections, its identity."""

from heterolora.config.identity import NOT_IN_IDENTITY, identity, without
from heterolora.config.preparation import prepare
from heterolora.config.schema import (
    CheckpointConfig,
    Config,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    PluginConfig,
    PositiveInt,
    ProxyConfig,
    RankBudgetConfig,
    SearchSpaceConfig,
    SelectionConfig,
    StrategyConfig,
    TaskConfig,
    TrackingConfig,
    TrainingConfig,
)
from heterolora.config.validation import Rule, suggestion, validate

__all__ = [
    "NOT_IN_IDENTITY",
    "CheckpointConfig",
    "Config",
    "EvaluationConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PluginConfig",
    "PositiveInt",
    "ProxyConfig",
    "RankBudgetConfig",
    "Rule",
    "SearchSpaceConfig",
    "SelectionConfig",
    "StrategyConfig",
    "TaskConfig",
    "TrackingConfig",
    "TrainingConfig",
    "identity",
    "prepare",
    "suggestion",
    "validate",
    "without",
]
